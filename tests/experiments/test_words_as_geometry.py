"""Words as geometry: the loss with margins by a loop in NumPy, and batches of neighbours."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lafg_jax.losses import contrastive

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import words_as_geometry as words

# Other scripts of this process have a flag of that name too.
delattr(words.flags.FLAGS, "seeds")


@pytest.fixture
def z():
  return np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


def by_hand(z, bias, temperature):
  z = z / np.linalg.norm(z, axis=-1, keepdims=True)
  slots, count, _ = z.shape

  def e(a, i, b, k):
    distance = np.sum((z[a, i] - z[b, k]) ** 2)
    return np.exp(-distance / temperature + bias[i, k])

  terms = []
  for a in range(slots):
    for b in (b for b in range(slots) if b != a):
      for i in range(count):
        across = sum(e(a, i, b, k) for k in range(count))
        within = sum(e(a, i, a, k) for k in range(count) if k != i)
        terms.append(-np.log(e(a, i, b, i) / (across + within)))
  return np.mean(terms)


def test_the_loss_is_l_aux_whose_negatives_words_weigh(z):
  rng = np.random.default_rng(1)
  bias = rng.normal(size=(4, 4)) * (1 - np.eye(4))
  for given in (np.zeros((4, 4)), bias):
    wanted = by_hand(z.astype(np.float64), given, 0.2)
    np.testing.assert_allclose(words.loss(z, given, 0.2), wanted, rtol=1e-5)
  plain = contrastive.pairwise_contrastive(
    z.reshape(12, 5), classes=4, slots=3, temperature=0.2, reduction="mean"
  )
  np.testing.assert_allclose(words.loss(z, np.zeros((4, 4)), 0.2), plain, rtol=1e-5)
  assert np.isfinite(jax.grad(words.loss)(z, bias, 0.2)).all()


def test_batches_of_neighbours_are_the_nearest_by_words(monkeypatch):
  monkeypatch.setattr(words, "CLASSES", 3)
  labels = np.repeat(np.arange(6), 5)
  place = np.array([0.0, 0.1, 0.2, 9.0, 9.1, 9.2])
  near = -np.abs(place[:, None] - place)
  rows, classes = words.batches(labels, near, 20, 0)
  assert rows.shape == (20, words.SLOTS, 3) and (labels[rows] == classes[:, None]).all()
  assert {tuple(sorted(x)) for x in classes.tolist()} == {(0, 1, 2), (3, 4, 5)}
  assert all(len(np.unique(x)) == x.size for x in rows), "no image twice"
  _, anyhow = words.batches(labels, None, 20, 0)
  assert len({tuple(sorted(x)) for x in anyhow.tolist()}) > 2
  # A class with fewer images than slots gives some of them twice.
  few, _ = words.batches(np.repeat(np.arange(3), 2), None, 2, 0)
  assert few.shape == (2, words.SLOTS, 3)


def test_each_form_stands_beside_the_words_of_other_classes():
  own, others = np.eye(2), np.ones((2, 2))
  rows = words.settings(own, others)
  assert rows[0][0] == words.NONE and rows[0][2] == 0
  assert len(rows) == 1 + 2 * len(words.FORMS)
  for name, near, _, _ in rows[1:]:
    assert near is (others if name.endswith(words.OTHERS) else own)
  shown = words.table(
    {
      "the features": np.array([[1.0, 2.0], [1.0, 2.0]]),
      words.NONE: np.array([[1.0, 3.0], [1.0, 4.0]]),
      "neighbours": np.array([[1.0, 5.0], [1.0, 6.0]]),
      f"neighbours{words.OTHERS}": np.array([[1.0, 4.0], [1.0, 5.0]]),
    }
  )
  assert "| neighbours | 1.0 | 5.5 | +2.0 [+2.0, +2.0] | +1.0 [+1.0, +1.0] |" in shown
  assert f"| {words.NONE} | 1.0 | 3.5 |  |  |" in shown
