"""The supported data sets: a config section in, `Dataset`s of class-disjoint splits out.

Nothing is decoded or drawn here. Each reader is a module of its own in `readers`, with
`read(data) -> (training half, test half)`.
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
from lafg_jax.utils.errors import UserError

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The images of one split, with labels and class names; see the fields."""

  name: str  # data.name
  split: str  # 'train', 'val' or 'test'
  # [n] paths (str), or uint8 [n, H, W, 3], or anything with a length whose items [row] are uint8
  # [H, W, 3], the bytes of an image file, its path, or images.Shrunk, and which can be pickled.
  images: Any
  labels: np.ndarray  # [n] int32, index into class_names
  class_names: tuple[str, ...]  # [C], of this split only
  ids: tuple[str, ...]  # [n] names of the images: paths below data.root, or 'synthetic/...'
  partial: bool = False  # listed images are missing, or the counts are not the published ones
  # [C] what each class is, where classes are numbered items without names of their own.
  super_classes: tuple[str, ...] | None = None
  # [n, 4] left, top, right, bottom in pixels: what of each image is shown; None shows all. A right
  # or bottom of 0 or less counts from the far edge, whatever the size of the image.
  boxes: np.ndarray | None = None
  # [n] bool: in the query list, else in the gallery; None lets each image query all others.
  is_query: np.ndarray | None = None
  # What changes when the images do, where they are no files of their own.
  version: str = ""
  # Images are drawn from the class names alone: there are no files to read, to measure or to pack.
  drawn: bool = False
  # Of a training half: the validation classes, where the data set chooses them itself.
  val_classes: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.labels)


def class_splits(data: Any) -> dict[str, tuple[str, ...]]:
  """The class names of each split, in label order, without decoding or rendering an image.

  Args:
    data: the section `config.data`; reads what the reader of data.name does, and num_val_classes.

  Returns:
    {'train': names, 'val': names, 'test': names}; 'val' only where data.num_val_classes > 0.

  Raises:
    UserError: what is missing or wrong, in one line.
  """
  return _splits_of(*_read(data), data)


def super_classes(data: Any) -> tuple[str, ...] | None:
  """[C] what each training class is, where classes have no names of their own; else None."""
  return load_splits(data, ("train",))["train"].super_classes


def load_splits(data: Any, splits: Sequence[str] = SPLITS) -> dict[str, Dataset]:
  """Loads the splits asked for; 'val' is left out where data.num_val_classes is 0.

  Validation classes are whole classes taken out of the training half, evenly spaced over it.

  Args:
    data: the section `config.data`; reads what the reader of data.name does, and num_val_classes.
    splits: any of 'train', 'val' and 'test'.

  Raises:
    UserError: what is missing or wrong, in one line.
  """
  for split in splits:
    if split not in SPLITS:
      raise UserError(f"unknown split '{split}': choose from {', '.join(SPLITS)}")
  train, test = _read(data)
  names = _splits_of(train, test, data)
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
    dataset,
    split=split,
    images=_rows(dataset.images, rows),
    labels=labels[rows],
    class_names=tuple(class_names),
    ids=tuple(dataset.ids[row] for row in rows),
    super_classes=None if kinds is None else tuple(of[name] for name in class_names),
    boxes=None if dataset.boxes is None else dataset.boxes[rows],
    is_query=None if dataset.is_query is None else dataset.is_query[rows],
  )


def num_images(data: Any, split: str) -> int:
  """Images of a split; nothing is decoded or rendered."""
  return len(load_splits(data, (split,))[split])


def content_fingerprint(data: Any, split: str) -> str:
  """Changes when images of a split come, go, change in size, or turn from gallery to query.

  Nothing is decoded or rendered.
  """
  dataset = load_splits(data, (split,))[split]
  if dataset.drawn:
    # By code that a test holds frozen.
    return hashlib.sha256("\0".join(dataset.class_names).encode()).hexdigest()[:12]
  return content_of(dataset)


def content_of(dataset: Dataset) -> str:
  """`content_fingerprint` of a dataset that is loaded, with the names and labels of its images."""
  files = isinstance(dataset.images, np.ndarray) and dataset.images.dtype.kind == "U"
  sizes = [size_of(path) for path in dataset.images] if files else dataset.version
  digest = hashlib.sha256(repr(sizes).encode())
  # Not in `fingerprint`: what queries and what is searched says nothing about training.
  if dataset.is_query is not None:
    digest.update(np.asarray(dataset.is_query, bool).tobytes())
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
  """Within it a data set is listed once for each content of `config.data`.

  For one run of the stages, each of which asks several times. Sizes of files are read anew.
  """
  global _halves_of
  before, _halves_of = _halves_of, {}
  try:
    yield
  finally:
    _halves_of = before


# What `remembered` keeps; None outside of it, where files may change between two calls.
_halves_of: dict[str, tuple[Dataset, Dataset]] | None = None


def _read(data: Any) -> tuple[Dataset, Dataset]:
  if data.name not in NAMES:
    near = difflib.get_close_matches(str(data.name), NAMES, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(NAMES)}"
    raise UserError(f"data.name='{data.name}' is not a known data set: {hint}")
  read = importlib.import_module(f"lafg_jax.data.readers.{data.name}").read
  if _halves_of is None:
    return read(data)
  key = repr(sorted(data.items()))
  if key not in _halves_of:
    _halves_of[key] = read(data)
  return _halves_of[key]


def _rows(images: Any, rows: np.ndarray) -> Any:
  return images[rows] if isinstance(images, np.ndarray) else Rows(images, rows)


@dataclasses.dataclass(frozen=True)
class Rows:
  """Some rows of images that are not an array."""

  images: Any
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, row: int) -> Any:
    return self.images[int(self.rows[row])]


def _splits_of(train: Dataset, test: Dataset, data: Any) -> dict[str, tuple[str, ...]]:
  held_out, num_val = train.val_classes, data.num_val_classes
  if not held_out:
    return _fewer(_with_val(train.class_names, test.class_names, num_val), data)
  if num_val != len(held_out):
    raise UserError(
      f"data.num_val_classes={num_val}: this data set holds out {len(held_out)} classes itself; "
      f"pass --config.data.num_val_classes={len(held_out)}"
    )
  rest = tuple(name for name in train.class_names if name not in held_out)
  return _fewer({"train": rest, "val": held_out, "test": test.class_names}, data)


def _fewer(splits: dict[str, tuple[str, ...]], data: Any) -> dict[str, tuple[str, ...]]:
  """The splits with `data.max_train_classes` training classes; the others are in no split."""
  names, most = splits["train"], data.max_train_classes
  if most > len(names):
    raise UserError(
      f"data.max_train_classes={most}: only {len(names)} training classes are there; pass "
      f"{len(names)} or less, or 0 for all"
    )
  return splits | {"train": spaced(names, most) if most else names}


def spaced(names: Sequence[str], count: int) -> tuple[str, ...]:
  """The middles of `count` equal stretches of a list, in its order."""
  return tuple(names[(2 * k + 1) * len(names) // (2 * count)] for k in range(count))


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
  val = spaced(train, num_val)
  rest = tuple(name for name in train if name not in set(val))
  return {"train": rest, "val": val, "test": test}
