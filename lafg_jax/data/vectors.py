"""Batches of data sets that hold vectors in place of images: rows of an array, nothing decoded."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lafg_jax.data import sampling
from lafg_jax.data.datasets import Dataset

Batch = dict[str, np.ndarray]


def held(dataset: Any) -> bool:
  """Whether the data set holds vectors [n, D], as data.name=features does."""
  x = dataset.images
  return isinstance(x, np.ndarray) and x.ndim == 2 and x.dtype.kind == "f"


def width(dataset: Dataset) -> int:
  """D of a data set that holds vectors."""
  return int(dataset.images.shape[1])


def train_batches(
  dataset: Dataset, plan: sampling.Plan, rows: np.ndarray, steps: Sequence[int]
) -> Iterator[Batch]:
  """The batches of `pipeline.train_batches` with 'image' float32 [b, D], the `rows` of each."""
  for step in steps:
    wanted = plan.rows(step)
    shown = wanted.row[rows]
    yield {
      "image": dataset.images[shown].astype(np.float32),
      "label": wanted.label[rows].astype(np.int32),
      "index": shown.astype(np.int32),
      "unreadable": np.full(len(rows), -1, np.int32),
    }


def eval_batches(dataset: Dataset, size: int, first: int, every: int) -> Iterator[Batch]:
  """The batches of `pipeline.eval_batches` with 'image' float32 [size, D], as process `first` of
  `every` has them."""
  for number in range(-(-len(dataset) // (size * every))):
    start = (first + number * every) * size
    shown = np.arange(start, min(start + size, len(dataset)))
    batch = {
      "image": np.zeros((size, width(dataset)), np.float32),
      "index": np.full(size, -1, np.int32),
      "unreadable": np.full(size, -1, np.int32),
    }
    batch["image"][: len(shown)] = dataset.images[shown]
    batch["index"][: len(shown)] = shown
    yield batch
