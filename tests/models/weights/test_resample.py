"""Resampled position embeddings against the libraries whose kernels they follow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.models.weights.resample import KERNELS, resample

TORCH = {
  "bicubic": {"mode": "bicubic"},
  "bicubic_antialias": {"mode": "bicubic", "antialias": True},
  "bilinear_antialias": {"mode": "bilinear", "antialias": True},
}
# Two columns at least: torch's antialiased kernels write a single column wrongly from row 2 on.
SIDES = st.tuples(st.integers(1, 40), st.integers(2, 40))


def random_grid(shape, seed):
  return np.random.default_rng(seed).standard_normal((*shape, 3)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, st.sampled_from(sorted(TORCH)), st.integers(0, 2**31))
def test_equals_torch_up_and_down_and_non_square(before, after, kernel, seed):
  torch = pytest.importorskip("torch")
  grid = random_grid(before, seed)
  x = torch.from_numpy(grid).double().permute(2, 0, 1)[None]
  wanted = torch.nn.functional.interpolate(x, after, align_corners=False, **TORCH[kernel])
  wanted = wanted[0].permute(1, 2, 0).numpy()
  got = resample(grid, after, kernel)
  assert got.dtype == np.float32 and got.shape == (*after, 3)
  np.testing.assert_allclose(got, wanted, atol=2e-5)


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**31))
def test_equals_the_zoom_of_scipy_that_vit_jax_calls(before, after, seed):
  from scipy.ndimage import zoom

  grid = random_grid(before, seed)
  factors = (after[0] / before[0], after[1] / before[1], 1)
  # Without a mode, as vit_jax has it, rounding puts the last row of some sizes (16 to 30) past the
  # edge, where scipy writes zeros.
  wanted = zoom(grid, factors, order=1, mode="nearest")
  np.testing.assert_allclose(resample(grid, after, "bilinear_corners"), wanted, atol=2e-5)


def test_one_column_is_the_column_of_a_wider_grid_of_equal_columns():
  grid = np.repeat(random_grid((9, 1), 3), 8, axis=1)
  for kernel in KERNELS:
    one, many = resample(grid, (5, 1), kernel), resample(grid, (5, 8), kernel)
    np.testing.assert_allclose(one[:, 0], many[:, 4], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, st.sampled_from(sorted(KERNELS)))
def test_a_grid_of_one_value_keeps_it_and_the_same_size_changes_nothing(before, after, kernel):
  flat = np.full((*before, 2), 0.7, np.float32)
  np.testing.assert_allclose(resample(flat, after, kernel), 0.7, rtol=1e-6)
  grid = random_grid(before, 0)
  np.testing.assert_array_equal(resample(grid, before, kernel), grid)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_an_axis_that_keeps_its_length_is_left_alone(kernel):
  grid = random_grid((5, 7), 1)
  grid[:] = grid[:, :1]
  np.testing.assert_allclose(resample(grid, (5, 9), kernel)[:, 4], grid[:, 0], rtol=1e-5, atol=1e-6)


def test_the_kernels_of_transformers_and_timm_differ_where_it_matters():
  grid = random_grid((14, 14), 2)
  plain, antialiased = (resample(grid, (24, 24), k) for k in ("bicubic", "bicubic_antialias"))
  assert np.abs(plain - antialiased).max() > 0.05
