"""FGVC-Aircraft: 100 variants of aircraft, the first 50 of variants.txt train, the others test.

Its own train, val and test lists are pooled. The lowest 20 pixels of every photograph are a banner
with its copyright, which is cut off; with data.box_crop the boxes of images_box.txt are shown.
"""

from pathlib import Path
from typing import Any

from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import common
from lafg_jax.data.readers.common import Image, Published
from lafg_jax.utils.errors import UserError

PUBLISHED = Published(50, 5_000), Published(50, 5_000)
WITHOUT_BANNER: tuple[float, ...] = (0.0, 0.0, 0.0, -20.0)


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The two halves of the native folder, by the order of variants.txt.

  Raises:
    UserError: what is missing or wrong, in one line.
  """
  root = common.root_folder(data)
  # The archive is fgvc-aircraft-2013b/data/, and people point at any of the three.
  for above in (".", "data", "fgvc-aircraft-2013b/data"):
    if (root / above / "variants.txt").is_file():
      root = root / above
      break
  else:
    common.require_file(root / "data" / "variants.txt", data)
  rows = common.read_rows(root / "variants.txt", data, 1)
  # A variant is its own key: 'F/A-18' is a name here, never a folder.
  names = [name for (name,) in rows]
  common.check_names(root / "variants.txt", dict(enumerate(names, 1)))
  images = common.present(root, _listed(root, set(names), data), data)
  boxes = {image.path: WITHOUT_BANNER for image in images}
  if data.box_crop:
    boxes = _boxes(root / "images_box.txt", data)
  middle = len(names) // 2
  train, test = (
    common.half("aircraft", split, root, images, {name: name for name in part}, boxes=boxes)
    for split, part in (("train", names[:middle]), ("test", names[middle:]))
  )
  return common.check_counts(data, "FGVC-Aircraft", (train, test), PUBLISHED)


def _listed(root: Path, names: set[str], data: Any) -> list[Image]:
  images = []
  for split in ("train", "val", "test"):
    path = root / f"images_variant_{split}.txt"
    for key, name in common.read_rows(path, data, 2):
      if name not in names:
        raise UserError(f"{path}: image {key} is a '{name}', which variants.txt has not")
      images.append(Image(f"images/{key}.jpg", name))
  return images


def _boxes(path: Path, data: Any) -> dict[str, tuple[float, ...]]:
  """{path: left, top, right, bottom} of lines 'id xmin ymin xmax ymax', both ends inside."""
  boxes: dict[str, tuple[float, ...]] = {}
  for key, fields in common.by_id(path, data, 5).items():
    left, top, right, bottom = common.box(path, f"image {key}", fields)
    # Pixels count from 1 there.
    boxes[f"images/{key}.jpg"] = (left - 1, top - 1, right, bottom)
  return boxes
