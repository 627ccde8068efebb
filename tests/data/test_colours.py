"""Changes of colour against Pillow's own, and colorsys for the hue."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from lafg_jax.data import colours

# Values in the middle, so that nothing is clipped on the way.
IMAGE = np.random.default_rng(0).integers(90, 150, (12, 15, 3), np.uint8)
PILLOW = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast,
          "saturation": ImageEnhance.Color}  # fmt: skip


def change(img, **factors):
  return colours.changed(
    img, **({"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "turn": 0.0} | factors)
  )


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 1.3, 1.6])
def test_each_factor_is_pillows(name, factor):
  expected = np.asarray(PILLOW[name](Image.fromarray(IMAGE)).enhance(factor)).astype(int)
  # Pillow rounds lumas down to whole numbers on the way.
  assert np.abs(change(IMAGE, **{name: factor}) - expected).max() <= 2


def test_nothing_asked_for_leaves_every_pixel():
  whole = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
  np.testing.assert_array_equal(change(whole), whole)


@pytest.mark.parametrize("turn", [-0.2, -0.05, 0.1, 0.2])
def test_hue_turns_in_yiq_and_luma_and_chroma_stay(turn):
  before, after = np.array([120, 110, 140], np.uint8), None
  after = change(before.reshape(1, 1, 3), turn=turn)[0, 0]
  (y, i, q), (y2, i2, q2) = (colorsys.rgb_to_yiq(*(x / 255)) for x in (before, after))
  assert abs(y - y2) < 0.01
  assert abs(np.hypot(i, q) - np.hypot(i2, q2)) < 0.01
  turned = (np.arctan2(q2, i2) - np.arctan2(q, i)) / (2 * np.pi)
  assert abs((turned - turn + 0.5) % 1 - 0.5) < 0.03


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), strength=st.floats(0.01, 1.0))
def test_greys_stay_grey_and_draws_depend_on_the_seed_alone(seed, strength):
  grey = np.repeat(np.random.default_rng(seed).integers(0, 256, (5, 4, 1), np.uint8), 3, axis=2)
  got = colours.jittered(grey, np.random.default_rng(seed), strength)
  assert got.dtype == np.uint8 and got.shape == grey.shape
  assert np.ptp(got.astype(int), axis=2).max() <= 1
  again = colours.jittered(grey, np.random.default_rng(seed), strength)
  np.testing.assert_array_equal(got, again)


def test_one_image_in_five_loses_its_colours_and_strength_sets_how_far_the_others_go():
  red = np.full((2, 2, 3), (160, 80, 80), np.uint8)
  shown = [colours.jittered(red, np.random.default_rng(seed), 0.1)[0, 0] for seed in range(1000)]
  is_grey = np.array([np.ptp(x.astype(int)) <= 1 for x in shown])
  assert 0.16 < is_grey.mean() < 0.24
  seeds = np.flatnonzero(~is_grey)[:200]

  def moved(strength):
    shown = [colours.jittered(red, np.random.default_rng(seed), strength) for seed in seeds]
    return np.abs(np.stack(shown) - red.astype(int)).mean()

  assert moved(0.1) < 0.3 * moved(0.8)


def test_a_recoloured_image_is_another_of_the_same_shapes():
  img = np.random.default_rng(0).integers(60, 120, (9, 8, 3), dtype=np.uint8)
  first, second = (colours.recoloured(img, 4, version) for version in (0, 1))
  assert first.dtype == np.uint8 and first.shape == img.shape
  np.testing.assert_array_equal(first, colours.recoloured(img.copy(), 4, 0))
  assert (first != second).any() and (first != colours.recoloured(img, 5, 0)).any()
  # Each pixel by itself: a crop is recoloured as the whole is.
  np.testing.assert_array_equal(colours.recoloured(img[2:7, 1:4], 4, 0), first[2:7, 1:4])


@pytest.mark.parametrize("version", range(6))
def test_recoloured_greys_stay_grey(version):
  greys = np.repeat(np.arange(0, 190, 10, dtype=np.uint8)[:, None, None], 3, axis=2)
  found = colours.recoloured(greys, 1, version).astype(int)
  assert np.ptp(found, axis=2).max() <= 1
  assert (np.diff(found[:, 0, 0]) > 0).all(), "darker stays darker"
