"""Top-K attention against a loop over the formula, and the file it is written to."""

import math

import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.language import prototypes
from lafg_jax.tasks.class_retrieval import language_base as reading
from lafg_jax.utils.errors import UserError

CASE = st.tuples(
  st.integers(1, 6), st.integers(1, 9), st.integers(1, 5), st.integers(0, 999)
).flatmap(
  lambda case: st.tuples(st.just(case), st.integers(1, case[1]), st.sampled_from([0.01, 0.1, 1, 5]))
)


def units(count, width, rng):
  vectors = rng.normal(size=(count, width))
  return (vectors / np.sqrt((vectors**2).sum(1))[:, None]).astype(np.float32)


def attend_by_loops(queries, vocabulary, top_k, tau_k):
  """The formula of the paper, entry by entry in Python floats."""
  prototypes_, indices, weights = [], [], []
  for query in queries.tolist():
    dots = [math.fsum(a * b for a, b in zip(query, entry, strict=True)) for entry in vocabulary]
    chosen = sorted(range(len(dots)), key=lambda n: (-dots[n], n))[:top_k]
    total = math.fsum(math.exp(dots[n] / tau_k) for n in chosen)
    share = [math.exp(dots[n] / tau_k) / total for n in chosen]
    prototypes_.append(
      [
        value + math.fsum(w * float(vocabulary[n][d]) for w, n in zip(share, chosen, strict=True))
        for d, value in enumerate(query)
      ]
    )
    indices.append(chosen)
    weights.append(share)
  return np.array(prototypes_), np.array(indices), np.array(weights)


@settings(max_examples=60, deadline=None)
@given(CASE)
def test_prototypes_equal_the_formula(drawn):
  (classes, entries, width, seed), top_k, tau_k = drawn
  rng = np.random.default_rng(seed)
  queries, vocabulary = units(classes, width, rng), units(entries, width, rng)
  if width == 1:  # Every entry is +1 or -1 there: ties, lower index first.
    assert set(np.abs(vocabulary).ravel()) == {1}
  found = prototypes.attend(queries, vocabulary, top_k, tau_k)
  expected = attend_by_loops(queries, vocabulary, top_k, tau_k)
  # Cosines are in float32, and the temperature divides what they are rounded by.
  np.testing.assert_allclose(found[0], expected[0], atol=1e-6 + 1e-7 / tau_k)
  np.testing.assert_array_equal(found[1], expected[1])
  np.testing.assert_allclose(found[2], expected[2], atol=1e-6 + 1e-7 / tau_k)
  assert [array.dtype for array in found] == [np.float32, np.int32, np.float32]


@settings(max_examples=40, deadline=None)
@given(CASE)
def test_weights_sum_to_one_and_classes_are_independent(drawn):
  (classes, entries, width, seed), top_k, tau_k = drawn
  rng = np.random.default_rng(seed)
  queries, vocabulary = units(classes, width, rng), units(entries, width, rng)
  found, indices, weights = prototypes.attend(queries, vocabulary, top_k, tau_k)
  np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
  assert (weights >= 0).all() and (np.diff(weights, axis=1) <= 1e-7).all()
  assert all(len(set(row)) == top_k for row in indices.tolist())
  order = rng.permutation(classes)
  permuted = prototypes.attend(queries[order], vocabulary, top_k, tau_k)[0]
  np.testing.assert_allclose(permuted, found[order], atol=1e-6)
  # The order of the vocabulary does not matter, unless a tie is cut at K.
  if width > 1:
    shuffled = prototypes.attend(queries, rng.permutation(vocabulary), top_k, tau_k)[0]
    np.testing.assert_allclose(shuffled, found, atol=1e-6)


def test_limits_of_the_temperature():
  rng = np.random.default_rng(0)
  queries, vocabulary = units(3, 5, rng), units(8, 5, rng)
  sharp, indices, _ = prototypes.attend(queries, vocabulary, 4, 1e-5)
  np.testing.assert_allclose(sharp, queries + vocabulary[indices[:, 0]], atol=1e-6)
  flat, indices, weights = prototypes.attend(queries, vocabulary, 4, 1e6)
  np.testing.assert_allclose(weights, 0.25, atol=1e-5)
  np.testing.assert_allclose(flat, queries + vocabulary[indices].mean(axis=1), atol=1e-5)


