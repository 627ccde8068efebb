"""Readers of the supported data sets: a config section in, `Dataset`s of class-disjoint splits out.

Nothing is decoded here: images are paths, or arrays where a data set is drawn in memory.
"""

import dataclasses
import difflib
import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.errors import UserError

SPLITS = ("train", "val", "test")

# Cars-196: classes 1-98 train, 99-196 test; the images of both of the data set's own splits pooled.
CARS_CLASSES = 196
CARS_TRAIN_CLASSES = 98
CARS_TRAIN_IMAGES = 8_054
CARS_TEST_IMAGES = 8_131
_CARS_LAYOUT = "--config.data.root=FOLDER with devkit/ and cars_train/"


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The images of one split, with labels and class names; see the fields."""

  name: str  # 'cars' or 'synthetic'
  split: str  # 'train', 'val' or 'test'
  images: np.ndarray  # [n] paths (str), or uint8 [n, H, W, 3]
  labels: np.ndarray  # [n] int32, index into class_names
  class_names: tuple[str, ...]  # [C], of this split only
  ids: tuple[str, ...]  # [n] names of the images: paths below data.root, or 'synthetic/...'
  partial: bool = False  # the counts are not the published ones

  def __len__(self) -> int:
    return len(self.labels)


def class_splits(data: Any) -> dict[str, tuple[str, ...]]:
  """The class names of each split, in label order, without decoding or rendering an image.

  Args:
    data: the section `config.data`; reads name, root, expect_counts and num_val_classes.

  Returns:
    {'train': names, 'val': names, 'test': names}; 'val' only where data.num_val_classes > 0.

  Raises:
    UserError: what is missing or wrong, in one line.
  """
  if _reader(data) == "cars":
    train, test = (half.names for half in _read_cars(data))
  else:
    from lafg_jax.data import synthetic

    train, test = synthetic.class_names("seen"), synthetic.class_names("unseen")
  return _with_val(train, test, data.num_val_classes)


def load_splits(data: Any, splits: Sequence[str] = SPLITS) -> dict[str, Dataset]:
  """Loads the splits asked for; 'val' is left out where data.num_val_classes is 0.

  Validation classes are whole classes taken out of the training half, evenly spaced over it.

  Args:
    data: the section `config.data`; reads name, root, expect_counts and num_val_classes.
    splits: any of 'train', 'val' and 'test'.

  Raises:
    UserError: what is missing or wrong, in one line.
  """
  for split in splits:
    if split not in SPLITS:
      raise UserError(f"unknown split '{split}': choose from {', '.join(SPLITS)}")
  if _reader(data) == "synthetic":
    names = class_splits(data)
    return {split: _synthetic_dataset(split, names[split]) for split in splits if split in names}
  train, test = _read_cars(data)
  names = _with_val(train.names, test.names, data.num_val_classes)
  return {
    split: _cars_dataset(test if split == "test" else train, split, names[split], data.root)
    for split in splits
    if split in names
  }


def content_fingerprint(data: Any, split: str) -> str:
  """Changes when images of a split come, go, or change in size; decodes and renders nothing."""
  if _reader(data) == "synthetic":
    # Rendered from the class names alone, by code that a test holds frozen.
    return hashlib.sha256("\0".join(class_splits(data)[split]).encode()).hexdigest()[:12]
  dataset = load_splits(data, (split,))[split]
  sizes = [os.path.getsize(path) for path in dataset.images]
  return fingerprint(dataset) + hashlib.sha256(repr(sizes).encode()).hexdigest()[:12]


def fingerprint(dataset: Dataset) -> str:
  """12 hex digits that change when the images' names, their order, labels or classes change."""
  digest = hashlib.sha256()
  for part in (dataset.class_names, dataset.ids):
    digest.update("\0".join(part).encode() + b"\1")
  digest.update(np.ascontiguousarray(dataset.labels, dtype="<i4").tobytes())
  return digest.hexdigest()[:12]


