"""Attention: the formula in NumPy, whichever way a platform takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lafg_jax.models import attention


def drawn(tokens=7, others=5, heads=3, width=8):
  rng = np.random.default_rng(0)
  shapes = ((2, tokens, heads, width), (2, others, heads, width), (2, others, heads, width))
  return [3 * rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def by_hand(query, key, value):
  query, key, value = (x.astype(np.float64) for x in (query, key, value))
  scores = np.einsum("bthd,bshd->bhts", query, key) / np.sqrt(query.shape[-1])
  weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
  weights /= weights.sum(axis=-1, keepdims=True)
  return np.einsum("bhts,bshd->bthd", weights, value)


def test_it_is_the_formula():
  given = drawn()
  got = jax.jit(attention.attend)(*given)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, by_hand(*given), atol=1e-5)


def test_causal_is_that_of_torch_and_reads_no_later_token():
  torch = pytest.importorskip("torch")
  given = drawn(tokens=7, others=7)
  got = jax.jit(attention.attend, static_argnames="causal")(*given, causal=True)
  want = torch.nn.functional.scaled_dot_product_attention(
    *(torch.from_numpy(x).transpose(1, 2) for x in given), is_causal=True
  )
  np.testing.assert_allclose(got, want.transpose(1, 2).numpy(), atol=1e-5)
  assert np.abs(got - attention.attend(*given)).max() > 0.1


def test_its_gradient_is_that_of_jax():
  given = drawn()
  grads = [
    jax.grad(lambda q, k, v, f=f: jnp.sum(jnp.sin(f(q, k, v))), argnums=(0, 1, 2))(*given)
    for f in (attention.attend, jax.nn.dot_product_attention)
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *grads)


def test_bfloat16_sums_its_weights_in_float32():
  given = [jnp.asarray(x, jnp.bfloat16) for x in drawn(tokens=4, others=600)]
  got = attention.attend(*given)
  assert got.dtype == jnp.bfloat16
  # The weights of one query are 600 numbers near 1 / 600: their sum is 1 to a percent.
  ones = attention.attend(given[0] * 0, given[1], jnp.ones_like(given[2]))
  np.testing.assert_allclose(np.asarray(ones, np.float32), 1, atol=0.01)
  want = by_hand(*(np.asarray(x, np.float32) for x in given))
  np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=0.1)


@pytest.mark.parametrize(
  ("dtype", "width", "capability", "flash"),
  [
    ("bfloat16", 64, "8.0", True),
    ("float16", 128, "9.0", True),
    ("float32", 64, "9.0", False),
    ("bfloat16", 60, "9.0", False),
    ("bfloat16", 136, "9.0", False),
    ("bfloat16", 64, "7.5", False),
  ],
)
def test_cudnn_is_taken_where_it_applies(monkeypatch, dtype, width, capability, flash):
  class Gpu:
    compute_capability = capability

  seen = []

  def taken(query, key, value, is_causal, implementation):
    seen.append((implementation, is_causal))
    return query

  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax, "local_devices", lambda backend: [Gpu()])
  monkeypatch.setattr(jax.nn, "dot_product_attention", taken)
  shape = jax.ShapeDtypeStruct((1, 4, 2, width), jnp.dtype(dtype))
  for causal in (False, True):
    jax.make_jaxpr(functools.partial(attention.attend, causal=causal))(shape, shape, shape)
  assert seen == ([("cudnn", False), ("cudnn", True)] if flash else [])
