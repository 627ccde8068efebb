"""Cars-196 (Stanford Cars): classes 1-98 train, 99-196 test; both of its own splits pooled."""

from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import common
from lafg_jax.data.readers.common import Image, Published
from lafg_jax.errors import UserError

CLASSES, TRAIN_CLASSES = 196, 98
PUBLISHED = Published(98, 8_054), Published(98, 8_131)


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The training and the test half of the original devkit layout.

  Raises:
    UserError: what is missing or wrong, in one line.
  """
  root = common.root_folder(data)
  names = _names(data, root / "devkit" / "cars_meta.mat")
  images = _annotations(data, root / "devkit" / "cars_train_annos.mat", "cars_train")
  labelled = _labelled_test(root)
  if labelled:
    images += _annotations(data, labelled, "cars_test")
  images = common.present(root, images, data)
  ids = range(1, CLASSES + 1)
  halves = tuple(
    common.half("cars", split, root, images, {k: names[k - 1] for k in part})
    for split, part in (("train", ids[:TRAIN_CLASSES]), ("test", ids[TRAIN_CLASSES:]))
  )
  mend = "complete the copy"
  if labelled is None:
    mend = f"put the labelled test annotations at {root}/devkit/cars_test_annos_withlabels.mat"
  return common.check_counts(data, "Cars-196", (halves[0], halves[1]), PUBLISHED, mend)


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
  if len(set(names)) != CLASSES:
    raise UserError(f"{path} has {len(set(names))} class names, not the {CLASSES} of Cars-196")
  return names


def _annotations(data: Any, path: Path, folder: str) -> list[Image]:
  """Every annotated image of one .mat file, by class id from 1."""
  table = common.read_mat(path, data, "annotations").ravel()
  fields = table.dtype.names or ()
  if "class" not in fields or "fname" not in fields:
    raise UserError(f"{path} is not a labelled annotation file: no 'class' and 'fname' in it")
  try:
    ids = [int(np.asarray(value).item()) for value in table["class"]]
    files = [f"{folder}/{np.asarray(value).item()}" for value in table["fname"]]
  except ValueError as error:
    raise UserError(f"{path}: an annotation without one class and one file name") from error
  for file, class_id in zip(files, ids, strict=True):
    if not 1 <= class_id <= CLASSES:
      raise UserError(f"{path}: {file} has class {class_id}, not one of 1-{CLASSES}")
  return [Image(file, class_id) for file, class_id in zip(files, ids, strict=True)]
