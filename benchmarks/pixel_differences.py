"""How much scaled decoding and packs change what a training batch shows.

  python benchmarks/pixel_differences.py [--folder DIR] [--size 224]

Crops of the same random numbers, of 255: the mean and the largest absolute difference over all
pixels, beside the whole decoding of the same files. DIR holds JPEGs (default: photographs that
are drawn, 500 x 375 for packs, 1600 x 1200 for scaled decoding).
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from input_pipeline import photograph

from lafg_jax.data import decoders, images


def difference(
  paths: Iterable[Path],
  crop: Callable[[Any, np.random.Generator], np.ndarray],
  source: Callable[[Path], Any],
) -> str:
  """Mean and largest difference between crops of `source` and of the whole image."""
  total, count, largest = 0.0, 0, 0
  for k, path in enumerate(paths):
    got = crop(source(path), np.random.default_rng(k)).astype(int)
    apart = np.abs(got - crop(images.open_image(path), np.random.default_rng(k)))
    total, count, largest = total + apart.sum(), count + apart.size, max(largest, apart.max())
  return f"{total / count:.3f} | {largest}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--folder", type=Path, help="JPEGs")
  parser.add_argument("--size", type=int, default=224, help="side of a crop")
  parser.add_argument("--images", type=int, default=64, help="of the folder, or drawn")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    if options.folder:
      files = sorted(options.folder.glob("*.jp*g"))[: options.images]
      report(files, files, options.size)
    else:
      report(
        drawn(Path(temporary, "small"), options.images, 500, 375),
        drawn(Path(temporary, "large"), options.images // 4, 1600, 1200),
        options.size,
      )


def drawn(folder: Path, count: int, width: int, height: int) -> list[Path]:
  folder.mkdir()
  for k in range(count):
    photograph(k, width, height).save(folder / f"{k}.jpg", quality=90)
  return sorted(folder.iterdir())


def report(files: list[Path], large: list[Path], size: int) -> None:
  resize = size * 8 // 7

  def random_resized(img: Any, rng: np.random.Generator) -> np.ndarray:
    return images.random_resized_crop(img, rng, size)

  def resize_crop(img: Any, rng: np.random.Generator) -> np.ndarray:
    return images.resize_random_crop(img, rng, resize, size)

  def packed(side: int) -> Callable[[Path], images.Shrunk]:
    def shrunk(path: Path) -> images.Shrunk:
      img = images.open_image(path)
      return images.Shrunk(images.resize_shorter(img, side), img.width, img.height)

    return shrunk

  scaled = decoders.opener(scaled=True)
  print("| beside the whole decoding | crop | mean | largest |\n|---|---|---|---|")
  for title, name, crop, source, paths in (
    ("scaled decoding", "random_resized", random_resized, scaled, large),
    ("scaled decoding", "resize_crop", resize_crop, scaled, large),
    ("packed", "resize_crop", resize_crop, packed(resize), files),
    ("packed", "random_resized", random_resized, packed(resize * 5 // 4), files),
  ):
    print(f"| {title} | {name} | {difference(paths, crop, source)} |", flush=True)


if __name__ == "__main__":
  main()
