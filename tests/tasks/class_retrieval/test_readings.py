"""What the report reads of an evaluation, against counts by hand, scikit-learn and the formula."""

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data.datasets import Dataset
from lafg_jax.tasks.class_retrieval import confusions, projection, queries, readings
from lafg_jax.tasks.class_retrieval import shown_attributes as shown
from lafg_jax.tasks.class_retrieval.queries import Evaluated

# Degrees on a circle: a and b lie among each other, c apart.
ANGLES = np.array([0, 10, 21, 4, 15, 100, 103])
LABELS = np.array([0, 0, 0, 1, 1, 2, 2])


def evaluated(is_query=None):
  at = np.deg2rad(ANGLES)
  vectors = np.stack([np.cos(at), np.sin(at)], axis=1).astype(np.float32)
  rows = np.arange(len(LABELS))
  pixels = np.arange(7, dtype=np.uint8)[:, None, None, None] * 30 + np.zeros((7, 8, 8, 3), np.uint8)
  dataset = Dataset(
    name="circle", split="test", images=list(pixels), labels=LABELS.astype(np.int32),
    class_names=("a", "b", "c"), ids=tuple(f"circle/{k}" for k in rows), is_query=is_query,
  )  # fmt: skip
  asks = rows if is_query is None else rows[is_query]
  gallery = rows if is_query is None else rows[~is_query]
  return Evaluated(vectors, LABELS, list(dataset.ids), rows.tolist(), asks, gallery, dataset)


def test_queries_find_what_is_nearest_and_are_scored():
  of = evaluated()
  scored = queries.score(of)
  # By hand: of 0 the nearest is 3 (4 degrees), of 10 it is 15, and so on.
  assert scored.found[:, 0].tolist() == [3, 4, 4, 0, 1, 6, 5]
  assert scored.recall.tolist() == [0, 0, 0, 0, 0, 1, 1]
  # Of 0 at R = 2: wrong, then 10 degrees, right: (1/2) * (1/2).
  assert scored.precision[0] == pytest.approx(0.25) and scored.precision[5] == 1
  assert scored.similarity[0, 0] == pytest.approx(np.cos(np.deg2rad(4)), abs=1e-6)
  assert scored.by_k["recall@1"] == pytest.approx(2 / 7) and scored.by_k["recall@32"] == 1


def test_queries_and_gallery_may_be_apart():
  of = evaluated(np.array([True, False, False, True, False, True, False]))
  scored = queries.score(of)
  assert of.queries.tolist() == [0, 3, 5]
  # Of 4 degrees the nearest of the gallery lies at 10.
  assert scored.found[:, 0].tolist() == [1, 1, 6] and scored.recall.tolist() == [1, 0, 1]
  assert set(scored.found.ravel().tolist()) <= {1, 2, 4, 6}


def test_extremes_are_one_a_class():
  of = evaluated()
  worst, best = readings.extremes(of, queries.score(of))
  assert [int(LABELS[q]) for q in best][0] == 2
  for found in (worst, best):
    assert len({int(LABELS[q]) for q in found}) == len(found) == 3
  scored = queries.score(of)
  assert scored.precision[worst[0]] == scored.precision.min()


def test_classes_and_pairs_are_counted_by_hand():
  of = evaluated()
  scored = queries.score(of)
  rows = confusions.classes(of, scored)
  assert rows[-1].label == 2 and rows[-1].precision == 1 and rows[-1].confused == ()
  by_label = {row.label: row for row in rows}
  assert by_label[0].confused == ((1, 3),) and by_label[1].confused == ((0, 2),)
  assert by_label[0].recall == 0 and by_label[0].num_queries == 3
  (pair,) = confusions.pairs(of, scored, None)
  assert pair.labels == (0, 1) and pair.errors == (3, 2) and pair.queries == (3, 2)
  # The surest error of the first class: 4 degrees apart.
  assert pair.example == (0, 3) and pair.apart == ()


def reading(scores, floors=None):
  scores = np.asarray(scores, np.float32)
  count = scores.shape[1]
  return shown.Read(
    *(scores, np.zeros(count) if floors is None else np.asarray(floors), scores.mean(axis=0)),
    *(np.maximum(scores.std(axis=0), 1e-6), [f"name {n}" for n in range(count)]),
    *([(f"sentence {n}",) for n in range(count)], [()] * count),
  )


