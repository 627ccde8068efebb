"""The queries of an evaluation: their figures, and what each finds first."""

import os
from typing import NamedTuple

import numpy as np

from lafg_jax.data import datasets
from lafg_jax.evaluate import knn, metrics, results
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

NUM_NEIGHBOURS = 8
CURVE_KS = (*range(1, 11), *range(12, 33, 2))


class Evaluated(NamedTuple):
  """embeddings.npz with its data set.

  vectors: [n, D] of unit norm. labels: [n]. rows: [n] of the data set. queries: [Q] and gallery:
  [G], rows of vectors; the same ones where each image queries all others.
  """

  vectors: np.ndarray
  labels: np.ndarray
  ids: list[str]
  rows: list[int]
  queries: np.ndarray
  gallery: np.ndarray
  dataset: datasets.Dataset

  @property
  def pair(self) -> tuple[np.ndarray, ...]:
    """What `metrics.per_query` takes."""
    parts = (self.queries, self.gallery)
    return tuple(of[rows] for rows in parts for of in (self.vectors, self.labels))

  @property
  def excludes(self) -> bool:
    """Whether a query is left out of its own ranking."""
    return self.dataset.is_query is None


class Scored(NamedTuple):
  """Each query's figures [Q], its AP@R, whether its first image is right, and the rows [Q, k] and
  similarities of its nearest images. counts: whether it has a right image at all."""

  counts: np.ndarray
  precision: np.ndarray
  recall: np.ndarray
  found: np.ndarray
  similarity: np.ndarray
  by_k: dict[str, float]


def read(workdir: str, dataset: datasets.Dataset) -> Evaluated:
  """What the evaluate stage left; raises UserError where it is of other images."""
  path = os.path.join(workdir, results.EMBEDDINGS)
  arrays = files.read_npz(path, ("vectors", "labels", "paths"), stage="evaluate")
  row_of = {name: row for row, name in enumerate(dataset.ids)}
  ids = [str(name) for name in arrays["paths"]]
  if not all(name in row_of for name in ids):
    what = f"of other images than {dataset.name} has"
    raise UserError(f"{path} is {what}: run --stage=evaluate again")
  rows = [row_of[name] for name in ids]
  queries = gallery = np.arange(len(ids))
  if dataset.is_query is not None:
    asks = dataset.is_query[rows]
    queries, gallery = queries[asks], gallery[~asks]
  return Evaluated(arrays["vectors"], arrays["labels"], ids, rows, queries, gallery, dataset)


def score(evaluated: Evaluated) -> Scored:
  """The figures of each query, and what it finds."""
  pair, excludes = evaluated.pair, evaluated.excludes
  names = [f"recall@{k}" for k in CURVE_KS]
  of, num_matches = metrics.per_query(*pair, ks=CURVE_KS, exclude_self=excludes)
  counts = num_matches > 0
  precision, recall = np.zeros(len(counts)), np.zeros(len(counts))
  precision[counts], recall[counts] = of["map@r"], of["recall@1"]
  k = min(NUM_NEIGHBOURS, len(evaluated.gallery) - excludes)
  similarity, found = knn.search(pair[0], pair[2], k, exclude_self=excludes)
  by_k = {name: float(of[name].mean()) for name in names}
  return Scored(counts, precision, recall, evaluated.gallery[found], similarity, by_k)
