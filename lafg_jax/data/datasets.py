"""The supported data sets: a config section in, `Dataset`s of class-disjoint splits out.

No image is decoded or drawn here. Each data set has a module in `readers`, which reads its lists.
Functions that take `data`, the section `config.data`, raise a UserError of one line where something
is missing or wrong. They read the keys of that module, num_val_classes and max_train_classes.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lafg_jax.config.table.data import NAMES
from lafg_jax.utils import ground as grounds
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The images of one split, with labels and class names; see the fields."""

  name: str  # data.name
  split: str  # 'train', 'val' or 'test'
  # [n] paths (str), or uint8 [n, H, W, 3], or anything with a length whose items [row] are uint8
  # [H, W, 3], the bytes of an image file, its path, or images.Shrunk, and which can be pickled.
  # Of data.name=features vectors [n, D], float16 or float32, stand in for them.
  images: Any
  labels: np.ndarray  # [n] int32, index into class_names
  class_names: tuple[str, ...]  # [C], of this split only
  ids: tuple[str, ...]  # [n] names of the images: paths below data.root, or 'synthetic/...'
  partial: bool = False  # listed images are missing, or the counts are not the published ones
  # [C] what each class is, where classes are numbered items without names of their own.
  super_classes: tuple[str, ...] | None = None
  # [n, 4] left, top, right, bottom in pixels: the part of each image that is shown; None shows all.
  # A right or bottom of 0 or less counts from the far edge.
  boxes: np.ndarray | None = None
  # [n] bool: in the query list, else in the gallery; None lets each image query all others.
  is_query: np.ndarray | None = None
  # Changes when the images do, where each image is not a file.
  version: str = ""
  # Images are drawn from the class names alone: there are no files.
  drawn: bool = False
  # Of a training half: the validation classes, where the data set names them.
  val_classes: tuple[str, ...] = ()
  # Red, green and blue behind what is transparent: data.ground.
  ground: tuple[int, int, int] = grounds.rgb(grounds.DEFAULT)
  # Of a training half: what the reader left out of both halves and why, in lines.
  left_out: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.labels)


def class_splits(data: Any) -> dict[str, tuple[str, ...]]:
  """{split: class names in label order}; 'val' only where data.num_val_classes > 0."""
  return splits_of(*_read(data), data)


def super_classes(data: Any) -> tuple[str, ...] | None:
  """[C] what each training class is, where classes have no names of their own; else None."""
  return load_splits(data, ("train",))["train"].super_classes


def load_splits(data: Any, splits: Sequence[str] = SPLITS) -> dict[str, Dataset]:
  """Loads those of `splits` that exist: there is no 'val' where data.num_val_classes is 0.

  Validation classes are whole classes, taken out of the training half evenly spaced.
  """
  for split in splits:
    if split not in SPLITS:
      raise UserError(f"unknown split '{split}': choose from {', '.join(SPLITS)}")
  train, test = _read(data)
  names = splits_of(train, test, data)
  return {
    split: of_classes(test if split == "test" else train, split, names[split])
    for split in splits
    if split in names
  }


def of_classes(dataset: Dataset, split: str, class_names: Sequence[str]) -> Dataset:
  """The images of some of a dataset's classes, as another split."""
  position = {name: k for k, name in enumerate(class_names)}
  new = np.array([position.get(name, -1) for name in dataset.class_names], np.int32)
  labels = new[dataset.labels]
  rows = np.flatnonzero(labels >= 0)
  if len(rows) == len(labels):
    return dataclasses.replace(dataset, split=split, labels=labels, class_names=tuple(class_names))
  kinds = dataset.super_classes
  of = {} if kinds is None else dict(zip(dataset.class_names, kinds, strict=True))
  return dataclasses.replace(
    some_rows(dataset, rows),
    split=split,
    labels=labels[rows],
    class_names=tuple(class_names),
    super_classes=None if kinds is None else tuple(of[name] for name in class_names),
  )


def some_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
  """Some images of a dataset, in this order, with its classes."""
  return dataclasses.replace(
    dataset,
    images=some_images(dataset.images, rows),
    labels=dataset.labels[rows],
    ids=tuple(dataset.ids[row] for row in rows),
    boxes=None if dataset.boxes is None else dataset.boxes[rows],
    is_query=None if dataset.is_query is None else dataset.is_query[rows],
  )


def some_images(images: Any, rows: np.ndarray) -> Any:
  """Some of `Dataset.images`; none is opened."""
  return images[rows] if isinstance(images, np.ndarray) else Rows(images, rows)


def num_images(data: Any, split: str) -> int:
  """The number of images of a split."""
  return len(load_splits(data, (split,))[split])


