"""Recall@K, R-precision and MAP@R of a retrieval, from the ranks of the true matches."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lafg_jax.evaluate import knn
from lafg_jax.utils.errors import UserError


def retrieval_metrics(
  queries: np.ndarray,
  query_labels: np.ndarray,
  gallery: np.ndarray,
  gallery_labels: np.ndarray,
  *,
  ks: Sequence[int],
  exclude_self: bool = False,
  normalize: bool = False,
) -> dict[str, Any]:
  """Retrieval metrics by the dot product (the cosine of unit-norm embeddings).

  R is the number of a query's true matches: gallery rows of its label, itself left out.
  - recall@k: share of queries with at least one true match among their k nearest neighbours.
  - r_precision: mean share of true matches among the R nearest neighbours.
  - map@r: mean of (1/R) * sum over i = 1..R of (precision at i if neighbour i is a match, else 0).
  R-precision and MAP@R: Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020,
  section 3.2. A non-match as near as a match stands before it (see knn.match_ranks).

  Queries without any true match (R = 0) are left out of every mean, as pytorch-metric-learning
  does; their number is reported.

  Args:
    queries: [Q, D] embeddings.
    query_labels: [Q] integers.
    gallery: [G, D] embeddings.
    gallery_labels: [G] integers, of the same numbering.
    ks: cut-offs of Recall@K, each at least 1; one above G counts the whole gallery.
    exclude_self: query i is gallery row i, and is left out of its own neighbours.
    normalize: scale every embedding to unit norm first.

  Returns:
    'recall@<k>' for each k, 'map@r' and 'r_precision' as fractions in [0, 1]; 'num_queries' (Q),
    'num_queries_without_match', 'num_gallery' (G), and 'num_classes' (those of the queries);
    'chance', {metric: fraction}, what random rankings give, see `chance`.

  Raises:
    UserError: on empty, mismatched or non-finite input, a k that is not a positive integer, or if
      no query has a true match.
  """
  pair = (queries, query_labels, gallery, gallery_labels)
  scores, num_matches = per_query(*pair, ks=ks, exclude_self=exclude_self, normalize=normalize)
  return {
    **{name: float(values.mean()) for name, values in scores.items()},
    "num_queries": len(num_matches),
    "num_queries_without_match": int((num_matches == 0).sum()),
    "num_gallery": len(gallery),
    "num_classes": len(np.unique(query_labels)),
    "chance": chance(num_matches, len(gallery) - exclude_self, ks),
  }


def chance(num_matches: np.ndarray, candidates: int, ks: Sequence[int]) -> dict[str, float]:
  """The expected metrics where each query ranks its candidates at random, all orders alike.

  Of a query with R matches among G candidates these are
  - recall@k: 1 - C(G - R, k) / C(G, k);
  - r_precision: R / G;
  - map@r: (R / G) ((1 - q) H_R + q R) / R, where q = (R - 1) / (G - 1) and H_R = 1 + 1/2 + ... +
    1/R: the image at rank i is a match with probability R / G, and then each of the i - 1 before it
    is one with probability q.
  The means are over the queries with a match, as those of the metrics are.

  Args:
    num_matches: [Q] R of each query; a query with 0 is left out.
    candidates: G, the images that a query ranks: the gallery without itself.
    ks: cut-offs of Recall@K.
  """
  matches, number = np.unique(num_matches[num_matches > 0], return_counts=True)
  part = matches / candidates
  before = (matches - 1) / max(candidates - 1, 1)
  harmonic = np.cumsum(1 / np.arange(1, matches.max() + 1))[matches - 1]
  found = {f"recall@{int(k)}": 1 - _none_among(matches, candidates, int(k)) for k in ks}
  found["map@r"] = part * ((1 - before) * harmonic / matches + before)
  found["r_precision"] = part
  return {name: float(np.average(value, weights=number)) for name, value in found.items()}


def _none_among(matches: np.ndarray, candidates: int, k: int) -> np.ndarray:
  """C(G - R, k) / C(G, k) for each R [n]: none of the R matches is among k of G candidates."""
  left = candidates - np.arange(min(k, candidates))
  return np.prod(np.clip((left - matches[:, None]) / left, 0, None), axis=1)


def per_query(
  *pair: np.ndarray, ks: Sequence[int], **options: Any
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """The metrics of each query. Arguments and errors are those of `retrieval_metrics`.

  Returns:
    {'recall@<k>', 'map@r', 'r_precision': [q] in [0, 1]} of the q queries with a true match, and
    the number of true matches of each of the Q queries, [Q].
  """
  for k in ks:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
      raise UserError(f"evaluate.ks: {k!r} is not a positive integer; give cut-offs as (1, 2, 4)")
  if not len(ks):
    raise UserError("evaluate.ks is empty; give at least one cut-off of Recall@K")
  ranks, num_matches = knn.match_ranks(*pair, **options)
  counted = num_matches > 0
  if not counted.any():
    raise UserError("no query has another image of its class in the gallery; nothing to measure")
  recall = {f"recall@{int(k)}": ranks[counted, 0] <= k for k in ks}
  map_at_r, r_precision = _precisions(ranks[counted], num_matches[counted])
  return {**recall, "map@r": map_at_r, "r_precision": r_precision}, num_matches


def evaluate_embeddings(
  embeddings: np.ndarray,
  labels: np.ndarray,
  ks: Sequence[int],
  *,
  is_query: np.ndarray | None = None,
  normalize: bool = False,
) -> dict[str, Any]:
  """Metrics where each of embeddings [n, D] queries all the others (CUB, Cars, SOP).

  With is_query [n] bool, those rows query the others, which are the gallery (In-Shop). Other
  arguments, results and errors are those of `retrieval_metrics`; labels are [n] integers.
  """
  pair = (embeddings, labels) * 2
  if is_query is not None:
    pair = (embeddings[is_query], labels[is_query], embeddings[~is_query], labels[~is_query])
  return retrieval_metrics(*pair, ks=ks, exclude_self=is_query is None, normalize=normalize)


def _precisions(ranks: np.ndarray, num_matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """([Q] AP@R, [Q] R-precision) from ranks [Q, max(R)] of true matches and R [Q], all above 0."""
  at_r = (ranks > 0) & (ranks <= num_matches[:, None])
  # The j-th match, at rank r, is the j-th hit among r neighbours.
  hits = np.arange(1, ranks.shape[1] + 1)
  precision = np.divide(hits, ranks, out=np.zeros(ranks.shape), where=at_r)
  return precision.sum(1) / num_matches, at_r.sum(1) / num_matches
