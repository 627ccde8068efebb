"""The vocabulary: scikit-learn's K-means, normalised, and the sentences that explain it."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans, MiniBatchKMeans

from lafg_jax.language import vocabulary
from lafg_jax.utils.errors import UserError


def units(count, width, seed=0):
  vectors = np.random.default_rng(seed).normal(size=(count, width))
  return (vectors / np.sqrt((vectors**2).sum(1))[:, None]).astype(np.float32)


def test_centres_are_normalised_kmeans_centres_and_repeat_exactly():
  features = units(120, 8)
  found = vocabulary.mine(features, 7, seed=3, restarts=2)
  expected = KMeans(7, n_init=2, random_state=3).fit(features)
  for centre, other in zip(found.centres, expected.cluster_centers_, strict=True):
    np.testing.assert_allclose(centre, other / np.sqrt(other @ other), atol=1e-6)
  np.testing.assert_array_equal(found.labels, expected.labels_)
  np.testing.assert_allclose(found.inertia, expected.inertia_, rtol=1e-4)
  assert found.centres.dtype == np.float32
  again = vocabulary.mine(features, 7, seed=3, restarts=2).centres
  np.testing.assert_array_equal(found.centres, again)
  other = vocabulary.mine(features, 7, seed=4, restarts=1).centres
  assert not np.array_equal(found.centres, other)


VARIANTS = [{}, {"spherical": True}, {"minibatch_above": 39}]


@pytest.mark.parametrize("options", VARIANTS)
def test_well_separated_groups_are_found(options):
  groups = np.repeat(np.eye(4, 6, dtype=np.float32), 10, axis=0)
  noisy = groups + 0.01 * units(40, 6)
  centres = vocabulary.mine(noisy, 4, seed=0, restarts=3, **options).centres
  assert sorted(centres.argmax(axis=1)) == [0, 1, 2, 3]
  assert (centres.max(axis=1) > 0.999).all()


@pytest.mark.parametrize("number", [0, -1, 6, 21])
def test_number_of_attributes_beyond_the_distinct_features_is_refused(number):
  features = np.repeat(units(5, 4), 4, axis=0)
  with pytest.raises(UserError, match=rf"language.num_attributes={number}: .*1\.\.5"):
    vocabulary.mine(features, number, seed=0, restarts=1)
  assert len(vocabulary.mine(features, 5, seed=0, restarts=1).centres) == 5


def test_restarts_are_checked():
  with pytest.raises(UserError, match="language.kmeans_restarts"):
    vocabulary.mine(units(5, 4), 2, seed=0, restarts=0)


def test_mini_batches_are_used_only_above_the_size():
  features = units(300, 6)
  whole = vocabulary.mine(features, 9, seed=0, restarts=1)
  same = vocabulary.mine(features, 9, seed=0, restarts=1, minibatch_above=300)
  np.testing.assert_array_equal(same.centres, whole.centres)
  batches = vocabulary.mine(features, 9, seed=0, restarts=1, minibatch_above=299)
  expected = MiniBatchKMeans(9, n_init=1, random_state=0).fit(features).cluster_centers_
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(batches.centres, expected, atol=1e-6)
  assert not np.allclose(batches.centres, whole.centres, atol=1e-3)
  assert batches.inertia < 1.2 * whole.inertia


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(2, 5), st.data())
def test_spherical_centres_are_the_directions_of_their_clusters(count, width, data):
  features = units(count, width, data.draw(st.integers(0, 999)))
  number = data.draw(st.integers(1, count))
  found = vocabulary.mine(features, number, seed=1, restarts=2, spherical=True)
  assert set(found.labels) == set(range(number))
  total = 0.0
  for n, centre in enumerate(found.centres):
    members = features[found.labels == n].astype(np.float64)
    mean = members.sum(axis=0)
    np.testing.assert_allclose(centre, mean / np.sqrt(mean @ mean), atol=1e-4)
    total += ((members - members.mean(axis=0)) ** 2).sum()
  # No feature is nearer to another centre.
  cosines = features @ found.centres.T
  own = cosines[np.arange(count), found.labels]
  assert (own >= cosines.max(axis=1) - 1e-6).all()
  np.testing.assert_allclose(found.inertia, total, atol=1e-5)
  again = vocabulary.mine(features, number, seed=1, restarts=2, spherical=True)
  np.testing.assert_array_equal(again.centres, found.centres)


def specificity_by_loops(features, owners):
  def unit(vector):
    norm = np.sqrt(vector @ vector)
    return vector / norm if norm else vector

  found = []
  for i, feature in enumerate(features):
    rest = [features[j] for j in range(len(features)) if owners[j] == owners[i] and j != i]
    others = [
      unit(np.mean([f for f, o in zip(features, owners, strict=True) if o == other], axis=0))
      for other in sorted(set(owners) - {owners[i]})
    ]
    if rest and others:
      found.append(feature @ unit(np.mean(rest, axis=0)) - np.mean([feature @ m for m in others]))
    else:
      found.append(np.inf)
  return np.array(found)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=14), st.integers(0, 999))
def test_specificity_equals_its_definition(owners, seed):
  features = units(len(owners), 4, seed).astype(np.float64)
  found = vocabulary.specificity(features, np.array(owners))
  np.testing.assert_allclose(found, specificity_by_loops(features, owners), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=14), st.floats(0, 0.99))
def test_the_most_generic_go_and_every_class_keeps_one(owners, fraction):
  features = units(len(owners), 4, len(owners))
  margin = vocabulary.specificity(features, np.array(owners))
  dropped = vocabulary.generic(features, np.array(owners), fraction)
  assert len(dropped) == min(int(fraction * len(owners)), len(owners) - len(set(owners)))
  kept = sorted(set(range(len(owners))) - set(dropped.tolist()))
  assert {owners[row] for row in kept} == set(owners)
  for row in kept:
    # Kept: more specific than all that went, or the best of its class.
    best = max(margin[i] for i in range(len(owners)) if owners[i] == owners[row])
    assert margin[row] == best or all(margin[row] >= margin[i] for i in dropped)


def test_sentences_that_fit_every_class_are_the_generic_ones():
  rng = np.random.default_rng(0)
  owners = np.repeat(np.arange(6), 5)
  features = np.eye(8)[owners] + 0.1 * rng.normal(size=(30, 8))
  features[::5] = np.eye(8)[7] + 0.1 * rng.normal(size=(6, 8))  # one in every class
  features /= np.linalg.norm(features, axis=1, keepdims=True)
  assert sorted(vocabulary.generic(features, owners, 0.2)) == list(range(0, 30, 5))
  assert len(vocabulary.generic(features, owners, 0.0)) == 0
  for fraction in (-0.1, 1.0, float("nan")):
    with pytest.raises(UserError, match="language.drop_generic"):
      vocabulary.generic(features, owners, fraction)


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


# Sentences, classes, K asked for -> N, K: counted by hand from the rule in the docstring.
SIZES = [
  (980, 98, 10, 256, 10),  # Cars-196, and CUB, In-Shop and SOP below: the paper's 256
  (1000, 100, 10, 256, 10),
  (480, 11318, 10, 256, 10),
  (149, 15, 10, 64, 10),
  (30, 3, 10, 16, 8),
  (2, 2, 10, 1, 1),
  (1, 1, 10, 1, 1),
  (5000, 2, 10, 8, 4),  # two classes cannot share more among them
  (100000, 1000, 10, 256, 10),
]


@pytest.mark.parametrize(("sentences", "classes", "top_k", "count", "attended"), SIZES)
def test_auto_leaves_sentences_and_classes_to_share(sentences, classes, top_k, count, attended):
  language = SimpleNamespace(num_attributes=0, top_k=top_k)
  assert vocabulary.sizes(language, sentences, classes) == (count, attended)
  assert count <= sentences and attended <= count
  language.num_attributes = 7
  assert vocabulary.sizes(language, sentences, classes) == (7, top_k)
