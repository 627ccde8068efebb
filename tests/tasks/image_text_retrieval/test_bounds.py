"""Ceilings, class oracle and chance against simulated models and the document's own figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.tasks.image_text_retrieval import bounds, recalls
from lafg_jax.tasks.image_text_retrieval.bounds import Pairing
from lafg_jax.tasks.image_text_retrieval.recalls import Embedded

FDRD = Path(__file__).resolve().parents[4] / "shared/data/fdrd"
KS = (1, 5, 10)


def of_fdrd(name):
  """The pairing of a file of captions, one a picture; the class from class_name, else the key."""
  path = FDRD / f"{name}_test.json"
  if not path.exists():
    pytest.skip(f"{path} is absent")
  items = json.loads(path.read_text(encoding="utf-8"))
  classes = [item.get("class_name") or key.rpartition("_")[0] for key, item in items.items()]
  strings = np.unique([item["positive"] for item in items.values()], return_inverse=True)[1]
  return Pairing(np.arange(len(items)), strings, np.unique(classes, return_inverse=True)[1])


@pytest.mark.parametrize(
  ("name", "oracle"),
  [
    ("flower", (4.1, 20.7, 41.4)),
    ("pets", (1.0, 5.0, 10.1)),
    ("plane", (3.0, 15.0, 30.0)),
    ("inter_caltech-101", (4.1, 20.3, 40.5)),
    ("inter_dtd", (2.8, 13.9, 27.8)),
    ("inter_ucf101", (2.7, 13.3, 26.7)),
  ],
)
def test_the_class_oracle_is_that_of_the_document(name, oracle):
  pairing = of_fdrd(name)
  found = bounds.beside(pairing, KS)
  for way in bounds.DIRECTIONS:
    figures = [100 * found[way]["instance"]["class_oracle"][f"recall@{k}"] for k in KS]
    assert figures == pytest.approx(oracle, abs=0.051)
    chance = found[way]["instance"]["chance"]["recall@1"]
    assert chance == pytest.approx(1 / len(pairing.labels))


def test_the_ceiling_of_ucf_is_that_of_the_document():
  found = bounds.beside(of_fdrd("inter_ucf101"), KS)
  for way in bounds.DIRECTIONS:
    assert 100 * found[way]["instance"]["ceiling"]["recall@1"] == pytest.approx(94.3, abs=0.05)
    assert found[way]["merged"]["ceiling"]["recall@1"] == 1


DRAWS = 4


@pytest.fixture(scope="module")
def split():
  """200 images of 12 classes with 1 to 3 captions each, some shared, also across classes."""
  rng = np.random.default_rng(0)
  owner = rng.permutation(np.repeat(np.arange(200), rng.integers(1, 4, 200)))
  strings = np.unique(rng.integers(0, 300, len(owner)), return_inverse=True)[1]
  return Pairing(owner, strings, rng.integers(0, 12, 200))


def simulated(pairing, scores, draws=DRAWS):
  """Mean recalls of models whose scores, images x strings and strings x images, are drawn."""
  owner, strings, labels, extra = pairing
  count, items = len(labels), strings.max() + 1
  found = {}
  for _ in range(draws):
    # The strings are the axes: an image's coordinates are its scores.
    to_text, to_image = scores()
    axes = np.eye(items + extra, dtype=np.float32)
    texts = Embedded(to_text, axes[strings], owner, strings, labels, axes[items:])
    images = Embedded(np.eye(count, dtype=np.float32), to_image[strings], owner, strings, labels)
    for way, e in zip(bounds.DIRECTIONS, (texts, images), strict=True):
      for protocol, values in recalls.measure(e, (1, 5))[way].items():
        for name, x in values.items():
          found.setdefault((way, protocol, name), []).extend(x)
  return found


def compare(found, wanted, bound, protocols):
  for (way, protocol, name), hits in found.items():
    if protocol in protocols:
      figure = wanted[way][protocol][bound][name]
      error = np.sqrt(figure * (1 - figure) / len(hits))
      assert np.mean(hits) == pytest.approx(figure, abs=4 * error + 1e-6), (way, protocol, name)


def test_random_scores_reach_chance(split):
  rng = np.random.default_rng(1)
  pairing, strings, count = split._replace(distractors=70), split.strings.max() + 1, 200

  def scores():
    return rng.random((count, strings + 70), np.float32), rng.random((strings, count), np.float32)

  found, wanted = simulated(pairing, scores), bounds.beside(pairing, (1, 5))
  # `class`: equal strings of one class stand together, which all orders alike have not.
  compare(found, wanted, "chance", ("instance", "merged"))


def test_a_perfect_classifier_that_guesses_is_the_class_oracle(split):
  """Scores: the class, and noise. No string is of two classes, which nothing could tell apart."""
  rng = np.random.default_rng(2)
  of_class = split.labels[split.owner]
  pairs = np.stack([of_class, rng.integers(0, 30, len(of_class))])
  strings = np.unique(pairs, axis=1, return_inverse=True)[1]
  pairing = split._replace(strings=strings)
  kind = np.zeros(strings.max() + 1, int)
  kind[strings] = of_class
  right = (split.labels[:, None] == kind).astype(np.float32)

  def scores():
    noise = [0.1 * rng.random(x.shape, np.float32) for x in (right, right.T)]
    return right + noise[0], right.T + noise[1]

  found, wanted = simulated(pairing, scores), bounds.beside(pairing, (1, 5))
  compare(found, wanted, "class_oracle", bounds.PROTOCOLS)
  assert np.mean(found["text_to_image", "class", "recall@1"]) == 1
  assert 0.01 < np.mean(found["text_to_image", "instance", "recall@1"]) < 0.2


def test_a_model_that_knows_every_caption_reaches_the_ceiling():
  """Scores that know every caption reach it exactly."""
  rng = np.random.default_rng(3)
  strings = np.unique(rng.integers(0, 25, 40), return_inverse=True)[1]
  labels = rng.integers(0, 3, 40)
  pairing = Pairing(np.arange(40), strings, labels)
  items = strings.max() + 1
  own = (strings[:, None] == np.arange(items)).astype(np.float32)
  apart = own.T + 1e-3 * rng.random((items, 40), np.float32)
  found = simulated(pairing, lambda: (own, apart), draws=1)
  wanted = bounds.beside(pairing, (1, 5))
  for (way, protocol, name), hits in found.items():
    if protocol != "class":
      assert np.mean(hits) == pytest.approx(wanted[way][protocol]["ceiling"][name]), (way, name)
  # Of a string of several classes a class comes first by luck: here, all but one of them.
  of_class = bounds.beside(pairing, (1,))["text_to_image"]["class"]["ceiling"]["recall@1"]
  best = sum(np.bincount(labels[strings == s]).max() for s in range(items)) / 40
  assert of_class == pytest.approx(best)
  assert best < 1


def test_hits_of_draws_are_counted_by_hand():
  # 2 of 5 are right; 3 are drawn: all wrong in 1 of 10.
  assert bounds.hit(2, 5, 3) == pytest.approx(0.9)
  # More draws than there are, none, and fewer than none.
  assert bounds.hit(1, 4, 9) == 1
  assert bounds.hit(1, 4, 0) == bounds.hit(1, 4, -3) == 0
  assert bounds.hit(0, 4, 4) == 0
