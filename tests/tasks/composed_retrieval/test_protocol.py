"""Figures of rankings: the documents' worked examples, golden values, scikit-learn and NumPy."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from lafg_jax.data import composed
from lafg_jax.tasks.composed_retrieval import default, protocol, submission

SHARED = Path(__file__).parents[3] / "../shared/data/composed"


def ranking(rng, part, columns=None):
  """[Q, K] random rows of the gallery, the reference left out."""
  rows = []
  for query in part.queries:
    order = rng.permutation(part.gallery)
    if part.drop_reference:
      order = order[order != part.ids.index(query.reference)]
    rows.append(order[: columns or len(part.gallery) - 1])
  return np.array(rows, np.int32)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/composed")
def test_circos_example_submission_scores_the_golden_values():
  config = default.get_config()
  config.composed.update(source="circo", root=str(SHARED / "circo"), missing="annotations")
  config.composed.gallery_file = str(SHARED / "ldre/circo_gallery_ids.npy")
  [part] = composed.load(config)
  ranked = submission.read(part, SHARED / "circo/submission_examples/submission_val.json")
  found = protocol.figures(part, ranked)
  percent = {name: round(100 * x, 4) for name, x in found.items() if isinstance(x, float)}
  assert percent == {
    "map@5": 0.4861, "map@10": 0.5178, "map@25": 0.5400, "map@50": 0.6020,
    "recall@5": 0.9091, "recall@10": 0.9091, "recall@25": 1.3636, "recall@50": 3.6364,
  }  # fmt: skip
  assert len(found["by_kind"]) == 9 and found["reference"] == "kept"
  one = [q for q in part.queries if "viewpoint" in q.kinds]
  assert found["by_kind"]["viewpoint"]["num_queries"] == len(one)
  # 10 of 123,403 images, and one that is right.
  assert found["chance"]["recall@10"] == pytest.approx(10 / 123403)


def test_the_worked_example_of_circo(part_of, query):
  part = part_of([query(0, 60, (10, 11, 12, 13))], 61, "circo", drop=False)
  order = [10, 20, 11, 21, 22, 12, *range(23, 60), 13, *range(0, 6)]
  found = protocol.figures(part, np.array([order], np.int32))
  assert round(found["map@5"], 5) == 0.41667 and round(found["map@10"], 5) == 0.54167


def test_the_worked_example_of_cirr(part_of, query):
  r, a, b, t, c, d = range(6)
  part = part_of([query(1, r, (t,), (r, a, b, t, c, d))], 60, "cirr")
  order = [a, c, t, *(x for x in range(1, 60) if x not in (a, c, t))]
  found = protocol.figures(part, np.array([order]), np.array([[a, c, t, b, d]]))
  assert [found[f"recall@{k}"] for k in (1, 5)] == [0, 1]
  assert [found[f"subset_recall@{k}"] for k in (1, 2, 3)] == [0, 0, 1]
  assert found["mean"] == 0.5 and found["chance"]["subset_recall@1"] == pytest.approx(0.2)
  assert found["chance"]["recall@5"] == pytest.approx(5 / 59)
  # A reference that is kept shows in the chance level of the subset: 1 of 6.
  kept = part._replace(drop_reference=False)
  assert np.array_equal(protocol.members(kept), [[r, a, b, t, c, d]])
  assert np.array_equal(protocol.members(part), [[a, b, t, c, d]])
  found = protocol.figures(kept, np.array([[r, *order]]), np.array([[r, a, c, t, b, d]]))
  assert found["chance"]["subset_recall@1"] == pytest.approx(1 / 6) and found["recall@1"] == 0


def test_average_precision_is_that_of_scikit_learn_and_of_the_formula():
  rng = np.random.default_rng(0)
  hits = np.zeros((20, 40), bool)
  for row in hits:
    row[rng.choice(40, rng.integers(1, 9), replace=False)] = True
  number = hits.sum(1)
  whole = protocol.average_precision(hits, number, 40)
  theirs = [average_precision_score(row, -np.arange(40)) for row in hits]
  np.testing.assert_allclose(whole, theirs, rtol=1e-12)
  for k in (1, 5, 10):
    by_hand = []
    for row, answers in zip(hits, number, strict=True):
      total = sum(row[: r + 1].sum() / (r + 1) for r in range(k) if row[r])
      by_hand.append(total / min(k, answers))
    np.testing.assert_allclose(protocol.average_precision(hits, number, k), by_hand, rtol=1e-12)


def test_recalls_of_several_targets(part_of, query):
  rng = np.random.default_rng(1)
  queries = [query(k, k, rng.choice(np.arange(30, 80), 3, replace=False)) for k in range(25)]
  targets = part_of(queries, 80)
  ranked = ranking(rng, targets)
  found = protocol.per_query(targets, ranked)
  for k in (1, 5, 10, 50):
    any_right = [
      bool({str(x) for x in row[:k]} & set(q.targets))
      for row, q in zip(ranked, queries, strict=True)
    ]
    assert found[f"recall@{k}"].tolist() == any_right
  # CIRCO's recall is of the main target alone.
  circo = protocol.per_query(targets._replace(protocol="circo"), ranked)
  main = [
    q.targets[0] in {str(x) for x in row[:10]} for row, q in zip(ranked, queries, strict=True)
  ]
  assert circo["recall@10"].tolist() == main and circo["recall@10"].sum() < 25
  assert np.array_equal(circo["map@10"], found["map@10"])


def test_chance_is_the_mean_over_all_rankings(part_of, query):
  # All orders of the five candidates beside the reference.
  part = part_of([query(0, 5, (0, 3))], 6)
  orders = np.array([order for order in itertools.permutations(range(5))], np.int32)
  every = part._replace(queries=part.queries * len(orders))
  measured = protocol.per_query(every, orders)
  chance = protocol.figures(part, orders[:1])["chance"]
  assert {name: pytest.approx(x.mean()) for name, x in measured.items()} == chance
  # A reference outside of the gallery takes no place from it.
  part = part_of([query(0, 5, (0, 3))], 5, outside=1)
  assert protocol.figures(part, orders[:1])["chance"] == chance


def test_kinds_of_queries_have_their_own_figures(part_of, query):
  queries = [query(0, 0, (1,), kinds=("a",)), query(1, 0, (2,), kinds=("a", "b"))]
  part = part_of(queries, 60)
  ranked = np.array([[1, *range(2, 60)], [1, *range(2, 60)]], np.int32)
  found = protocol.figures(part, ranked)
  assert found["recall@1"] == 0.5 and found["by_kind"]["a"]["recall@1"] == 0.5
  assert found["by_kind"]["b"]["recall@1"] == 0 and found["by_kind"]["b"]["num_queries"] == 1
  assert found["by_kind"]["b"]["chance"]["recall@1"] == pytest.approx(1 / 59)
  assert found["answers"] == {"mean": 1, "median": 1, "most": 1}
  assert "partial" not in found
  assert protocol.figures(part._replace(missing=("x",)), ranked)["partial"] is True


def test_fashioniq_is_the_mean_of_its_categories(part_of, query):
  first = part_of([query(k, 0, (1,)) for k in range(3)], 60, "fashioniq", drop=False, name="dress")
  second = part_of([query(0, 0, (59,))], 60, "fashioniq", drop=False, name="shirt")
  order = np.arange(60, dtype=np.int32)[None]
  results = {
    "dress": protocol.figures(first, np.repeat(order, 3, 0)),
    "shirt": protocol.figures(second, order),
  }
  found = protocol.merged(results)
  # The mean of 1 and 0, not 3 of 4; the reference, which is first, stays in the ranking.
  assert found["recall@10"] == 0.5 and found["recall@1"] == 0 and found["num_queries"] == 4
  assert found["chance"]["recall@10"] == pytest.approx(10 / 60)
  assert found["parts"] == results
  assert protocol.merged({"dress": results["dress"]}) == results["dress"]


def test_secret_targets_have_no_figures(part_of, query):
  part = part_of([query(0, 0), query(1, 0)], 60, "circo", drop=False)
  ranked = np.tile(np.arange(50, dtype=np.int32), (2, 1))
  assert protocol.figures(part, ranked) == {} == protocol.merged({"circo": {}})
  with pytest.raises(ValueError, match="too few"):
    protocol.figures(part, ranked[:, :49])
  some = part._replace(queries=(query(0, 0), query(1, 0, (3,))))
  with pytest.raises(ValueError, match="some queries have targets"):
    protocol.figures(some, ranked)


def changed(ranked, at, value):
  ranked = ranked.copy()
  ranked[at] = value
  return ranked


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda x: changed(x, 1, -1), "query 1 has too few images"),
    (lambda x: changed(x, (1, slice(49, None)), -1), "too few"),
    (lambda x: changed(x, (1, 3), -1), "has -1 before an image"),
    (lambda x: changed(x, (1, 3), x[1, 7]), "has an image twice"),
    (lambda x: changed(x, (1, 58), 0), "query 1 has its reference"),
    (lambda x: changed(x, (1, 58), 60), "query 1 has an image that is no candidate"),
    (lambda x: changed(x, (1, 58), 61), "rows that are no images"),
    (lambda x: changed(x, (1, 58), -2), "rows that are no images"),
    (lambda x: x.astype(float), "type float64"),
    (lambda x: x[:1], "of shape"),
    (lambda x: x[:, :40], "too few"),
  ],
)
def test_broken_rankings_are_errors(part_of, query, change, said):
  part = part_of([query(0, 0, (1,)), query(1, 0, (2,))], 60, outside=1)
  good = np.tile(np.arange(1, 60, dtype=np.int32), (2, 1))
  protocol.figures(part, good)
  with pytest.raises(ValueError, match=said):
    protocol.figures(part, change(good))


def test_a_subset_needs_its_ranking_and_a_small_gallery_fewer_ranks(part_of, query):
  part = part_of([query(0, 0, (1,), range(6))], 7, "cirr")
  ranked = np.array([[1, 2, 3, 4, 5, 6, -1]], np.int32)
  subset = np.array([[1, 2, 3, 4, 5]], np.int32)
  assert protocol.depth(part) == 7
  assert protocol.figures(part, ranked, subset)["subset_recall@1"] == 1
  for broken, said in (
    (None, "no ranking of them"),
    (changed(subset, (0, 4), 6), "subset of query 0 has an image that is no candidate"),
    (changed(subset, (0, 4), 0), "subset of query 0 has its reference"),
    (subset[:, :2], "subset of query 0 has too few"),
  ):
    with pytest.raises(ValueError, match=said):
      protocol.figures(part, ranked, broken)
  with pytest.raises(ValueError, match="has no subsets"):
    protocol.figures(part_of([query(0, 0, (1,))], 7), ranked, subset)
