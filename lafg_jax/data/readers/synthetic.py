"""The synthetic finches of `finches.classes`; an image is drawn when it is first asked for."""

import dataclasses
from typing import Any

import numpy as np

from lafg_jax.data.datasets import Dataset
from lafg_jax.finches import classes


@dataclasses.dataclass(frozen=True)
class Pictures:
  """`per_class` images of each class in turn: uint8 [48, 48, 3], of a slice [n, 48, 48, 3]."""

  names: tuple[str, ...]
  per_class: int

  def __len__(self) -> int:
    return len(self.names) * self.per_class

  def __getitem__(self, row: int | slice) -> np.ndarray:
    if isinstance(row, slice):
      return np.stack([self[k] for k in range(len(self))[row]])
    label, j = divmod(row, self.per_class)
    return classes.image(self.names[label], j)


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The 40 seen classes for training, and the 60 unseen ones for the test."""
  del data
  return _half("train", "seen"), _half("test", "unseen")


def _half(split: str, kind: str) -> Dataset:
  names, per_class = classes.class_names(kind), classes.IMAGES_PER_CLASS[kind]
  return Dataset(
    name="synthetic",
    split=split,
    images=Pictures(names, per_class),
    labels=np.repeat(np.arange(len(names), dtype=np.int32), per_class),
    class_names=names,
    ids=tuple(classes.image_id(name, j) for name in names for j in range(per_class)),
    drawn=True,
  )