@pytest.mark.parametrize(
  ("top_k", "tau_k", "key"),
  [(0, 1, "top_k"), (9, 1, "top_k"), (2, 0, "tau_k"), (2, -1, "tau_k"), (2, np.nan, "tau_k")],
)
def test_settings_out_of_range_name_the_key(top_k, tau_k, key):
  rng = np.random.default_rng(0)
  with pytest.raises(UserError, match=f"language.{key} must"):
    prototypes.attend(units(3, 5, rng), units(8, 5, rng), top_k, tau_k)


def profile_by_loops(features, owners, vocabulary, tau):
  """Shares of each class in each attribute: a sum over its sentences, one at a time."""
  mean = features.mean(axis=0)
  shares = np.zeros((owners.max() + 1, len(vocabulary)))
  for feature, owner in zip(features, owners, strict=True):
    cosines = []
    for entry in vocabulary:
      x, y = feature - mean, entry - mean
      cosines.append(float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)))
    total = math.fsum(math.exp(c / tau) for c in cosines)
    shares[owner] += [math.exp(c / tau) / total for c in cosines]
  return shares / np.bincount(owners)[:, None]


@pytest.mark.parametrize("tau", [0.02, 0.3, 5.0])
def test_profiles_are_roots_of_mean_shares(tau):
  rng = np.random.default_rng(1)
  features, vocabulary = units(20, 6, rng), units(7, 6, rng)
  owners = np.array([0, 1, 2, 3] * 4 + [2, 2, 1, 0])
  found = prototypes.profiles(features, owners, vocabulary, tau)
  shares = profile_by_loops(features.astype(np.float64), owners, vocabulary, tau)
  np.testing.assert_allclose(found**2, shares, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
  assert found.dtype == np.float32 and found.min() >= 0


def test_a_profile_tells_attributes_apart_that_one_point_a_class_does_not():
  # Each class says three of nine things, a sentence each, and all things lie near to each other.
  things = np.eye(9) + 3.0
  things /= np.linalg.norm(things, axis=1, keepdims=True)
  says = np.array([[0, 1, 2], [0, 1, 3], [4, 5, 6], [4, 5, 7]])
  features, owners = things[says.ravel()], np.repeat(np.arange(4), 3)
  found = prototypes.profiles(features, owners, things, 0.05)
  shared = np.array([[len(set(a) & set(b)) / 3 for b in says] for a in says])
  np.testing.assert_allclose(found @ found.T, shared, atol=1e-3)
  means = np.stack([features[owners == c].mean(axis=0) for c in range(4)])
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  assert (means @ means.T).min() > 0.95


def test_a_sentence_at_the_mean_says_as_much_of_everything():
  features = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
  found = prototypes.profiles(features, np.array([0, 0, 1]), np.array([[1.0, 0], [-1.0, 0]]), 0.1)
  np.testing.assert_allclose(found**2, 0.5, atol=1e-6)


NAMES = ("a", "b", "c")


def section(**changes):
  values = {
    "query": "name",
    "num_attributes": 4,
    "top_k": 3,
    "tau_k": 0.5,
    "kmeans_seed": 0,
    "kmeans_restarts": 1,
    "minibatch_above": 1000,
    "spherical": False,
    "drop_generic": 0.0,
    "wrong_sentences": 0.0,
    "tau_profile": 0.1,
  }
  return ml_collections.ConfigDict(values | changes)


@pytest.fixture
def workdir(tmp_path):
  rng = np.random.default_rng(0)
  np.savez(
    tmp_path / "text_features.npz",
    class_names=np.array(NAMES),
    class_described=np.arange(3, dtype=np.int32),
    sentences=np.array([f"sentence {i}" for i in range(12)]),
    sentence_described=np.arange(12, dtype=np.int32) % 3,
    sentence_features=units(12, 5, rng),
    queries=units(3, 5, rng),
    encoder=np.array("an/encoder"),
  )
  return tmp_path


@pytest.mark.parametrize("names", [NAMES, ("c", "a", "b")])
def test_written_file_holds_what_the_contract_says(workdir, names):
  path = prototypes.run(section(), workdir, names)
  source = np.load(workdir / "text_features.npz")
  with np.load(path, allow_pickle=False) as found:
    rows = [NAMES.index(name) for name in names]
    assert list(found["class_names"]) == list(names)
    np.testing.assert_array_equal(found["queries"], source["queries"][rows])
    np.testing.assert_allclose(np.linalg.norm(found["vocabulary"], axis=1), 1, rtol=1e-6)
    expected = attend_by_loops(found["queries"], found["vocabulary"], 3, 0.5)
    np.testing.assert_allclose(found["prototypes"], expected[0], atol=1e-6)
    np.testing.assert_array_equal(found["topk_indices"], expected[1])
    np.testing.assert_allclose(found["topk_weights"], expected[2], atol=1e-6)
    assert found["nearest_sentences"].shape == (4, 5)
    assert set(found["nearest_sentences"].ravel()) <= set(source["sentences"])
    for row, mean in zip(rows, found["description_means"], strict=True):
      own = [
        source["sentence_features"][i] for i in range(12) if source["sentence_described"][i] == row
      ]
      np.testing.assert_allclose(mean, sum(own) / 4, atol=1e-6)
    wanted = profile_by_loops(
      source["sentence_features"].astype(np.float64),
      source["sentence_described"],
      found["vocabulary"].astype(np.float64),
      0.1,
    )
    np.testing.assert_allclose(found["attribute_profiles"] ** 2, wanted[rows], atol=1e-5)
    assert str(found["encoder"]) == "an/encoder"
    loaded = reading.load(path, names, centre=False, shuffle=False, seed=0)
    np.testing.assert_array_equal(loaded.prototypes, found["prototypes"])
    loaded = reading.load(path, names, centre=False, shuffle=False, seed=0, kind="profile")
    np.testing.assert_array_equal(loaded.prototypes, found["attribute_profiles"])


def test_query_may_take_in_the_descriptions(workdir):
  with np.load(prototypes.run(section(), workdir, NAMES)) as plain:
    prompts, means = plain["queries"], plain["description_means"]
  with np.load(prototypes.run(section(query="descriptions"), workdir, NAMES)) as found:
    for query, prompt, mean in zip(found["queries"], prompts, means, strict=True):
      both = prompt.astype(np.float64) + mean
      np.testing.assert_allclose(query, both / np.sqrt(both @ both), atol=1e-6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"num_attributes": 13}, "language.num_attributes"),
    ({"top_k": 5}, "language.top_k"),
    ({"query": "both"}, "language.query is .*'both'"),
  ],
)
def test_bad_section_writes_nothing(workdir, changes, message):
  with pytest.raises(UserError, match=message):
    prototypes.run(section(**changes), workdir, NAMES)
  assert [path.name for path in workdir.iterdir()] == ["text_features.npz"]


def test_features_of_other_classes_or_none_are_refused(workdir, tmp_path):
  for names in (("a", "b"), ("a", "b", "c", "d")):
    with pytest.raises(UserError, match="text_features.npz .*run --stage=encode"):
      prototypes.run(section(), workdir, names)
  with pytest.raises(UserError, match="text_features.npz does not exist: run --stage=encode"):
    prototypes.run(section(), tmp_path / "empty", NAMES)


def test_wrong_sentences_are_dealt_to_other_classes_only():
  owners = np.repeat(np.arange(8), 5)
  assert np.array_equal(prototypes.deal_out(owners, 0.0, 0), owners)
  for share in (0.1, 0.5):
    dealt = prototypes.deal_out(owners, share, 3)
    assert (dealt != owners).sum() == round(share * len(owners))
    assert np.array_equal(np.bincount(dealt), np.bincount(owners))
    assert np.array_equal(dealt, prototypes.deal_out(owners, share, 3))