def test_shared_attributes_are_above_floor_and_mean_in_both():
  of = reading(
    [[0.9, 0.5, 0.1, 0.5, 0.30], [0.8, 0.5, 0.9, 0.4, 0.34], [0.1, 0.5, 0.1, 0.1, 0.1],
     [0.1, 0.5, 0.1, 0.1, 0.1]],
    floors=[0.2, 0.2, 0.2, 0.2, 0.32],
  )  # fmt: skip
  # 1 is nothing special, 2 is read in one alone, 4 is below its floor in one.
  z = (of.scores - of.mean) / of.spread
  assert z[:2, 0].min() > z[:2, 3].min()
  assert shown.shared(of, 0, 1) == ("name 0", "name 3") == shown.shared(of, 1, 0)
  assert shown.shared(of, 2, 3) == ()
  # A model whose scores are those of an untrained one is silent.
  assert shown.shared(of._replace(floors=np.ones(5)), 0, 1) == ()


def test_what_tells_two_classes_apart_is_cohens_d():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(40, 3)) * 0.1, rng.normal(size=(30, 3)) * 0.1
  a[:, 1] += 0.6
  b[:, 2] += 0.2
  of = reading(np.concatenate([a, b]))
  rows = np.arange(40), np.arange(40, 70)
  found = shown.apart(of, *rows)
  assert [x.name for x in found] == ["name 1", "name 2"]
  spread = np.sqrt((a.var(axis=0) + b.var(axis=0)) / 2)
  wanted = (a.mean(axis=0) - b.mean(axis=0)) / spread
  assert [x.distance for x in found] == pytest.approx(wanted[[1, 2]].tolist(), rel=1e-4)
  assert found[0].means == pytest.approx((a[:, 1].mean(), b[:, 1].mean()), rel=1e-4)
  assert shown.apart(of._replace(floors=np.ones(3)), *rows) == ()


def test_entries_are_counted_and_the_most_frequent_come_first():
  of = reading([[0.5, 0.9], [0.1, 0.8], [0.1, 0.7], [0.1, 0.1]], floors=[0.2, 0.2])
  first, second = shown.entries(of)
  assert (first.name, first.shown, first.examples) == ("name 1", 3, (0, 1, 2))
  assert (second.name, second.shown, second.examples) == ("name 0", 1, (0,))
  assert shown.entries(None) == []


def test_the_map_keeps_neighbours_together_and_is_the_same_each_time():
  from sklearn.manifold import trustworthiness

  rng = np.random.default_rng(1)
  centres = rng.normal(size=(6, 24))
  vectors = np.repeat(centres, 20, axis=0) + 0.15 * rng.normal(size=(120, 24))
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  places, how = projection.plane(vectors)
  assert places.shape == (120, 2) and np.abs(places).max() == pytest.approx(1)
  assert "t-SNE" in how and trustworthiness(vectors, places, n_neighbors=5) > 0.9
  np.testing.assert_array_equal(projection.plane(vectors)[0], places)


def test_more_images_than_landmarks_stand_near_those_of_their_class(monkeypatch):
  monkeypatch.setattr(projection, "LANDMARKS", 60)
  rng = np.random.default_rng(2)
  centres = rng.normal(size=(4, 16))
  vectors = np.repeat(centres, 60, axis=0) + 0.1 * rng.normal(size=(240, 16))
  places, how = projection.plane(vectors)
  assert "Of 60 images" in how
  distance = np.linalg.norm(places[:, None] - places, axis=-1) + 10 * np.eye(240)
  assert (distance.argmin(axis=1) // 60 == np.arange(240) // 60).mean() > 0.98


def test_few_images_and_no_scikit_learn_give_a_pca(monkeypatch):
  points = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [2, 1, 0.0]])
  places, how = projection.plane(points)
  assert "PCA" in how and "100%" in how
  # Centred and scaled by the long side, whatever the sign.
  assert np.abs(places).tolist() == [pytest.approx([1, 0.5])] * 4
  monkeypatch.setattr(projection.util, "find_spec", lambda name: None)
  assert "PCA" in projection.plane(np.random.default_rng(0).normal(size=(50, 4)))[1]
  assert projection.plane(np.ones((5, 1)))[0].shape == (5, 2)


def test_an_unreadable_image_is_a_grey_tile(tmp_path):
  (tmp_path / "bad.jpg").write_bytes(b"no image")
  Image.new("RGB", (400, 300), (200, 30, 40)).save(tmp_path / "good.jpg")
  paths = [str(tmp_path / name) for name in ("bad.jpg", "good.jpg")]
  dataset = Dataset("two", "test", paths, np.zeros(2, np.int32), ("a",), ("bad", "good"))
  assert (readings._thumbnail(dataset, 0, 48) == 128).all()
  good = readings._thumbnail(dataset, 1, 48)
  assert good.shape == (48, 48, 3) and np.abs(good.astype(int) - (200, 30, 40)).max() < 8
