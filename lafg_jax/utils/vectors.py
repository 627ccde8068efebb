"""Vectors of unit length; those that have gradients are `losses.contrastive.unit`."""

import numpy as np

from lafg_jax.utils.errors import UserError


def mean_pairwise_cosine(vectors: np.ndarray) -> float:
  """Mean cosine over all pairs of different rows of `vectors` [C, d]; nan below two rows.

  A row of zeros has cosine 0 with every other.
  """
  count = len(vectors)
  if count < 2:
    return float("nan")
  units = unit_or_zero(vectors)
  # The squared norm of the sum is the sum over all pairs, each row with itself included.
  total = np.sum(units.sum(axis=0) ** 2) - np.sum(units**2)
  return float(total / (count * (count - 1)))


def unit_or_zero(vectors: np.ndarray, least: float = 0.0) -> np.ndarray:
  """Rows of `vectors` [n, d] of unit length, float64; zeros for those no longer than `least`."""
  vectors = vectors.astype(np.float64)
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > least)


def l2_normalise(vectors: np.ndarray, what: str) -> np.ndarray:
  """`vectors` [..., d] scaled to unit length, float32.

  Raises:
    UserError: a vector, one of `what`, has no direction (zero length or not finite).
  """
  vectors = np.asarray(vectors, np.float64)
  norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
  if not np.all(np.isfinite(norms) & (norms > 0)):
    raise UserError(f"{what}: a vector has zero length or is not finite, so it has no direction")
  return (vectors / norms).astype(np.float32)
