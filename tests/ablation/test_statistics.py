"""Intervals against scipy and against counting by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from lafg_jax.ablation import statistics
from lafg_jax.evaluate import intervals


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_t_interval_is_scipys(count):
  x = np.random.default_rng(count).normal(3.0, 2.0, count)
  wanted = scipy.stats.t.interval(0.95, count - 1, loc=x.mean(), scale=scipy.stats.sem(x))
  np.testing.assert_allclose(statistics.t_interval(x), wanted, rtol=1e-9)


def test_the_t_interval_by_hand():
  # t_.975 of one degree of freedom is 12.7062; the standard error of (1, 3) is 1.
  low, high = statistics.t_interval([1.0, 3.0])
  assert (low, high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
  assert statistics.t_interval([1.0]) is None


def test_the_bootstrap_draws_whole_classes():
  # Two classes, drawn twice: the mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4.
  assert intervals.cluster_bootstrap(np.array([0.0, 1.0]), np.array([5, 5])) == (0.0, 1.0)
  # At 40% the tails of 30% cut into the middle value alone.
  middle = intervals.cluster_bootstrap(np.array([0.0, 1.0]), np.array([5, 5]), confidence=0.4)
  assert middle == (0.5, 0.5)


def test_the_bootstrap_is_that_of_all_possible_draws():
  values, weights = np.array([0.1, -0.2, 0.4, 0.3]), np.array([3, 1, 2, 6])
  every = [
    np.average(values[list(draw)], weights=weights[list(draw)])
    for draw in itertools.product(range(4), repeat=4)
  ]
  wanted = np.quantile(every, [0.025, 0.975])
  found = intervals.cluster_bootstrap(values, weights, resamples=200_000)
  np.testing.assert_allclose(found, wanted, atol=0.02)


def test_classes_without_queries_take_no_part():
  values, weights = np.array([0.1, 9.0, 0.3]), np.array([2, 0, 2])
  with_empty = intervals.cluster_bootstrap(values, weights)
  assert with_empty == intervals.cluster_bootstrap(values[[0, 2]], weights[[0, 2]])
  assert intervals.cluster_bootstrap(values[:2], weights[:2]) is None


def test_the_bootstrap_agrees_with_scipys_on_classes_of_one_size():
  values = np.random.default_rng(0).normal(0.02, 0.05, 60)
  wanted = scipy.stats.bootstrap(
    (values,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(1)
  ).confidence_interval
  found = intervals.cluster_bootstrap(values, np.full(60, 20))
  np.testing.assert_allclose(found, (wanted.low, wanted.high), atol=6e-4)