def _reader(data: Any) -> str:
  known = ("cars", "synthetic")
  if data.name in known:
    return data.name
  near = difflib.get_close_matches(str(data.name), known, n=1, cutoff=0.4)
  hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(known)}"
  raise UserError(f"data.name='{data.name}' is not a known data set: {hint}")


def _with_val(
  train: tuple[str, ...], test: tuple[str, ...], num_val: int
) -> dict[str, tuple[str, ...]]:
  if num_val == 0:
    return {"train": train, "test": test}
  if num_val < 0 or num_val >= len(train) - 1:
    raise UserError(
      f"data.num_val_classes={num_val}: must be from 0 to {max(0, len(train) - 2)}: it is taken "
      f"out of {len(train)} training classes, of which two must remain"
    )
  # The middles of num_val equal stretches of the class list.
  taken = {(2 * k + 1) * len(train) // (2 * num_val) for k in range(num_val)}
  val = tuple(name for k, name in enumerate(train) if k in taken)
  rest = tuple(name for k, name in enumerate(train) if k not in taken)
  return {"train": rest, "val": val, "test": test}


# --- synthetic ---


def _synthetic_dataset(split: str, class_names: tuple[str, ...]) -> Dataset:
  from lafg_jax.data import synthetic

  images, labels, ids = synthetic.images(class_names)
  return Dataset("synthetic", split, images, labels.astype(np.int32), class_names, tuple(ids))


# --- Stanford Cars ---


@dataclasses.dataclass(frozen=True)
class _CarsHalf:
  files: list[tuple[str, str]]  # (path below the root, class name)
  names: tuple[str, ...]  # of the classes that have images, by class id
  partial: bool


def _read_cars(data: Any) -> tuple[_CarsHalf, _CarsHalf]:
  """The training and the test half, after the checks of files and counts."""
  if not data.root:
    raise UserError(f"data.root is not set: pass {_CARS_LAYOUT}")
  root = Path(data.root)
  if not root.is_dir():
    raise UserError(f"data.root={root} is not a folder: pass {_CARS_LAYOUT}")
  names = _cars_names(root / "devkit" / "cars_meta.mat")
  annotated = _cars_annotations(root, "cars_train", root / "devkit" / "cars_train_annos.mat")
  labelled = _cars_labelled_test(root)
  if labelled:
    annotated += _cars_annotations(root, "cars_test", labelled)
  annotated = _present(root, annotated, data.expect_counts)

  halves = []
  for ids, published in (
    (range(1, CARS_TRAIN_CLASSES + 1), CARS_TRAIN_IMAGES),
    (range(CARS_TRAIN_CLASSES + 1, CARS_CLASSES + 1), CARS_TEST_IMAGES),
  ):
    files = [(path, names[class_id - 1]) for path, class_id in annotated if class_id in ids]
    used = {name for _, name in files}
    half_names = tuple(names[class_id - 1] for class_id in ids if names[class_id - 1] in used)
    halves.append(_CarsHalf(files, half_names, partial=len(files) != published))
  partial = any(half.partial for half in halves)
  if data.expect_counts:
    _check_cars_counts(root, halves[0], halves[1], labelled)
  # A figure is comparable only where both halves are whole: one trains, the other is searched.
  halves = [dataclasses.replace(half, partial=partial) for half in halves]
  if not halves[0].files:
    raise UserError(f"{root} has no image of classes 1-{CARS_TRAIN_CLASSES}: pass {_CARS_LAYOUT}")
  return halves[0], halves[1]


def _cars_labelled_test(root: Path) -> Path | None:
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


def _cars_names(path: Path) -> list[str]:
  cells = _read_mat(path, "class_names").ravel()
  names = [str(np.squeeze(cell)) for cell in cells]
  if len(set(names)) != CARS_CLASSES:
    raise UserError(f"{path} has {len(set(names))} class names, not the {CARS_CLASSES} of Cars-196")
  return names


def _cars_annotations(root: Path, folder: str, path: Path) -> list[tuple[str, int]]:
  """(path below the root, class id from 1) of every annotated image of one .mat file."""
  table = _read_mat(path, "annotations").ravel()
  fields = table.dtype.names or ()
  if "class" not in fields or "fname" not in fields:
    raise UserError(f"{path} is not a labelled annotation file: no 'class' and 'fname' in it")
  try:
    ids = [int(np.asarray(value).item()) for value in table["class"]]
    files = [f"{folder}/{np.asarray(value).item()}" for value in table["fname"]]
  except ValueError as error:
    raise UserError(f"{path}: an annotation without one class and one file name") from error
  for file, class_id in zip(files, ids, strict=True):
    if not 1 <= class_id <= CARS_CLASSES:
      raise UserError(f"{path}: {file} has class {class_id}, not one of 1-{CARS_CLASSES}")
  return list(zip(files, ids, strict=True))


def _present(
  root: Path, annotated: list[tuple[str, int]], expect_all: bool
) -> list[tuple[str, int]]:
  """Leaves out annotated images that are not on disk; an error where all are expected."""
  folders = {os.path.dirname(path) for path, _ in annotated}
  on_disk = {
    f"{folder}/{file}"
    for folder in folders
    if (root / folder).is_dir()
    for file in os.listdir(root / folder)
  }
  missing = [path for path, _ in annotated if path not in on_disk]
  if missing and expect_all:
    raise UserError(
      f"{root / missing[0]} is annotated but missing ({len(missing):,} images in all): "
      "complete the copy, or pass --config.data.expect_counts=False to leave them out"
    )
  if missing:
    logging.warning("%s: %d annotated images are not on disk: left out", root, len(missing))
  return [entry for entry in annotated if entry[0] in on_disk]


def _check_cars_counts(
  root: Path, train: _CarsHalf, test: _CarsHalf, labelled: Path | None
) -> None:
  if not (train.partial or test.partial):
    return
  mend = "complete the copy"
  if labelled is None:
    mend = f"put the labelled test annotations at {root}/devkit/cars_test_annos_withlabels.mat"
  raise UserError(
    f"{root} has {len(train.files):,} train and {len(test.files):,} test images, not Cars-196's "
    f"{CARS_TRAIN_IMAGES:,} and {CARS_TEST_IMAGES:,}: {mend}, or pass "
    "--config.data.expect_counts=False for a partial copy"
  )


def _cars_dataset(half: _CarsHalf, split: str, class_names: tuple[str, ...], root: str) -> Dataset:
  position = {name: k for k, name in enumerate(class_names)}
  files = [(path, position[name]) for path, name in half.files if name in position]
  ids = tuple(path for path, _ in files)
  return Dataset(
    name="cars",
    split=split,
    images=np.array([os.path.join(root, path) for path in ids], dtype=np.str_),
    labels=np.array([label for _, label in files], dtype=np.int32),
    class_names=class_names,
    ids=ids,
    partial=half.partial,
  )


def _read_mat(path: Path, key: str) -> np.ndarray:
  """One variable of a MATLAB file."""
  from scipy.io import loadmat
  from scipy.io.matlab import MatReadError

  if not path.is_file():
    raise UserError(f"{path} is missing: pass {_CARS_LAYOUT}")
  # NotImplementedError is scipy's word for the HDF5 layout of MATLAB 7.3.
  unreadable = (OSError, ValueError, TypeError, NotImplementedError, IndexError, KeyError)
  try:
    content = loadmat(path, appendmat=False, variable_names=[key])
  except (*unreadable, EOFError, MemoryError, struct.error, zlib.error, MatReadError) as error:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path} cannot be read as a MATLAB file ({reason}): fetch it again") from error
  if key not in content:
    raise UserError(f"{path} has no '{key}': it is not the file of the Stanford Cars devkit")
  return content[key]
