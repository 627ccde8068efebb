"""Whether a retrieval on a data set can measure anything: counted before a model is there."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lafg_jax.data import images, vectors
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted


class Matches(NamedTuple):
  """What queries can find; a match is an image of the query's class in the gallery."""

  queries: int
  without_match: int  # queries, which are left out of every figure
  gallery: int  # images that a query is compared with, itself not counted
  all_match: bool  # no query with a match can find a wrong image: all figures are 100 by chance
  alone: tuple[str, ...]  # classes with queries, none of which has a match


def of(dataset: Dataset, readable: np.ndarray | None = None) -> Matches:
  """Counts the matches of a data set's queries; of those that `readable` [n] bool names alone."""
  labels, asks = _queries(dataset, readable)
  count = len(dataset.class_names)
  each = np.bincount(labels[asks], minlength=count)
  if dataset.is_query is None:
    there, gallery = each - 1, len(labels) - 1
  else:
    there, gallery = np.bincount(labels[~asks], minlength=count), int((~asks).sum())
  found = (each > 0) & (there > 0)
  alone = (each > 0) & (there <= 0)
  return Matches(
    queries=int(asks.sum()),
    without_match=int(each[alone].sum()),
    gallery=max(gallery, 0),
    all_match=bool(found.any() and (there[found] == gallery).all()),
    alone=tuple(dataset.class_names[k] for k in np.flatnonzero(alone)),
  )


def nothing_to_measure(dataset: Dataset, found: Matches, unreadable: int = 0) -> str:
  """Why no figure can be measured, for a message; '' where some can."""
  if found.queries > found.without_match:
    return ""
  besides = f", {counted(unreadable, 'image')} left out that cannot be read" if unreadable else ""
  if dataset.is_query is None:
    return (
      f"{split_of(dataset)} has {counted(found.queries, 'image')} of "
      f"{counted(len(found.alone), 'class')}{besides}, and no class has two, so that none can be "
      f"found by another of its class ({shorten(found.alone)})"
    )
  return (
    f"{split_of(dataset)} has {counted(found.queries, 'query')} and a gallery of "
    f"{counted(found.gallery, 'image')}{besides}, and no query has an image of its class there"
  )


def split_of(dataset: Dataset) -> str:
  """'the test', 'the validation' or 'the training' part of a data set, for a message."""
  return {"test": "the test", "val": "the validation"}.get(dataset.split, "the training")


def any_readable(dataset: Dataset) -> bool:
  """Whether any query that can be read has a match that can be read.

  Images are read class by class until there is such a pair: two images, where none is damaged.
  """
  if vectors.held(dataset):
    return of(dataset).queries > of(dataset).without_match
  labels, asks = _queries(dataset, None)
  of_class = collections.defaultdict(list)
  for row, label in enumerate(labels.tolist()):
    of_class[label].append(row)
  for rows in of_class.values():
    if dataset.is_query is None:
      if _readable(dataset, rows, 2):
        return True
    elif _readable(dataset, [r for r in rows if asks[r]], 1) and _readable(
      dataset, [r for r in rows if not asks[r]], 1
    ):
      return True
  return False


def _queries(dataset: Dataset, readable: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
  asks = dataset.is_query
  asks = np.ones(len(dataset), bool) if asks is None else np.asarray(asks, bool)
  keep = slice(None) if readable is None else readable
  return dataset.labels[keep], asks[keep]


def _readable(dataset: Dataset, rows: Sequence[int], wanted: int) -> bool:
  """Whether so many of the images can be read."""
  if len(rows) < wanted:
    return False
  for row in rows:
    try:
      images.of_dataset(dataset, row)
    except images.UnreadableImage:
      continue
    wanted -= 1
    if not wanted:
      return True
  return False
