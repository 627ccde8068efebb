"""Losses between images and captions against NumPy loops."""

import jax
import numpy as np
import pytest

from lafg_jax.losses import image_text

B, D, N = 6, 5, 4
RNG = np.random.default_rng(0)
IMAGES, TEXTS = RNG.standard_normal((2, B, D)).astype(np.float32)
CANDIDATES = RNG.standard_normal((B, N, D)).astype(np.float32)
SAME = RNG.random((B, N)) < 0.5
SAME[:, 0] = True
THERE = RNG.random((B, N)) < 0.7
THERE[:, 0] = True


def unit(x):
  return x.astype(np.float64) / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy(logits, targets):
  total = 0.0
  for row, wanted in zip(logits, targets, strict=True):
    total -= sum(t * (x - np.log(np.exp(row).sum())) for t, x in zip(wanted, row, strict=True))
  return total / len(logits)


@pytest.mark.parametrize("captions", [range(B), (0, 1, 0, 2, 0, 1)])
@pytest.mark.parametrize("direction", ["symmetric", "image_to_text"])
def test_contrast(captions, direction):
  logits = 7.0 * unit(IMAGES) @ unit(TEXTS).T
  targets = np.array([[float(a == b) for b in captions] for a in captions])
  targets /= targets.sum(axis=1, keepdims=True)
  wanted = cross_entropy(logits, targets)
  if direction == "symmetric":
    wanted = (wanted + cross_entropy(logits.T, targets)) / 2
  found = image_text.contrast(IMAGES, TEXTS, np.array(captions), 7.0, direction)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("form", ["logits", "cosine"])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_category(form, alpha):
  wanted = 0.0
  for i in range(B):
    terms = []
    for k in range(N):
      s, m = 3.0 * unit(IMAGES)[i] @ unit(CANDIDATES)[i, k], 1 + alpha * SAME[i, k]
      terms.append((m * np.exp(s) if form == "logits" else np.exp(m * s)) * THERE[i, k])
    wanted -= np.log(terms[0] / sum(terms)) / B
  found = image_text.category(IMAGES, CANDIDATES, SAME, THERE, 3.0, alpha=alpha, form=form)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_without_negatives_there_is_nothing_to_learn():
  only = np.zeros((B, N), bool)
  only[:, 0] = True
  loss = lambda x: image_text.category(x, CANDIDATES, SAME, only, 3.0, alpha=0.5)  # noqa: E731
  value, gradient = jax.value_and_grad(loss)(IMAGES)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_distillation_moves_the_student_alone():
  found = image_text.distillation(IMAGES, TEXTS)
  np.testing.assert_allclose(found, 1 - (unit(IMAGES) * unit(TEXTS)).sum(1).mean(), rtol=1e-5)
  student, teacher = jax.grad(image_text.distillation, (0, 1))(IMAGES, TEXTS)
  assert np.abs(student).min() > 0
  np.testing.assert_array_equal(teacher, 0)
