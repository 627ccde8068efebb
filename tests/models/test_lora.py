"""LoRA: the kernel that a layer reads is W + alpha / r A B, whatever the layer."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from lafg_jax.models import embedder as embedders
from lafg_jax.models import lora
from lafg_jax.utils.errors import UserError


def draw(*shape, seed=0):
  return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


LAYERS = {
  "mlp_1": (nn.Dense(5, use_bias=False), (2, 4, 6), 1),
  "attention/query": (nn.DenseGeneral((2, 3), use_bias=False), (2, 4, 6), 1),
  "attention/out": (nn.DenseGeneral(6, axis=(-2, -1), use_bias=False), (2, 4, 2, 3), 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_its_own_output_plus_x_a_b(name):
  layer, shape, input_axes = LAYERS[name]
  x = draw(*shape)
  kernel = layer.init(jax.random.key(0), x)["params"]["kernel"]
  tree = {"kernel": kernel}
  for part in reversed(name.split("/")):
    tree = {part: tree}
  factors = lora.init(jax.random.key(1), tree, 2, f"{name}/kernel")
  random = jax.tree.map(lambda f: draw(*f.shape), factors)
  merged = lora.merge({"backbone": tree, "lora": random, "embedding": 1}, alpha=3.0)
  assert set(merged) == {"backbone", "embedding"}
  leaf, inner = merged["backbone"], random
  for part in name.split("/"):
    leaf, inner = leaf[part], inner[part]
  flat = x.reshape(*shape[: len(shape) - input_axes], -1)
  low_rank = (flat @ inner["kernel"]["a"]) @ inner["kernel"]["b"]
  before = layer.apply({"params": {"kernel": kernel}}, x)
  expected = before + 3.0 / 2 * low_rank.reshape(before.shape)
  np.testing.assert_allclose(layer.apply({"params": leaf}, x), expected, rtol=1e-4, atol=1e-4)


def test_a_convolution_is_the_matrix_over_its_patch():
  x = draw(2, 8, 8, 3)
  layer = nn.Conv(5, (4, 4), strides=(4, 4), padding="VALID", use_bias=False)
  backbone = {"patch": layer.init(jax.random.key(0), x)["params"]}
  factors = jax.tree.map(
    lambda f: draw(*f.shape), lora.init(jax.random.key(1), backbone, 2, "patch/kernel")
  )
  merged = lora.merge({"backbone": backbone, "lora": factors}, alpha=2.0)["backbone"]["patch"]
  patches = x.reshape(2, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 2, 48)
  a, b = factors["patch"]["kernel"]["a"], factors["patch"]["kernel"]["b"]
  expected = layer.apply({"params": backbone["patch"]}, x) + patches @ a @ b
  np.testing.assert_allclose(layer.apply({"params": merged}, x), expected, rtol=1e-4, atol=1e-4)


def test_it_starts_at_the_backbone_as_it_is_and_leaves_other_numbers_alone(config_with):
  # Without the convolutional stem, which takes long to compile.
  _, params = embedders.init_model(config_with(model__conv_stem=False, model__depth=2))
  _, with_lora = embedders.init_model(
    config_with(model__conv_stem=False, model__depth=2, model__lora_rank=4)
  )
  targets = with_lora["lora"]["block_1"]["attention"]
  assert set(targets) == {"query", "value"}
  assert targets["query"]["kernel"]["a"].shape == targets["query"]["kernel"]["b"].shape[::-1]
  assert targets["query"]["kernel"]["a"].shape == (16, 4)
  merged = lora.merge(with_lora, alpha=16.0)
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(x, y)
  assert lora.merge(params, alpha=1.0) is params


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"model__lora_targets": "no_such"}, r"model.lora_targets=no_such: no kernel .*backbone/"),
    ({"model__lora_targets": "position_embedding"}, "no kernel"),
    ({"model__lora_rank": 17}, r"lora_rank=17: backbone/block_0/attention/query/kernel is 16 x 16"),
  ],
)
def test_what_cannot_be_is_one_line(config_with, changes, says):
  with pytest.raises(UserError, match=says):
    jax.eval_shape(
      lambda: embedders.init_model(config_with(**({"model__lora_rank": 2} | changes)))[1]
    )