def content_fingerprint(data: Any, split: str) -> str:
  """Changes when images of a split come, go, change in size, or turn from gallery to query.

  And with the ground of what is transparent.
  """
  dataset = load_splits(data, (split,))[split]
  if dataset.drawn:
    # A test makes sure that a name is always drawn alike.
    return hashlib.sha256("\0".join(dataset.class_names).encode()).hexdigest()[:12]
  return content_of(dataset)


def content_of(dataset: Dataset) -> str:
  """`content_fingerprint` of a dataset that is loaded, with the names and labels of its images."""
  files = isinstance(dataset.images, np.ndarray) and dataset.images.dtype.kind == "U"
  sizes = [size_of(path) for path in dataset.images] if files else dataset.version
  digest = hashlib.sha256(repr(sizes).encode())
  # Not in `fingerprint`: training does not depend on it.
  if dataset.is_query is not None:
    digest.update(np.asarray(dataset.is_query, bool).tobytes())
  if dataset.ground != Dataset.ground:
    digest.update(repr(dataset.ground).encode())
  return fingerprint(dataset) + digest.hexdigest()[:12]


def size_of(path: str) -> int:
  """Bytes of a file; -1 where there is none."""
  return os.path.getsize(path) if os.path.exists(path) else -1


def fingerprint(dataset: Dataset) -> str:
  """12 hex digits that change when the images' names, order, labels, classes or boxes change."""
  digest = hashlib.sha256()
  for part in (dataset.class_names, dataset.ids):
    digest.update("\0".join(part).encode() + b"\1")
  digest.update(np.ascontiguousarray(dataset.labels, dtype="<i4").tobytes())
  if dataset.boxes is not None:
    digest.update(np.ascontiguousarray(dataset.boxes, dtype="<f8").tobytes())
  return digest.hexdigest()[:12]


@contextlib.contextmanager
def remembered() -> Iterator[None]:
  """Inside of it a data set is listed once for each content of `config.data`, and then cached.

  It is for one run of the stages, which load the data set several times. `content_fingerprint`
  still reads the sizes of the files each time.
  """
  global _halves_of
  before, _halves_of = _halves_of, {}
  try:
    yield
  finally:
    _halves_of = before


# The cache of `remembered`; None outside of it, where files may change between two calls.
_halves_of: dict[str, tuple[Dataset, Dataset]] | None = None


def _read(data: Any) -> tuple[Dataset, Dataset]:
  if data.name not in NAMES:
    near = difflib.get_close_matches(str(data.name), NAMES, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(NAMES)}"
    raise UserError(f"data.name='{data.name}' is not a known data set: {hint}")
  # A batch changes nothing in what there is to read.
  batch = ("classes_per_batch", "images_per_class")
  key = repr(sorted((name, value) for name, value in data.items() if name not in batch))
  if _halves_of is not None and key in _halves_of:
    return _halves_of[key]
  read = importlib.import_module(f"lafg_jax.data.readers.{data.name}").read
  colour = grounds.of(data)
  train, test = (dataclasses.replace(half, ground=colour) for half in read(data))
  if _halves_of is not None:
    _halves_of[key] = train, test
  return train, test


@dataclasses.dataclass(frozen=True)
class Rows:
  """Some rows of images that are not an array."""

  images: Any
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, row: int) -> Any:
    return self.images[int(self.rows[row])]


def splits_of(train: Dataset, test: Dataset, data: Any) -> dict[str, tuple[str, ...]]:
  """The classes of each split; those beyond data.max_train_classes are in none."""
  names, val, num_val = train.class_names, train.val_classes, data.num_val_classes
  if val and num_val != len(val):
    raise UserError(
      f"data.num_val_classes={num_val}: this data set holds out {counted(len(val), 'class')} "
      f"itself; pass --config.data.num_val_classes={len(val)}"
    )
  if not val and num_val and not 0 < num_val < len(names) - 1:
    raise UserError(
      f"data.num_val_classes={num_val}: must be from 0 to {max(0, len(names) - 2)}: it is taken "
      f"out of {counted(len(names), 'training class')}, of which two must remain"
    )
  val = val or spaced(names, num_val)
  held_out = set(val)
  rest, most = tuple(name for name in names if name not in held_out), data.max_train_classes
  if most > len(rest):
    raise UserError(
      f"data.max_train_classes={most}: only {counted(len(rest), 'training class')} there; pass "
      f"{len(rest)} or less, or 0 for all"
    )
  splits = {"train": spaced(rest, most) if most else rest, "val": val, "test": test.class_names}
  return {split: names for split, names in splits.items() if names or split != "val"}


def spaced(names: Sequence[str], count: int) -> tuple[str, ...]:
  """The middles of `count` equal stretches of a list, in its order."""
  return tuple(names[(2 * k + 1) * len(names) // (2 * count)] for k in range(count))
