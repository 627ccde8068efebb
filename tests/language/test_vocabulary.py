"""The vocabulary: scikit-learn's K-means, normalised, and the sentences that explain it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from lafg_jax.errors import UserError
from lafg_jax.language import vocabulary


def units(count, width, seed=0):
  vectors = np.random.default_rng(seed).normal(size=(count, width))
  return (vectors / np.sqrt((vectors**2).sum(1))[:, None]).astype(np.float32)


def test_centres_are_normalised_kmeans_centres_and_repeat_exactly():
  features = units(120, 8)
  centres = vocabulary.mine(features, 7, seed=3, restarts=2)
  expected = KMeans(7, n_init=2, random_state=3).fit(features).cluster_centers_
  for centre, other in zip(centres, expected, strict=True):
    np.testing.assert_allclose(centre, other / np.sqrt(other @ other), atol=1e-6)
  assert centres.dtype == np.float32
  np.testing.assert_array_equal(centres, vocabulary.mine(features, 7, seed=3, restarts=2))
  assert not np.array_equal(centres, vocabulary.mine(features, 7, seed=4, restarts=1))


def test_well_separated_groups_are_found():
  groups = np.repeat(np.eye(4, 6, dtype=np.float32), 10, axis=0)
  noisy = groups + 0.01 * units(40, 6)
  centres = vocabulary.mine(noisy, 4, seed=0, restarts=3)
  assert sorted(centres.argmax(axis=1)) == [0, 1, 2, 3]
  assert (centres.max(axis=1) > 0.999).all()


@pytest.mark.parametrize("number", [0, -1, 6, 21])
def test_number_of_attributes_beyond_the_distinct_features_is_refused(number):
  features = np.repeat(units(5, 4), 4, axis=0)
  with pytest.raises(UserError, match=rf"language.num_attributes .*1\.\.5.*not {number}"):
    vocabulary.mine(features, number, seed=0, restarts=1)
  assert len(vocabulary.mine(features, 5, seed=0, restarts=1)) == 5


def test_restarts_are_checked():
  with pytest.raises(UserError, match="language.kmeans_restarts"):
    vocabulary.mine(units(5, 4), 2, seed=0, restarts=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 6), st.integers(0, 999))
def test_nearest_sentences_are_different_and_nearest_first(centres, count, wanted, seed):
  features, words = units(count, 3, seed), np.array([f"s{i}" for i in range(count)])
  # Every sentence twice, as if two classes shared it.
  found = vocabulary.nearest_sentences(
    (middle := units(centres, 3, seed + 1)), np.tile(features, (2, 1)), np.tile(words, 2), wanted
  )
  assert found.shape == (centres, wanted)
  for row, centre in zip(found, middle, strict=True):
    by_distance = sorted(range(count), key=lambda i: float(np.sum((features[i] - centre) ** 2)))
    expected = [f"s{i}" for i in by_distance[:wanted]]
    assert list(row) == expected + [""] * (wanted - len(expected))
