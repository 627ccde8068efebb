"""The pairwise contrastive loss of LaFG and Hyp-ViT, and cosines: pure functions over arrays.

Rows of a batch are slot-major: row a * N + i is slot a of class i, for N classes x m slots. Every
function takes the *global* batch; the step gathers it, so the device count never enters a formula.
"""

import jax
import jax.numpy as jnp

# The logarithm of "no such term": finite, so that gradients of empty sums are 0 and not NaN.
_LOG_ZERO = -1e30
_HIGHEST = jax.lax.Precision.HIGHEST


def unit(x: jax.Array) -> jax.Array:
  """x / |x| over the last axis, with a finite gradient at 0."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def pairwise_contrastive(
  z: jax.Array, *, classes: int, slots: int, temperature: float, reduction: str = "sum"
) -> jax.Array:
  """L_aux of LaFG: the pairwise cross-entropy of Hyp-ViT (Ermolov et al., CVPR 2022) on the sphere.

  With D(i, j) = ||z_i - z_j||^2 = 2 - 2 cos, for every ordered pair of slots (a, b), a != b, and
  every class i:

    -log( exp(-D(z_i^a, z_i^b)/t)
          / (sum_k exp(-D(z_i^a, z_k^b)/t) + sum_{k != i} exp(-D(z_i^a, z_k^a)/t)) )

  averaged over classes. Hyp-ViT's code uses cos/t, which is -D/(2t): to follow a Hyp-ViT recipe
  with t = 0.1, pass temperature = 0.2 here.

  Args:
    z: [slots * classes, D] embeddings, slot-major; L2-normalised here.
    classes: N, the number of distinct classes.
    slots: m >= 2, images a class.
    temperature: t > 0, the divisor of D.
    reduction: 'sum' over the m(m-1) ordered slot pairs (the published recipes), or their 'mean'.

  Returns:
    A float32 scalar, >= 0.
  """
  z = unit(z.astype(jnp.float32))
  cosine = jnp.matmul(z, z.T, precision=_HIGHEST)
  logits = (2.0 * cosine - 2.0) / temperature
  logits = logits.reshape(slots, classes, slots, classes)  # [a, i, b, k]
  across = jax.nn.logsumexp(logits, axis=3)  # [a, i, b]
  slot, row = jnp.arange(slots), jnp.arange(classes)
  within = logits[slot, :, slot, :]  # [a, i, k]
  within = jnp.where(jnp.eye(classes, dtype=bool), _LOG_ZERO, within)
  within = jax.nn.logsumexp(within, axis=2)  # [a, i]
  positive = logits[:, row, :, row].transpose(1, 0, 2)  # [a, i, b]
  loss = jnp.logaddexp(across, within[:, :, None]) - positive
  loss = jnp.where(jnp.eye(slots, dtype=bool)[:, None, :], 0.0, loss)
  total = loss.sum() / classes
  return total if reduction == "sum" else total / (slots * (slots - 1))


def cosine_logits(x: jax.Array, y: jax.Array, temperature: float) -> jax.Array:
  """cos(x_b, y_c) / temperature, [B, C]."""
  return jnp.matmul(unit(x), unit(y).T, precision=_HIGHEST) / temperature
