"""FGVC-Aircraft: 100 variants of aircraft, the first 50 of variants.txt train, the others test.

Its train, val and test lists are pooled. The lowest 20 pixels of every photograph, a banner with
its copyright, are cut off. With data.box_crop the boxes of images_box.txt are shown.
"""

from pathlib import Path
from typing import Any

from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import common
from lafg_jax.data.readers.common import Image, Published
from lafg_jax.utils.errors import UserError

PUBLISHED = Published(50, 5_000), Published(50, 5_000)
WITHOUT_BANNER: common.Box = (0.0, 0.0, 0.0, -20.0)


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The two halves of the native folder, by the order of variants.txt."""
  root = common.root_folder(data)
  # The archive is fgvc-aircraft-2013b/data/: data.root may be any of the three folders.
  for above in (".", "data", "fgvc-aircraft-2013b/data"):
    if (root / above / "variants.txt").is_file():
      root = root / above
      break
  else:
    common.require_file(root / "data" / "variants.txt", data)
  rows = common.read_rows(root / "variants.txt", data, 1)
  names = [name for (name,) in rows]
  common.check_names(root / "variants.txt", dict(enumerate(names, 1)))
  images = common.present(root, _listed(root, set(names), data), data)
  boxes = {image.path: WITHOUT_BANNER for image in images}
  if data.box_crop:
    path = root / "images_box.txt"
    boxes = {
      f"images/{key}.jpg": common.box(path, f"image {key}", corners, first=1)
      for key, corners in common.by_id(path, data, 5).items()
    }
  classes, train = {name: name for name in names}, names[: len(names) // 2]
  halves = common.halves("aircraft", root, images, classes, train, boxes)
  return common.check_counts(data, "FGVC-Aircraft", halves, PUBLISHED)


def _listed(root: Path, names: set[str], data: Any) -> list[Image]:
  images = []
  for split in ("train", "val", "test"):
    path = root / f"images_variant_{split}.txt"
    for key, name in common.read_rows(path, data, 2):
      if name not in names:
        raise UserError(f"{path}: image {key} is a '{name}', which variants.txt has not")
      images.append(Image(f"images/{key}.jpg", name))
  return images
