"""Poolings against their formulas."""

import jax
import numpy as np
import pytest

from lafg_jax.models.pooling import gem


@pytest.mark.parametrize("power", [1.0, 3.0, 6.5])
def test_gem_is_its_formula(power):
  x = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)
  wanted = (np.maximum(x.astype(np.float64), 1e-6) ** power).mean(axis=1) ** (1 / power)
  np.testing.assert_allclose(gem(x, power), wanted, rtol=1e-5)


def test_gem_lies_between_mean_and_maximum():
  x = np.random.default_rng(1).uniform(0.1, 2.0, (4, 9, 6)).astype(np.float32)
  pooled = np.asarray(gem(x))
  assert (x.mean(axis=1) < pooled).all() and (pooled < x.max(axis=1)).all()
  np.testing.assert_allclose(gem(x, 1.0), x.mean(axis=1), rtol=1e-5)


def test_gem_has_the_gradient_of_its_formula_and_a_finite_one_where_nothing_fires():
  x = np.random.default_rng(2).uniform(0.1, 2.0, (1, 6, 4)).astype(np.float32)
  gradient_of = jax.jit(jax.grad(lambda x: gem(x).sum()))
  wanted = (x / np.asarray(gem(x))[:, None]) ** 2 / 6
  np.testing.assert_allclose(gradient_of(x), wanted, rtol=1e-4)
  for silent in (np.zeros_like(x), np.full_like(x, -1.0)):
    assert np.isfinite(gem(silent)).all()
    assert np.isfinite(gradient_of(silent)).all()
