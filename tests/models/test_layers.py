"""Linear layers and GELU against Flax's own: parameters, values, gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lafg_jax.models.layers import Linear, gelu

LAYERS = {
  "wide": (lambda **k: Linear(24, **k), lambda **k: nn.Dense(24, **k)),
  "narrow": (lambda **k: Linear(3, **k), lambda **k: nn.Dense(3, **k)),
  "heads": (lambda **k: Linear((2, 4), **k), lambda **k: nn.DenseGeneral((2, 4), **k)),
}


def _value_and_gradients(layer, params, x, weights):
  def value(params, x):
    return (layer.apply(params, x).astype(jnp.float32) * weights).sum()

  return jax.value_and_grad(value, argnums=(0, 1))(params, x)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_linear_layer_is_that_of_flax(name, use_bias):
  ours, theirs = (make(use_bias=use_bias) for make in LAYERS[name])
  x = jax.random.normal(jax.random.key(1), (5, 7, 8))
  params = ours.init(jax.random.key(0), x)
  jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), x))
  params = jax.tree.map(lambda p: p + 0.1, params)
  weights = jax.random.normal(jax.random.key(2), ours.apply(params, x).shape)
  found, wanted = (_value_and_gradients(layer, params, x, weights) for layer in (ours, theirs))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def test_two_axes_are_taken_together():
  ours, theirs = Linear(6, num_axes=2), nn.DenseGeneral(6, axis=(-2, -1))
  x = jax.random.normal(jax.random.key(1), (5, 7, 2, 4))
  params = theirs.init(jax.random.key(0), x)
  jax.tree.map(np.testing.assert_array_equal, params, ours.init(jax.random.key(0), x))
  np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), rtol=1e-5, atol=1e-6)


def test_bfloat16_sums_gradients_over_rows_in_float32():
  rows = 4096
  layer = Linear(2, dtype=jnp.bfloat16)
  x = jnp.ones((rows, 3), jnp.bfloat16)
  params = layer.init(jax.random.key(0), x)
  grads = jax.grad(lambda p: layer.apply(p, x).astype(jnp.float32).sum())(params)["params"]
  assert grads["kernel"].dtype == grads["bias"].dtype == jnp.float32
  # bfloat16 counts no further than 256.
  np.testing.assert_array_equal(grads["bias"], np.full(2, rows))
  np.testing.assert_array_equal(grads["kernel"], np.full((3, 2), rows))


def test_gelu_is_that_of_torch_and_so_is_its_gradient():
  x = np.concatenate([np.linspace(-9, 9, 2001), [-40, 40, 0]]).astype(np.float32)
  theirs = torch.from_numpy(x).requires_grad_()
  wanted = torch.nn.functional.gelu(theirs)
  wanted.sum().backward()
  np.testing.assert_allclose(gelu(x), wanted.detach(), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), theirs.grad, rtol=1e-6, atol=1e-6)
