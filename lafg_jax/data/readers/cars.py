"""Cars-196 (Stanford Cars): classes 1-98 train, 99-196 test; its own two splits are pooled.

Three layouts are read: the original devkit, a folder for each class (as on Kaggle), and the Parquet
copy of Hugging Face. The last two name classes without numbers: their order does not matter.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data import listing, parquet
from lafg_jax.data.datasets import Dataset, of_classes
from lafg_jax.data.readers import common
from lafg_jax.data.readers.common import Image, Published
from lafg_jax.utils.errors import UserError

CLASSES, TRAIN_CLASSES = 196, 98
PUBLISHED = Published(98, 8_054), Published(98, 8_131)
# The class names in their official order, that of devkit/cars_meta.mat.
NAMES = tuple(json.loads(Path(__file__).with_name("cars_names.json").read_text(encoding="utf-8")))
_TRAIN = range(1, TRAIN_CLASSES + 1)
_SUFFIXES = (".jpg", ".jpeg", ".png")


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The training and the test half, of the layout that is found in data.root."""
  root = common.root_folder(data)
  if (root / "devkit").is_dir():
    return _devkit(root, data)
  layouts: list[tuple[Any, Path]] = [
    (_folders, root / inner)
    for inner in (".", "car_data", "car_data/car_data")
    if (root / inner / "train").is_dir() and (root / inner / "test").is_dir()
  ]
  layouts += [
    (_parquet, root / inner)
    for inner in ("data", ".")
    if any((root / inner).glob("train-*.parquet"))
  ]
  if layouts and data.box_crop:
    raise UserError(
      "--config.data.box_crop=True: of the layouts of Cars-196 only the original devkit has boxes"
    )
  if layouts:
    read_layout, folder = layouts[0]
    return common.check_counts(data, "Cars-196", read_layout(folder), PUBLISHED)
  raise UserError(
    f"data.root={root} has none of the layouts of Cars-196: the original devkit (devkit/ with the "
    ".mat files, cars_train/, cars_test/), a folder a class (train/CLASS/ and test/CLASS/, as on "
    "Kaggle), or Hugging Face's Parquet files (data/train-*.parquet, data/test-*.parquet); "
    "tensorflow-datasets cannot download Cars-196: its source has been dead for years"
  )


def _folders(root: Path) -> tuple[Dataset, Dataset]:
  """train/CLASS/*.jpg and test/CLASS/*.jpg."""
  images = []
  for split in ("train", "test"):
    for folder in listing.of(root / split).folders:
      key = _class_id(folder, root / split / folder)
      images += [
        Image(f"{split}/{folder}/{name}", key)
        for name in listing.of(root / split / folder).images
        if os.path.splitext(name)[1].lower() in _SUFFIXES
      ]
  return common.halves("cars", root, images, dict(enumerate(NAMES, 1)), _TRAIN)


def _parquet(folder: Path) -> tuple[Dataset, Dataset]:
  """Rows of train-*.parquet and then of test-*.parquet."""
  files = [*sorted(folder.glob("train-*.parquet")), *sorted(folder.glob("test-*.parquet"))]
  images, numbers, names = parquet.read(files)
  keys = [_class_id(name, files[0]) for name in names]
  common.check_names(files[0], {k: NAMES[key - 1] for k, key in enumerate(keys)})
  labels = np.array(keys)[numbers] - 1
  digits = len(str(len(labels)))
  whole = Dataset(
    name="cars",
    split="train",
    images=images,
    labels=labels.astype(np.int32),
    class_names=NAMES,
    ids=tuple(f"parquet/{row:0{digits}d}" for row in range(len(labels))),
    version=" ".join(f"{path.name}:{path.stat().st_size}" for path in files),
  )
  there = np.unique(labels)
  train, test = there[there < TRAIN_CLASSES], there[there >= TRAIN_CLASSES]
  return (
    of_classes(whole, "train", [NAMES[k] for k in train]),
    of_classes(whole, "test", [NAMES[k] for k in test]),
  )


def _class_id(name: str, where: Path) -> int:
  """Class id of a name, from 1; the name of a folder has '-' in place of '/'."""
  key = _ID_OF.get(_words(name))
  if key is None:
    raise UserError(f"{where}: '{name}' is no class of Cars-196")
  return key


def _words(name: str) -> tuple[str, ...]:
  return tuple(re.findall(r"[a-z0-9]+", name.lower()))


_ID_OF = {_words(name): k for k, name in enumerate(NAMES, 1)}


def _devkit(root: Path, data: Any) -> tuple[Dataset, Dataset]:
  names = _names(data, root / "devkit" / "cars_meta.mat")
  boxes: dict[str, common.Box] | None = {} if data.box_crop else None
  images = _annotations(data, root / "devkit" / "cars_train_annos.mat", "cars_train", boxes)
  labelled = _labelled_test(root)
  if labelled:
    images += _annotations(data, labelled, "cars_test", boxes)
  images = common.present(root, images, data)
  classes = dict(enumerate(names, 1))
  halves = common.halves("cars", root, images, classes, _TRAIN, boxes)
  mend = "complete the copy"
  if labelled is None:
    mend = f"put the labelled test annotations at {root}/devkit/cars_test_annos_withlabels.mat"
  return common.check_counts(data, "Cars-196", halves, PUBLISHED, mend)


def _labelled_test(root: Path) -> Path | None:
  for folder in (root / "devkit", root):
    path = folder / "cars_test_annos_withlabels.mat"
    if path.is_file():
      return path
  if (root / "cars_test").is_dir():
    logging.warning(
      "%s is not used: its labels, devkit/cars_test_annos_withlabels.mat, are missing",
      root / "cars_test",
    )
  return None


def _names(data: Any, path: Path) -> list[str]:
  cells = common.read_mat(path, data, "class_names").ravel()
  names = [str(np.squeeze(cell)) for cell in cells]
  common.check_names(path, dict(enumerate(names, 1)))
  if len(names) != CLASSES:
    raise UserError(f"{path} has {len(names)} class names, not the {CLASSES} of Cars-196")
  return names


def _annotations(
  data: Any, path: Path, folder: str, boxes: dict[str, common.Box] | None
) -> list[Image]:
  """The annotated images of one .mat file, with class ids from 1; adds to `boxes` where given."""
  table = common.read_mat(path, data, "annotations").ravel()
  fields = table.dtype.names or ()
  if "class" not in fields or "fname" not in fields:
    raise UserError(f"{path} is not a labelled annotation file: no 'class' and 'fname' in it")
  try:
    ids = [int(np.asarray(value).item()) for value in table["class"]]
    files = [f"{folder}/{np.asarray(value).item()}" for value in table["fname"]]
    if boxes is not None:
      columns = [table[f"bbox_{side}"] for side in ("x1", "y1", "x2", "y2")]
      for file, *corners in zip(files, *columns, strict=True):
        numbers = [str(np.asarray(value).item()) for value in corners]
        boxes[file] = common.box(path, file, numbers, first=1)
  except ValueError as error:
    raise UserError(
      f"{path}: an annotation without one class, one file name or a whole box"
    ) from error
  for file, class_id in zip(files, ids, strict=True):
    if not 1 <= class_id <= CLASSES:
      raise UserError(f"{path}: {file} has class {class_id}, not one of 1-{CLASSES}")
  return [Image(file, class_id) for file, class_id in zip(files, ids, strict=True)]
