"""Curves on functions whose areas are known, shares by hand, and overlays."""

import numpy as np
import pytest

from lafg_jax.explain import faithfulness, occlusion, overlay
from lafg_jax.explain.faithfulness import area, curves, share_inside
from lafg_jax.utils.errors import UserError

RNG = np.random.default_rng(3)


def test_share_inside_by_hand():
  heat = np.array([[3.0, 1.0], [-5.0, 0.0]])
  region = np.array([[1.0, 0.0], [1.0, 0.5]])
  assert share_inside(heat, region) == 0.75
  assert share_inside(np.zeros((2, 2)), region) == 0.625
  assert share_inside(heat, np.zeros((2, 2))) == 0


def test_curves_of_a_score_that_adds_patches_up():
  """The score is the share of the weight that is seen: both curves are sums of sorted weights."""
  weight = RNG.permutation(16).astype(float).reshape(4, 4)
  image, ground = np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8, 3), np.uint8)
  asked = []

  def score(pictures):
    asked.append(len(pictures))
    seen = (pictures == 200).all(axis=-1).reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    return (seen * weight).sum(axis=(1, 2)) / weight.sum()

  deletion, insertion = curves(score, image, weight, 16, ground)
  ordered = np.sort(weight.ravel())[::-1]
  inserted = np.concatenate([[0], np.cumsum(ordered)]) / weight.sum()
  np.testing.assert_allclose(insertion, inserted)
  np.testing.assert_allclose(deletion, 1 - inserted)
  assert asked == [34]
  np.testing.assert_allclose(area(insertion), np.trapezoid(inserted, dx=1 / 16))
  # The best order of all; the worst one is its mirror image.
  worst = curves(score, image, -weight, 16, ground)
  assert area(deletion) < area(worst[0]) and area(insertion) > area(worst[1])
  np.testing.assert_allclose(area(worst[0]), area(insertion))
  four = curves(score, image, weight, 4, ground)[1]
  np.testing.assert_allclose(four, inserted[::4])
  for steps, heat in ((0, weight), (17, weight), (2, np.ones((9, 1)))):
    with pytest.raises(ValueError, match="steps of heat"):
      curves(score, image, heat, steps, ground)


def test_baselines_know_nothing_of_the_picture():
  bell = faithfulness.centre(9)
  assert bell[4, 4] == bell.max() and np.allclose(bell, bell[::-1, ::-1])
  assert np.isclose(bell[4, 4 + 2] / bell[4, 4], np.exp(-0.5 * (2 / (0.25 * 9)) ** 2))
  one, same, other = (faithfulness.scattered((3, 5), number) for number in (1, 1, 2))
  assert (one == same).all() and not (one == other).any() and one.shape == (3, 5)


def test_intervals_hold_the_mean_as_often_as_they_say():
  found = [faithfulness.interval(RNG.standard_normal(60), 1, 400) for _ in range(200)]
  assert 0.88 <= np.mean([low <= 0 <= high for _, low, high in found]) <= 0.99
  assert all(low <= mean <= high for mean, low, high in found)


def test_occlusion_finds_the_place_that_a_score_reads():
  image = RNG.integers(0, 256, (16, 16, 3), np.uint8)
  pictures = occlusion.covered(image, 4)
  assert pictures.shape == (16, 16, 16, 3)
  ground = occlusion.blurred(image)
  # Place (1, 2): rows 4 to 8 and columns 8 to 12, and a quarter of a place beyond each edge.
  window = np.zeros((16, 16), bool)
  window[3:9, 7:13] = True
  assert (pictures[6][window] == ground[window]).all()
  assert (pictures[6][~window] == image[~window]).all()
  seen = pictures[:, 5, 9, 0].astype(float)
  found = occlusion.falls(lambda x: x[:, 0], image[5:6, 9, 0][0:1] * 1.0, seen[:, None])
  assert found.shape == (4, 4)
  touched = found != 0
  assert touched[1, 2] and touched.sum() <= 4
  assert found[1, 2] == float(image[5, 9, 0]) - float(ground[5, 9, 0])


def test_a_place_decides_where_it_costs_a_tenth_of_the_score():
  found = np.array([[0.0, 0.04], [-0.5, 0.01]])
  assert occlusion.decides(found, 0.39) and occlusion.decides(found, -0.39)
  assert not occlusion.decides(found, 0.41)


def test_overlays_are_of_the_image_and_lighter_where_hotter():
  image = np.full((40, 60, 3), 120, np.uint8)
  heat = np.linspace(0, 1, 12).reshape(1, 12).repeat(4, axis=0)
  drawn = np.asarray(overlay.over(image, heat))
  assert drawn.shape == image.shape and drawn.dtype == np.uint8
  luminance = drawn.astype(float) @ (0.2126, 0.7152, 0.0722)
  across = luminance.mean(axis=0)
  assert (np.diff(across) > -0.5).all() and across[-1] - across[0] > 60
  # The scale by itself is in the order of its lightness, without any colour.
  scale = overlay.coloured(np.linspace(0, 1, 64)[None])[0].astype(float)
  assert (np.diff(scale @ (0.2126, 0.7152, 0.0722)) > 0).all()
  assert (overlay.coloured(np.array([[-1.0, 2.0]])) == overlay.coloured([[0.0, 1.0]])).all()


@pytest.mark.parametrize(
  ("image", "heat"),
  [
    (np.zeros((4, 4), np.uint8), np.zeros((2, 2))),
    (np.zeros((4, 4, 3)), np.zeros((2, 2))),
    (np.zeros((4, 4, 3), np.uint8), np.zeros(4)),
    (np.zeros((4, 4, 3), np.uint8), np.full((2, 2), np.nan)),
    (np.zeros((4, 4, 3), np.uint8), np.zeros((0, 2))),
  ],
)
def test_what_cannot_be_drawn_is_refused(image, heat):
  with pytest.raises(UserError, match="this is"):
    overlay.over(image, heat)
