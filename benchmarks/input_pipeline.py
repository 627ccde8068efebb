"""Images a second and core of this project's input pipeline, beside a PyTorch DataLoader's.

  python benchmarks/input_pipeline.py [--folder DIR] [--rounds 7] [--images 256]

500 x 375 JPEGs become training batches of 224 px. The other side is what Hyp-ViT's users run:
torchvision's RandomResizedCrop (or Resize and RandomCrop), RandomHorizontalFlip, ToTensor and
Normalize on Pillow images. They are written out here, operation by operation, since torchvision has
no build beside every CPU build of PyTorch; its own work (random numbers, float32, normalisation and
collation) is part of the time, as it is of the training loop's. Here normalisation is the device's.

Loaders take turns, so that a busy machine slows all of them alike; each turn starts with batches
that are not counted. A figure is images by seconds of processor time, of all processes of the
loader, which is images a second of a core of one's own. Files come from the system's cache.
"""

import argparse
import functools
import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from lafg_jax.data import pipeline
from lafg_jax.data.datasets import Dataset
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.tasks.class_retrieval.batches import plan

SIZE, RESIZE, BATCH, CLASSES = 224, 256, 64, 16
BICUBIC = Image.Resampling.BICUBIC


def photograph(seed: int, width: int = 500, height: int = 375) -> Image.Image:
  """Smooth colours at three scales, ellipses with edges, and the noise of a sensor."""
  rng = np.random.default_rng(seed)
  pixels = np.full((height, width, 3), 120.0)
  for cells, strength in ((8, 60), (32, 30), (128, 18)):
    grey = rng.normal(size=(cells * height // width + 2, cells, 1))
    noise = (0.7 * grey + 0.5 * rng.normal(size=(*grey.shape[:2], 3))).astype(np.float32)
    for colour in range(3):
      plane = Image.fromarray(noise[..., colour]).resize((width, height), BICUBIC)
      pixels[..., colour] += strength * np.asarray(plane)
  y, x = np.mgrid[:height, :width]
  for _ in range(12):
    across, down = rng.uniform(0, width), rng.uniform(0, height)
    inside = ((x - across) / rng.uniform(10, 120)) ** 2 + (
      (y - down) / rng.uniform(10, 90)
    ) ** 2 < 1
    pixels[inside] += rng.normal(0, 40, 3)
  pixels += rng.normal(0, 3, (height, width, 1))
  return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_photographs(folder: Path, count: int) -> list[str]:
  """JPEGs of quality 90; those that are there are kept."""
  paths = [folder / f"{k:04d}.jpg" for k in range(count)]
  for k, path in enumerate(paths):
    if not path.exists():
      photograph(k).save(path, quality=90)
  return [str(path) for path in paths]


class Photographs(torch.utils.data.Dataset):
  """Files with torchvision's transforms on Pillow images."""

  def __init__(self, paths: list[str], crop: str) -> None:
    self.paths, self.crop = paths, crop

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
    with open(self.paths[row], "rb") as file:
      img = Image.open(file).convert("RGB")
    img = random_resized_crop(img) if self.crop == "random_resized" else resize_random_crop(img)
    if torch.rand(1) < 0.5:
      img = img.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalised(img), row % CLASSES


def random_resized_crop(img: Image.Image) -> Image.Image:
  width, height = img.size
  log_ratio = torch.log(torch.tensor((3 / 4, 4 / 3)))
  for _ in range(10):
    area = width * height * torch.empty(1).uniform_(0.2, 1.0).item()
    aspect = torch.exp(torch.empty(1).uniform_(log_ratio[0].item(), log_ratio[1].item())).item()
    w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    if 0 < w <= width and 0 < h <= height:
      top = torch.randint(0, height - h + 1, size=(1,)).item()
      left = torch.randint(0, width - w + 1, size=(1,)).item()
      break
  else:
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
  return img.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), BICUBIC)


