"""Classes of two data sets that hold the same images, whatever they are called."""

import collections
import hashlib
import os
from typing import Any

import numpy as np

from lafg_jax.data.datasets import Dataset
from lafg_jax.utils.class_names import is_generic, shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# Bytes from the end of a file that are compared first: in a JPEG they are pixels.
_TAIL = 4096


def trained(train: Dataset, test: Dataset) -> list[str]:
  """The classes of `test` that are classes of `train`, where the names of both are generic.

  Names such as 'class 01' do not tell classes apart, but images do: a class of `test` is a class of
  `train` where half of its files or more are equal to files of `train`. Fewer are duplicates, which
  `--stage=data` lists. Classes with other names are compared by name elsewhere.

  The sizes of all files are compared first, then the last 4 KiB of files of equal size, then whole
  files. Images that are not files (hf, tfds, finches) or are parts of files (boxes) are left out.
  """
  ours, theirs = _generic_files(train), _generic_files(test)
  for part in (os.path.getsize, _tail, _whole):
    ours, theirs = _matching(ours, theirs, part)
  found = collections.Counter(label for _, label in theirs)
  counts = np.bincount(test.labels, minlength=len(test.class_names))
  return [test.class_names[k] for k in sorted(found) if 2 * found[k] >= counts[k]]


def refuse_trained(train: Dataset, test: Dataset, where: str) -> tuple[Dataset, Dataset]:
  """Both halves; UserError where the test has classes of the training half: see `trained`."""
  if shared := trained(train, test):
    raise UserError(
      f"{where}: {counted(len(shared), 'class')} of the test with images of training classes under "
      f"another name ({shorten(shared)}), but the classes of the test must be unseen: put all "
      "images of a class in one class"
    )
  return train, test


def _generic_files(dataset: Dataset) -> list[tuple[str, int]]:
  """(path, label) of each image file of a class with a generic name."""
  files = isinstance(dataset.images, np.ndarray) and dataset.images.dtype.kind == "U"
  if not files or dataset.boxes is not None:
    return []
  generic = np.array([is_generic(name) for name in dataset.class_names], bool)
  rows = np.flatnonzero(generic[dataset.labels])
  return [(str(dataset.images[row]), int(dataset.labels[row])) for row in rows]


def _matching(ours: list[tuple[str, int]], theirs: list[tuple[str, int]], part: Any) -> tuple:
  """The files of both lists whose part(path) is that of a file of the other list too."""
  if not (ours and theirs):
    return [], []
  parts = [[_or_none(part, path) for path, _ in files] for files in (ours, theirs)]
  both = (set(parts[0]) & set(parts[1])) - {None}
  return tuple(
    [file for file, x in zip(files, of, strict=True) if x in both]
    for files, of in zip((ours, theirs), parts, strict=True)
  )


def _or_none(part: Any, path: str) -> Any:
  try:
    return part(path)
  except OSError:
    return None


def _tail(path: str) -> tuple[int, bytes]:
  size = os.path.getsize(path)
  with open(path, "rb") as file:
    file.seek(max(0, size - _TAIL))
    return size, hashlib.sha256(file.read()).digest()


def _whole(path: str) -> bytes:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").digest()
