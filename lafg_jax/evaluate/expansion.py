"""Query expansion: a query is drawn to what it finds, and asks again.

alpha-QE of Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation",
TPAMI 2019, section 4.2: q' = q + sum over the n nearest v_i of s_i^alpha v_i, of unit norm, where
s_i is the cosine of q and v_i. alpha = 0 is the plain average of Chum et al. 2007. Cosines below 0
weigh 0: their power is no number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lafg_jax.evaluate import knn, metrics
from lafg_jax.utils.errors import UserError

ALPHA = 3.0
# Queries whose neighbours' vectors are in memory at once.
_CHUNK = 1024


def mixed(
  queries: np.ndarray, scores: np.ndarray, neighbours: np.ndarray, alpha: float
) -> np.ndarray:
  """q' of queries [Q, D] with the cosines [Q, n] and vectors [Q, n, D] of their neighbours.

  All vectors are of unit norm; a neighbour with score -inf is none. Returns [Q, D] float32.
  """
  # -inf is below 0 too.
  weights = np.where(scores > 0, np.clip(scores, 0, None) ** alpha, 0)
  found = queries + np.einsum("qn,qnd->qd", weights, neighbours)
  norms = np.linalg.norm(found, axis=1, keepdims=True)
  return np.asarray(found / np.maximum(norms, 1e-12), np.float32)


def expanded(
  queries: np.ndarray,
  gallery: np.ndarray,
  n: int,
  alpha: float = ALPHA,
  *,
  exclude_self: bool = False,
) -> np.ndarray:
  """q' [Q, D] of queries [Q, D] by their n nearest rows of a gallery [G, D], all of unit norm.

  exclude_self: query i is gallery row i, which is no neighbour of its own. Raises UserError as
  `knn.search`, or where n is below 1 or alpha below 0.
  """
  check(n, alpha)
  scores, rows = knn.search(queries, gallery, n, exclude_self=exclude_self)
  parts = [np.zeros((0, queries.shape[1]), np.float32)]
  for at in range(0, len(queries), _CHUNK):
    part = slice(at, at + _CHUNK)
    parts.append(mixed(queries[part], scores[part], gallery[rows[part]], alpha))
  return np.concatenate(parts)


def check(n: int, alpha: float) -> None:
  """Raises UserError where an expansion cannot be."""
  if n < 1:
    raise UserError(f"expand is {n}; it takes the number of neighbours, 1 or more")
  if not 0 <= alpha < 1000:
    raise UserError(f"alpha is {alpha}; it takes a number of 0 or more")


def figures(
  vectors: np.ndarray,
  labels: np.ndarray,
  ks: Sequence[int],
  n: int,
  alpha: float,
  is_query: np.ndarray | None = None,
) -> dict[str, Any]:
  """The metrics of expanded queries, with 'n' and 'alpha'; arguments as `evaluate_embeddings`.

  The gallery stays as it is. vectors [n, D] are of unit norm.
  """
  same = is_query is None
  asks = np.ones(len(vectors), bool) if is_query is None else is_query
  held = np.ones(len(vectors), bool) if is_query is None else ~is_query
  queries = expanded(vectors[asks], vectors[held], n, alpha, exclude_self=same)
  found = metrics.retrieval_metrics(
    *(queries, labels[asks], vectors[held], labels[held]), ks=ks, exclude_self=same
  )
  kept = ("recall@", "map@r", "r_precision")
  return {name: x for name, x in found.items() if name.startswith(kept)} | {"n": n, "alpha": alpha}
