"""Attribute vocabulary: K-means centres of all description features (method.md, stage 2)."""

import numpy as np

from lafg_jax.data.prototypes import l2_normalise
from lafg_jax.errors import UserError


def mine(features: np.ndarray, num_attributes: int, seed: int, restarts: int) -> np.ndarray:
  """K-means over description features; the centres are the vocabulary a_1..a_N.

  Args:
    features: [S, d] L2-normalised features of all descriptions.
    num_attributes: N, at most the number of distinct features.
    seed: of the initial centres.
    restarts: how many initialisations to try; the one of least inertia is kept.

  Returns:
    [N, d] float32, L2-normalised again, since a mean of unit vectors is shorter than 1.

  Raises:
    UserError: num_attributes or restarts does not fit.
  """
  try:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits
  except ImportError as error:
    raise UserError(f"{error.name} is not installed: pip install 'lafg_jax[language]'") from error

  if restarts < 1:
    raise UserError(f"language.kmeans_restarts must be at least 1, not {restarts}")
  distinct = len(np.unique(features, axis=0))
  if not 1 <= num_attributes <= distinct:
    raise UserError(
      f"language.num_attributes must lie in 1..{distinct}, the number of distinct descriptions, "
      f"not {num_attributes}"
    )
  # Threads add up partial sums in a varying order; one thread gives the same bits every time.
  with threadpool_limits(limits=1):
    found = KMeans(num_attributes, n_init=restarts, random_state=seed).fit(features)
  return l2_normalise(found.cluster_centers_, "K-means centres")


def nearest_sentences(
  centres: np.ndarray, features: np.ndarray, sentences: np.ndarray, count: int = 5
) -> np.ndarray:
  """For each centre the `count` different sentences nearest to it, nearest first.

  Args:
    centres: [N, d] and features [S, d], both L2-normalised.
    sentences: [S] str; the same words may stand there for several classes.

  Returns:
    [N, count] str, filled up with '' where there are fewer different sentences.
  """
  texts, first = np.unique(sentences, return_index=True)
  ranks = np.argsort(-(centres @ features[first].T), axis=1, kind="stable")[:, :count]
  nearest = np.full((len(centres), count), "", texts.dtype)
  nearest[:, : ranks.shape[1]] = texts[ranks]
  return nearest
