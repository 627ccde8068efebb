"""Pooling, the head and visual prompts against the formulas in NumPy."""

import math

import jax
import numpy as np
import pytest

from lafg_jax.models import embedder as embedders
from lafg_jax.models.pooling import gem
from lafg_jax.models.vit import ViT

# Without the convolutional stem, which takes long to compile.
PLAIN = {"model__conv_stem": False}
TOKENS = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)


def test_gem_is_radenovics_formula():
  for p in (1.0, 2.5, 3.0):
    expected = np.mean(np.maximum(TOKENS, 1e-6).astype(np.float64) ** p, axis=1) ** (1 / p)
    np.testing.assert_allclose(gem(TOKENS, p), expected, rtol=1e-5)


def test_gem_runs_from_the_mean_to_the_maximum_without_overflow():
  positive = np.abs(TOKENS) * 100
  np.testing.assert_allclose(gem(positive, 1.0), positive.mean(axis=1), rtol=1e-5)
  np.testing.assert_allclose(gem(positive, 1e4), positive.max(axis=1), rtol=1e-3)
  gradient = jax.grad(lambda x, p: gem(x, p).sum(), argnums=(0, 1))(positive, 1e3)
  assert all(np.isfinite(x).all() for x in gradient)


def test_gem_pools_what_the_final_norm_gave_with_a_p_that_may_be_learned(config_with):
  images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
  config = config_with(model__pool="gem", model__embedding_dim=0, model__gem_p=2.0, **PLAIN)
  embedder, params = embedders.init_model(config)

  def apply(p):
    both = {"params": params | {"gem_p": p}}
    v, state = embedder.apply(both, images, capture_intermediates=True)
    return v.sum(), (v, state["intermediates"]["backbone"]["norm"]["__call__"][0])

  assert params["gem_p"] == 2.0
  (_, (v, tokens)), slope = jax.jit(jax.value_and_grad(apply, has_aux=True))(params["gem_p"])
  expected = np.sqrt(np.mean(np.maximum(tokens, 1e-6) ** 2, axis=1))
  np.testing.assert_allclose(v, expected, rtol=1e-4)
  assert slope > 0
  config.model.gem_learned = False
  fixed = embedders.build(config.model)
  backbone = {"params": {"backbone": params["backbone"]}}
  np.testing.assert_allclose(jax.jit(fixed.apply)(backbone, images), v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [0, 6])
def test_the_head_is_a_layer_norm_without_parameters_then_a_linear_layer(config_with, dim):
  config = config_with(model__embedding_norm="layer", model__embedding_dim=dim)
  embedder = embedders.build(config.model)
  rng = np.random.default_rng(1)
  kernel, bias = rng.standard_normal((16, dim)), rng.standard_normal(dim)
  features = np.random.default_rng(2).standard_normal((4, 16)).astype(np.float32) * 3 + 1
  expected = (features - features.mean(axis=1, keepdims=True)) / features.std(axis=1, keepdims=True)
  if dim:
    expected = expected @ kernel + bias
  params = {"embedding": {"kernel": kernel, "bias": bias}} if dim else {}
  got = embedder.apply({"params": params}, features, method="head")
  np.testing.assert_allclose(got, expected, atol=1e-4)


def numpy_norm(x, p):
  x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
  return x * p["scale"] + p["bias"]


def numpy_block(x, p):
  y, attention = numpy_norm(x, p["norm_1"]), p["attention"]
  q, k, v = (
    np.einsum("btd,dhe->bhte", y, attention[name]["kernel"])
    + np.asarray(attention[name]["bias"])[:, None]
    for name in ("query", "key", "value")
  )
  weights = np.exp(q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1]))
  heads = weights / weights.sum(axis=-1, keepdims=True) @ v
  out = attention["out"]
  x = x + np.einsum("bhte,hed->btd", heads, out["kernel"]) + out["bias"]
  y = numpy_norm(x, p["norm_2"]) @ p["mlp_1"]["kernel"] + p["mlp_1"]["bias"]
  y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
  return x + y @ p["mlp_2"]["kernel"] + p["mlp_2"]["bias"]


def numpy_vit(images, p, prompts, pool):
  """VPT's formulas: [x_1, _, E_1] = L_1([x_0, P, E_0]), with P anew before every block if deep."""
  patch = p["patch_embedding"]["patch"]
  e = images.reshape(2, 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 192)
  e = e @ np.asarray(patch["kernel"]).reshape(192, -1) + patch["bias"]
  token = np.broadcast_to(p["class_token"], (2, 1, 16)) if pool == "token" else e[:, :0]
  x = np.concatenate([token, e], axis=1) + p["position_embedding"]
  cut = token.shape[1]
  token, e = x[:, :cut], x[:, cut:]
  inserted = np.broadcast_to(prompts[0], (2, *prompts[0].shape))
  for i in range(2):
    if len(prompts) > 1:
      inserted = np.broadcast_to(prompts[i], inserted.shape)
    x = numpy_block(np.concatenate([token, inserted, e], axis=1), p[f"block_{i}"])
    token, inserted, e = x[:, :cut], x[:, cut : cut + 3], x[:, cut + 3 :]
  final = numpy_norm(np.concatenate([token, e], axis=1), p["norm"])
  return final[:, 0] if pool == "token" else final.mean(axis=1)


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("layers", [1, 2])
def test_prompts_are_tokens_of_every_block_and_none_of_the_pool(pool, layers):
  rng = np.random.default_rng(3)
  images = rng.standard_normal((2, 16, 16, 3)).astype(np.float32)
  vit = ViT(width=16, depth=2, num_heads=2, mlp_dim=24, patch_size=8, pool=pool)
  params = jax.tree.map(
    # Fresh biases are 0, norms 1 and the class token 0: a mix-up of them would not show.
    lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape).astype(np.float32),
    jax.jit(vit.init)(jax.random.key(0), images)["params"],
  )
  prompts = rng.standard_normal((layers, 3, 16)).astype(np.float32)
  got = jax.jit(vit.apply)({"params": params}, images, prompts)
  np.testing.assert_allclose(got, numpy_vit(images, params, prompts, pool), atol=2e-5)


def test_prompts_start_within_xaviers_bound_and_leave_other_numbers_alone(config_with):
  config = config_with(model__num_prompts=50, model__prompts_depth="deep", model__depth=2, **PLAIN)
  _, params = embedders.init_model(config)
  prompts = params.pop("prompts")
  assert prompts.shape == (2, 50, 16)
  bound = math.sqrt(6 / (3 * config.model.patch_size**2 + 16))
  assert 0.95 * bound < np.abs(prompts).max() <= bound
  _, plain = embedders.init_model(config_with(model__depth=2, **PLAIN))
  assert jax.tree.structure(plain) == jax.tree.structure(params)
  for x, y in zip(jax.tree.leaves(plain), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(x, y)
  config.model.prompts_depth = "shallow"
  shapes = jax.eval_shape(lambda: embedders.init_model(config)[1])
  assert shapes["prompts"].shape == (1, 50, 16)
