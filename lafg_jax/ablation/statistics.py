"""Means over seeds, paired differences, and how sure they are."""

from collections.abc import Sequence

import numpy as np

from lafg_jax.evaluate.intervals import Interval


def t_interval(values: Sequence[float]) -> Interval | None:
  """Student's 95% interval of the mean of independent values; None for fewer than two."""
  # scipy.special alone: scipy.stats takes a second to import.
  from scipy import special

  x = np.asarray(values, np.float64)
  if len(x) < 2:
    return None
  quantile = special.stdtrit(len(x) - 1, 0.975)
  half = float(quantile * x.std(ddof=1) / np.sqrt(len(x)))
  return float(x.mean()) - half, float(x.mean()) + half
