"""Scaled dot-product attention, in the layout that is fastest on each platform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# The widest head, in channels, that cuDNN's flash attention takes with its backward pass.
_CUDNN_WIDEST = 128


def attend(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool = False) -> jax.Array:
  """softmax(query key^T / sqrt(d)) value (Vaswani et al., NeurIPS 2017, equation 1).

  On GPUs it is cuDNN's flash attention where that applies: bfloat16 or float16, and heads of a
  multiple of 8 channels, at most 128. Otherwise it is two products over [B, heads] with the weights
  [T, S] between them. Scores and softmax are float32: bfloat16 keeps three digits of a weight, and
  hundreds are summed.

  Args:
    query: [B, T, heads, d].
    key, value: [B, S, heads, d].
    causal: token t reads tokens 0 to t alone, as in a language model; S is T then.

  Returns:
    [B, T, heads, d], of the query's dtype.
  """
  ways = {"cuda": functools.partial(_flash, causal=causal)} if _takes_flash(query) else {}
  default = functools.partial(_batched, causal=causal)
  return jax.lax.platform_dependent(query, key, value, default=default, **ways)


def _takes_flash(query: jax.Array) -> bool:
  width = query.shape[-1]
  fits = query.dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= _CUDNN_WIDEST
  # Tracing cuDNN's way needs cuDNN.
  return fits and jax.default_backend() == "gpu" and _has_flash()


def _has_flash() -> bool:
  """Whether the GPUs are of Ampere (8.0) or newer, which cuDNN's flash attention needs."""
  return all(float(x.compute_capability) >= 8.0 for x in jax.local_devices(backend="gpu"))


def _flash(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> jax.Array:
  return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation="cudnn")


def _batched(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> jax.Array:
  return with_weights(query, key, value, causal)[0]


def with_weights(
  query: jax.Array, key: jax.Array, value: jax.Array, causal: bool = False
) -> tuple[jax.Array, jax.Array]:
  """What `attend` gives, by two products on every platform, and the weights [B, heads, T, S]."""
  # Heads before tokens, [B, heads, T, d]: each of the products over tokens is then one matrix
  # product of contiguous rows, which halves their time on the CPU.
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
  query = query * query.shape[-1] ** -0.5
  scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
  if causal:
    scores = jnp.where(np.tri(*scores.shape[2:], dtype=np.bool_), scores, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1)
  x = jnp.einsum("bhts,bhsd->bhtd", weights.astype(value.dtype), value)
  return jnp.swapaxes(x, 1, 2), weights
