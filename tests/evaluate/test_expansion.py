"""alpha-QE against its formula in NumPy, one query at a time."""

import dataclasses
import json

import numpy as np
import pytest

from lafg_jax.evaluate import expansion, metrics, results
from lafg_jax.tasks.class_retrieval import protocol
from lafg_jax.tasks.class_retrieval.references import Reading
from lafg_jax.utils.errors import UserError


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(query, gallery, n, alpha, left_out=None):
  cosines = gallery.astype(np.float64) @ query
  order = [row for row in np.argsort(-cosines, kind="stable") if row != left_out][:n]
  total = query.astype(np.float64)
  for row in order:
    if cosines[row] > 0:
      total = total + cosines[row] ** alpha * gallery[row]
  return total / np.linalg.norm(total)


@pytest.fixture
def rows():
  rng = np.random.default_rng(0)
  centres = rng.standard_normal((6, 8))
  labels = np.repeat(np.arange(6), 5)
  x = unit(centres[labels] + 1.2 * rng.standard_normal((30, 8))).astype(np.float32)
  return x, labels


@pytest.mark.parametrize(("n", "alpha"), [(1, 3.0), (4, 0.0), (4, 3.0), (7, 0.5), (29, 2.0)])
def test_it_is_the_formula(rows, n, alpha):
  x, _ = rows
  found = expansion.expanded(x, x, n, alpha, exclude_self=True)
  wanted = [by_hand(x[i], x, n, alpha, i) for i in range(len(x))]
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  found = expansion.expanded(x[:9], x[9:], n, alpha)
  np.testing.assert_allclose(found, [by_hand(q, x[9:], n, alpha) for q in x[:9]], atol=1e-5)
  assert found.dtype == np.float32


def test_more_neighbours_than_there_are_and_chunks(rows, monkeypatch):
  x, _ = rows
  monkeypatch.setattr(expansion, "_CHUNK", 7)
  found = expansion.expanded(x, x[:3], 10, 1.0)
  np.testing.assert_allclose(found, [by_hand(q, x[:3], 10, 1.0) for q in x], atol=1e-5)


def test_the_query_itself_is_no_neighbour(rows):
  x, _ = rows
  with_self = expansion.expanded(x, x, 1, 3.0)
  np.testing.assert_allclose(with_self, x, atol=1e-5)
  assert np.abs(expansion.expanded(x, x, 1, 3.0, exclude_self=True) - x).max() > 0.05


@pytest.mark.parametrize("split", [False, True])
def test_figures_are_those_of_the_expanded_queries(rows, split, tmp_path):
  x, labels = rows
  asks = np.arange(30) % 3 == 0 if split else None
  found = expansion.figures(x, labels, (1, 2), 3, 3.0, asks)
  if split:
    q, g = asks, ~asks
    wanted = np.array([by_hand(v, x[g], 3, 3.0) for v in x[q]])
    cosines, right = wanted @ x[g].T, labels[q][:, None] == labels[g]
  else:
    wanted = np.array([by_hand(x[i], x, 3, 3.0, i) for i in range(30)])
    cosines = np.where(np.eye(30), -2, wanted @ x.T)
    right = (labels[:, None] == labels) & ~np.eye(30, dtype=bool)
  order = np.argsort(-cosines, axis=1)
  hits = np.take_along_axis(right, order, 1)
  assert found["recall@1"] == pytest.approx(hits[:, 0].mean())
  assert found["recall@2"] == pytest.approx(hits[:, :2].any(1).mean())
  plain = metrics.evaluate_embeddings(x, labels, (1, 2), is_query=asks)
  assert found["map@r"] != plain["map@r"]
  # As evaluate.source=FILE has them: beside the plain ones, which stay.
  arrays = {"vectors": 3 * x, "labels": labels} | ({"is_query": asks} if split else {})
  np.savez(tmp_path / "e.npz", **arrays)
  result = results.evaluate_file(str(tmp_path / "e.npz"), (1, 2), (3, 3.0))
  assert result["expanded"] == pytest.approx(found, abs=1e-6)
  assert result["map@r"] == pytest.approx(plain["map@r"])
  assert (result["expanded"]["n"], result["expanded"]["alpha"]) == (3, 3.0)
  json.dumps(result)
  head, *lines = results.rows_of(result | {"source": "e.npz"})
  assert head[2] == "expanded" and len(lines) == 4


def test_what_cannot_be_is_one_line(rows):
  x, _ = rows
  for n, alpha in ((0, 3.0), (-1, 3.0), (1, -0.5), (1, float("nan"))):
    with pytest.raises(UserError, match="expand is|alpha is"):
      expansion.expanded(x, x, n, alpha)


def test_an_evaluation_has_them_beside_its_own_where_they_are_asked_for(
  rows, config_with, dataset, monkeypatch, tmp_path
):
  x, labels = rows
  some = dataclasses.replace(
    dataset, images=dataset.images[:30], labels=labels, ids=dataset.ids[:30], is_query=None
  )
  monkeypatch.setattr(protocol, "make_embed", lambda *model: None)
  monkeypatch.setattr(protocol, "embed_dataset", lambda *_: ([x, x[::-1]], np.arange(30)))
  off = config_with(evaluate__ks=(1, 2))
  models = [(None, None)] * 2
  readings = {"trained": Reading(0), "untrained": Reading(1)}
  found = protocol._evaluate_models(off, models, some, str(tmp_path), readings)
  assert "expanded" not in found["trained"]
  config = config_with(evaluate__ks=(1, 2), evaluate__expand=3, evaluate__expand_alpha=2.0)
  found = protocol._evaluate_models(config, models, some, str(tmp_path), readings)
  assert found["trained"]["expanded"] == expansion.figures(x, labels, (1, 2), 3, 2.0)
  assert "expanded" not in found["untrained"]
