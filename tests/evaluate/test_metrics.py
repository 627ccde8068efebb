"""Metrics against pytorch-metric-learning and against a NumPy transcription of the definitions."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from lafg_jax.evaluate import metrics
from lafg_jax.utils.errors import UserError

KS = (1, 2, 4, 8, 10_000)


def clustered(rng, sizes, dim=16, noise=1.5):
  """Unit-norm embeddings in shuffled order, sizes[c] of class c."""
  labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
  x = rng.normal(size=(len(sizes), dim))[labels] + noise * rng.normal(size=(len(labels), dim))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def peer(queries, query_labels, gallery=None, gallery_labels=None):
  names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
  calculator = AccuracyCalculator(include=names, k=None)
  found = calculator.get_accuracy(queries, query_labels, gallery, gallery_labels)
  ours = ("recall@1", "r_precision", "map@r")
  return {mine: found[theirs] for mine, theirs in zip(ours, names, strict=True)}


def oracle(similarity, query_labels, gallery_labels, exclude_self, ks=KS):
  """The definitions, query by query; among equal similarities the non-matches come first."""
  recall, precision, average = [], [], []
  for i, label in enumerate(query_labels):
    keep = np.arange(len(gallery_labels)) != (i if exclude_self else -1)
    match = gallery_labels[keep] == label
    hit = match[np.lexsort((match, -similarity[i][keep]))]
    r = match.sum()
    if r:
      recall.append([hit[:k].any() for k in ks])
      precision.append(hit[:r].mean())
      average.append((np.cumsum(hit) / np.arange(1, len(hit) + 1) * hit)[:r].sum() / r)
  found = dict(zip((f"recall@{k}" for k in ks), np.mean(recall, 0), strict=True))
  return {**found, "r_precision": np.mean(precision), "map@r": np.mean(average)}


def assert_close(found, wanted, atol=1e-9):
  for key, value in wanted.items():
    assert found[key] == pytest.approx(value, abs=atol), key


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_pytorch_metric_learning_where_query_is_gallery(seed):
  rng = np.random.default_rng(seed)
  sizes = np.concatenate([np.ones(5, int), rng.integers(2, 40, 15)])
  x, labels = clustered(rng, sizes)
  found = metrics.evaluate_embeddings(x, labels, KS)
  assert_close(found, peer(x, labels), 1e-6)
  assert_close(found, oracle(x.astype(np.float64) @ x.T, labels, labels, True))
  assert found["recall@10000"] == 1.0
  assert found["num_queries"] == found["num_gallery"] == len(x)
  assert found["num_queries_without_match"] == 5
  assert found["num_classes"] == 20


def test_equals_pytorch_metric_learning_with_a_separate_gallery():
  rng = np.random.default_rng(7)
  x, labels = clustered(rng, rng.integers(1, 30, 25))
  third = len(x) // 3
  queries, query_labels = x[:third], labels[:third]
  gallery, gallery_labels = x[third:], labels[third:]
  found = metrics.retrieval_metrics(queries, query_labels, gallery, gallery_labels, ks=KS)
  assert_close(found, peer(queries, query_labels, gallery, gallery_labels), 1e-6)
  similarity = queries.astype(np.float64) @ gallery.T
  assert_close(found, oracle(similarity, query_labels, gallery_labels, False))
  assert (found["num_queries"], found["num_gallery"]) == (len(queries), len(gallery))
  assert found["num_classes"] == len(set(query_labels.tolist()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_duplicates_across_classes_count_against_the_match(seed):
  rng = np.random.default_rng(seed)
  distinct, _ = clustered(rng, np.full(40, 1))
  copy = rng.integers(0, 40, 300)
  x, labels = distinct[copy], rng.integers(0, 25, 300)
  # Similarities of the distinct vectors, so that copies tie exactly in the oracle.
  exact = distinct.astype(np.float64) @ distinct.T
  found = metrics.evaluate_embeddings(x, labels, KS)
  assert_close(found, oracle(exact[np.ix_(copy, copy)], labels, labels, True))
  theirs = peer(x, labels)
  assert all(found[key] <= theirs[key] + 1e-9 for key in theirs)
  assert any(found[key] < theirs[key] - 1e-3 for key in theirs)


def test_collapsed_embeddings_score_nothing():
  x = np.tile(np.float32([[0.6, 0.8]]), (50, 1))
  found = metrics.evaluate_embeddings(x, np.arange(50) // 5, (1, 45, 46))
  assert found["recall@1"] == found["recall@45"] == found["map@r"] == found["r_precision"] == 0
  assert found["recall@46"] == 1


def test_perfect_embeddings_score_one():
  found = metrics.evaluate_embeddings(np.eye(10, dtype=np.float32)[np.arange(60) % 10],
                                      np.arange(60) % 10, (1,))  # fmt: skip
  assert found["recall@1"] == found["map@r"] == found["r_precision"] == 1


def test_map_at_r_of_a_case_by_hand():
  # One query with R = 3; its neighbours in order: match, other, match, match.
  gallery = np.float32([[0.9], [0.8], [0.7], [0.6]])
  found = metrics.retrieval_metrics(
    np.ones((1, 1)), np.array([5]), gallery, np.array([5, 1, 5, 5]), ks=[1]
  )
  assert found["map@r"] == pytest.approx((1 + 2 / 3) / 3)
  assert found["r_precision"] == pytest.approx(2 / 3)


def test_normalize_ignores_lengths():
  rng = np.random.default_rng(2)
  x, labels = clustered(rng, np.full(12, 6))
  scaled = x * rng.uniform(0.01, 100, (len(x), 1))
  cosine = metrics.evaluate_embeddings(scaled, labels, KS, normalize=True)
  assert_close(cosine, oracle(x.astype(np.float64) @ x.T, labels, labels, True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(3, 64), classes=st.integers(1, 12))
def test_any_labels_and_ties_equal_the_oracle(seed, n, classes):
  rng = np.random.default_rng(seed)
  x = rng.integers(-2, 3, (n, 3)).astype(np.float32)  # exact products, many ties
  labels = rng.integers(0, classes, n)
  labels[:2] = labels[0]
  found = metrics.evaluate_embeddings(x, labels, KS)
  assert_close(found, oracle(x @ x.T, labels, labels, True))
  recalls = [found[f"recall@{k}"] for k in KS]
  assert recalls == sorted(recalls) and recalls[-1] == 1
  assert 0 <= found["map@r"] <= found["r_precision"] <= 1


X, LABELS = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
  "x, labels, ks, words",
  [
    (X, LABELS, (), "evaluate.ks is empty"),
    (X, LABELS, (1, 0), "0 is not a positive"),
    (X, LABELS, (1.5,), "1.5 is not a positive"),
    (X, LABELS, (True,), "True is not a positive"),
    (X, LABELS[:3], (1,), "query_labels: shape"),
    (X + np.inf, LABELS, (1,), "4 of 4 embeddings are not finite"),
    (X[:0], LABELS[:0], (1,), "non-empty"),
    (X, np.arange(4), (1,), "no query has another image"),
  ],
)
def test_bad_input_is_one_line(x, labels, ks, words):
  with pytest.raises(UserError, match=words) as error:
    metrics.evaluate_embeddings(x, labels, ks)
  assert "\n" not in str(error.value)


def test_scores_of_each_query_are_sklearns():
  rng = np.random.default_rng(3)
  x, labels = clustered(rng, np.array([1, 2, 5, 9, 1, 6]))
  scores, num_matches = metrics.per_query(x, labels, x, labels, ks=(1, 4), exclude_self=True)
  np.testing.assert_array_equal(num_matches, np.bincount(labels)[labels] - 1)
  assert {name: len(values) for name, values in scores.items()} == dict.fromkeys(scores, 22)
  for row, i in enumerate(np.flatnonzero(num_matches)):
    others = np.arange(len(x)) != i
    match, near = (labels == labels[i])[others], (x @ x[i])[others]
    r = match.sum()
    among = near >= np.sort(near)[-r]
    precision = sklearn.metrics.precision_score(match, among)
    assert scores["r_precision"][row] == pytest.approx(precision)
    # sklearn's AP of the first R alone is over the matches among them, not over all R.
    average = precision and sklearn.metrics.average_precision_score(match[among], near[among])
    assert scores["map@r"][row] == pytest.approx(average * precision)
    for k in (1, 4):
      assert scores[f"recall@{k}"][row] == match[near >= np.sort(near)[-k]].any()


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("sizes", [(1, 2, 3, 9), (6, 6), (4,), (2, 1, 1)])
def test_the_chance_level_is_the_mean_over_random_rankings(sizes, lists):
  rng = np.random.default_rng(len(sizes))
  labels = np.repeat(np.arange(len(sizes)), sizes)
  asks = (np.arange(len(labels)) % 2 == 0) if lists else None
  queries, gallery = (labels[asks], labels[~asks]) if lists else (labels, labels)
  ks, draws, rounds = (1, 2, 5, 100), [], 800
  for _ in range(rounds):
    similarity = rng.random((len(queries), len(gallery)))
    draws.append(oracle(similarity, queries, gallery, not lists, ks))
  x = np.eye(len(labels), dtype=np.float32)
  found = metrics.evaluate_embeddings(x, labels, ks, is_query=asks)["chance"]
  assert list(found) == ["recall@1", "recall@2", "recall@5", "recall@100", "map@r", "r_precision"]
  for name, value in found.items():
    seen = np.array([draw[name] for draw in draws])
    # Five standard errors of the mean.
    assert abs(seen.mean() - value) <= 5 * seen.std() / np.sqrt(rounds) + 1e-9, name