def resize_random_crop(img: Image.Image) -> Image.Image:
  short = min(img.size)
  img = img.resize((RESIZE * img.width // short, RESIZE * img.height // short), BICUBIC)
  top = torch.randint(0, img.height - SIZE + 1, size=(1,)).item()
  left = torch.randint(0, img.width - SIZE + 1, size=(1,)).item()
  return img.crop((left, top, left + SIZE, top + SIZE))


def normalised(img: Image.Image) -> torch.Tensor:
  pixels = torch.from_numpy(np.array(img, np.uint8, copy=True)).view(img.height, img.width, 3)
  pixels = pixels.permute((2, 0, 1)).contiguous().to(torch.float32).div(255)
  pixels = pixels.clone()
  mean = torch.as_tensor((0.5, 0.5, 0.5)).view(-1, 1, 1)
  std = torch.as_tensor((0.5, 0.5, 0.5)).view(-1, 1, 1)
  return pixels.sub_(mean).div_(std)


def torch_batches(paths: list[str], crop: str, workers: int, batches: int) -> Iterator:
  rng = np.random.default_rng(0)
  rows = [rng.permutation(len(paths))[:BATCH].tolist() for _ in range(batches)]
  loader = torch.utils.data.DataLoader(
    Photographs(paths, crop), batch_sampler=rows, num_workers=workers
  )
  return iter(loader)


def our_batches(
  paths: list[str], crop: str, workers: int, batches: int, *, cores: int, **changes: str
) -> Iterator:
  data = default.get_config().data
  data.train_crop, data.num_workers = crop, workers
  data.classes_per_batch, data.images_per_class = CLASSES, BATCH // CLASSES
  # As many batches at once as there are cores: one thread where there is one.
  data.prefetch = max(cores, 2 * workers)
  data.update(changes)
  labels = np.arange(len(paths), dtype=np.int32) % CLASSES
  names = tuple(str(k) for k in range(CLASSES))
  dataset = Dataset("photographs", "train", np.array(paths), labels, names, tuple(paths))
  return pipeline.train_batches(
    dataset, data, plan(dataset, data, 0), seed=0, start_step=0, num_steps=batches
  )


def cpu_seconds() -> float:
  """Processor time of this process and of its children so far."""
  process = psutil.Process()
  total = 0.0
  for each in (process, *process.children(recursive=True)):
    times = each.cpu_times()
    total += times.user + times.system
  return total


def measure(make: Callable[[int], Iterator], warm: int, counted: int) -> tuple[float, float]:
  """Images by seconds of processor time, and by seconds of the clock."""
  # Enough behind the last one that nobody runs dry while it is counted.
  batches = make(warm + counted + 16)
  for _ in range(warm):
    next(batches)
  cpu, wall = cpu_seconds(), time.perf_counter()
  for _ in range(counted):
    next(batches)
  cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
  if hasattr(batches, "close"):
    batches.close()
  return counted * BATCH / cpu, counted * BATCH / wall


def compare(
  loaders: dict[str, Callable[[int], Iterator]], rounds: int, counted: int, workers: int
) -> dict[str, list[tuple[float, float]]]:
  figures: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
  for _ in range(rounds):
    for name, make in loaders.items():
      figures[name].append(measure(make, 1 + 2 * workers, counted))
  return figures


def rows_of(title: str, figures: dict[str, list[tuple[float, float]]], cores: int) -> Iterator[str]:
  """Medians, with the range, and the median of the ratios round by round."""
  base = [cpu for cpu, _ in figures["PyTorch DataLoader"]]
  for name, values in figures.items():
    cpu, wall = ([value[k] for value in values] for k in (0, 1))
    ratios = [a / b for a, b in zip(cpu, base, strict=True)]
    yield (
      f"| {title} | {name} | {statistics.median(cpu):.0f} ({min(cpu):.0f} to {max(cpu):.0f}) | "
      f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
      f"{statistics.median(wall):.0f} on {cores} |"
    )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--folder", help="for the photographs and packs; kept (default: temporary)")
  parser.add_argument("--images", type=int, default=256, help="photographs")
  parser.add_argument("--rounds", type=int, default=7, help="turns of each loader")
  parser.add_argument("--batches", type=int, default=8, help="counted batches of a turn")
  parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="worker processes")
  options = parser.parse_args()
  torch.set_num_threads(1)
  libraries = ("torch", "pillow", "grain", "numpy")
  print(platform.platform(), f"Python {platform.python_version()},", end=" ")
  print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries), flush=True)
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(options.folder or temporary)
    folder.mkdir(parents=True, exist_ok=True)
    run(write_photographs(folder, options.images), str(folder / "packs"), options)


def run(paths: list[str], packs: str, options: argparse.Namespace) -> None:
  allowed = sorted(os.sched_getaffinity(0))
  print("| crop, workers | loader | images/s per core | x PyTorch | images/s on cores |")
  print("|---|---|---|---|---|")
  for workers in options.workers:
    # One core for one process; workers share as many as there are of them.
    cpus = allowed[: max(1, workers)]
    os.sched_setaffinity(0, cpus)
    for crop in ("random_resized", "resize_crop"):
      ours = functools.partial(our_batches, paths, crop, workers, cores=len(cpus))
      loaders = {
        "PyTorch DataLoader": functools.partial(torch_batches, paths, crop, workers),
        "lafg_jax": ours,
        "lafg_jax, packed": functools.partial(ours, pack=packs),
      }
      figures = compare(loaders, options.rounds, options.batches, workers)
      for line in rows_of(f"{crop}, {workers}", figures, len(cpus)):
        print(line, flush=True)
  os.sched_setaffinity(0, allowed)


if __name__ == "__main__":
  main()
