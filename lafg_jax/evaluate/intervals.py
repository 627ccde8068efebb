"""How sure a mean over classes is."""

import functools

import numpy as np

from lafg_jax.utils import random_streams

Interval = tuple[float, float]


def cluster_bootstrap(
  values: np.ndarray, weights: np.ndarray, *, confidence: float = 0.95, resamples: int = 10_000
) -> Interval | None:
  """Percentile interval of a weighted mean over classes, whole classes drawn with replacement.

  Figures of queries of one class rise and fall together: an interval over single queries would be
  far too narrow.

  Args:
    values: [C] of each class, such as the mean difference of its queries.
    weights: [C] >= 0, queries of the class; those of 0 take no part.
    resamples: how many times C classes are drawn.

  Returns:
    (low, high), or None for fewer than two classes.
  """
  counted = np.asarray(weights) > 0
  x, w = np.asarray(values, np.float64)[counted], np.asarray(weights, np.float64)[counted]
  if len(x) < 2:
    return None
  counts = _draws(len(x), resamples)
  means = counts @ (w * x) / (counts @ w)
  low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2]).tolist()
  return low, high


@functools.lru_cache(maxsize=4)
def _draws(classes: int, resamples: int) -> np.ndarray:
  """[resamples, C]: how often each class is drawn. The same for each difference of a table."""
  rng = random_streams.of_seed(0)
  counts = rng.multinomial(classes, np.full(classes, 1 / classes), size=resamples)
  return counts.astype(np.float64)
