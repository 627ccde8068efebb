"""Weights of tokens against loops over the formula."""

import jax
import numpy as np
import pytest

from lafg_jax.tasks.image_text_retrieval import reweighting

RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((2, 6, 4)).astype(np.float32)
IMAGES = RNG.standard_normal((2, 4)).astype(np.float32)
BLANK = RNG.standard_normal(4).astype(np.float32)
# The second word of the first caption has two pieces.
WORDS = np.array([[-1, 0, 1, 1, -1, -1], [-1, 0, 1, 2, 3, -1]])
KEYS = jax.random.split(jax.random.key(0), 2)


def by_hand():
  w = np.zeros(WORDS.shape)
  for i, words in enumerate(WORDS):
    change = [t @ BLANK - t @ IMAGES[i] for t in TOKENS[i]]
    for j, word in enumerate(words):
      if word >= 0:
        w[i, j] = abs(np.mean([c for c, other in zip(change, words, strict=True) if other == word]))
  return w


def test_w_is_the_change_from_a_blank_image():
  found = reweighting.changes(TOKENS, WORDS, IMAGES, BLANK)
  np.testing.assert_allclose(found, by_hand(), rtol=1e-5)
  assert found[0, 2] == found[0, 3] > 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_scaled(gamma):
  w, wanted = by_hand(), np.ones(WORDS.shape)
  for i, words in enumerate(WORDS):
    content = words >= 0
    ratio = np.clip(w[i] / w[i][content].mean(), 0.25, 4)
    wanted[i][content] = (1 + gamma * (ratio - 1))[content]
  np.testing.assert_allclose(reweighting.scaled(w, WORDS, gamma), wanted, rtol=1e-5)
  if gamma == 0:
    np.testing.assert_array_equal(reweighting.scaled(w, WORDS, gamma), 1)


def test_raw_is_w_itself():
  w = by_hand()
  found = reweighting.scaled(w, WORDS, 0.5, raw=True)
  np.testing.assert_allclose(found, np.where(WORDS >= 0, w, 1), rtol=1e-6)


def test_a_caption_that_no_image_changes_has_weights_of_1():
  np.testing.assert_array_equal(reweighting.scaled(np.zeros(WORDS.shape), WORDS, 1.0), 1)


def test_shuffled_keeps_each_captions_weights():
  w = by_hand()
  seen = set()
  for number in range(8):
    keys = jax.random.split(jax.random.key(number), 2)
    found = np.asarray(reweighting.shuffled(w.astype(np.float32), WORDS, keys))
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(w, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(found[WORDS < 0], 0)
    seen.add(tuple(found[1]))
  assert len(seen) > 3


def test_random_weights_have_the_distribution_they_are_given():
  ratio = RNG.gamma(2.0, size=(50, 20))
  words = np.tile(np.arange(20), (50, 1))
  words[:, :5] = -1
  quantiles = reweighting.quantiles_of(ratio, words)
  keys = jax.random.split(jax.random.key(1), 400)
  drawn = np.asarray(reweighting.random_ratios(quantiles, (400, 20), keys))
  wanted = ratio[:, 5:]
  np.testing.assert_allclose(drawn.mean(), wanted.mean(), rtol=0.03)
  np.testing.assert_allclose(drawn.std(), wanted.std(), rtol=0.05)


@pytest.mark.parametrize("name, value", [("white", 255), ("grey", 128), ("black", 0)])
def test_blank_images(name, value):
  blank = reweighting.blank_image(name, 3)
  assert blank.dtype == np.uint8 and blank.shape == (1, 3, 3, 3) and (blank == value).all()
