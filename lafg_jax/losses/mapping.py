"""Losses of the mapping network Phi of composed retrieval: pure functions of the global batch.

Pic2Word's is `image_text.contrast`, and SEARLE's L_gpt `image_text.distillation`.
"""

import jax
import jax.numpy as jnp

from lafg_jax.losses.contrastive import unit

_HIGHEST = jax.lax.Precision.HIGHEST


def reconstruction(found: jax.Array, wanted: jax.Array) -> jax.Array:
  """LinCIR's loss (Gu et al., CVPR 2024): the mean of (found - wanted)^2 over rows and dimensions.

  Both are features [B, d] of texts, not normalised; `wanted` takes no gradient.
  """
  return jnp.square(found - jax.lax.stop_gradient(wanted)).mean()


def distillation(words: jax.Array, inverted: jax.Array, temperature: float) -> jax.Array:
  """SEARLE's L_distil (Baldrati et al., ICCV 2023), of pseudo words [B, width] and inversions.

  Both are L2-normalised here and stacked to 2 B vectors; with s_ik their cosines, and the other
  vector of the same image as the positive p of i:

    -mean_i log( exp(s_ip / t) / sum_{k != i} exp(s_ik / t) )
  """
  count = len(words)
  x = jnp.concatenate([unit(words), unit(jax.lax.stop_gradient(inverted))])
  logits = jnp.matmul(x, x.T, precision=_HIGHEST) / temperature
  logits = jnp.where(jnp.eye(2 * count, dtype=bool), -jnp.inf, logits)
  rows = jnp.arange(2 * count)
  return -jax.nn.log_softmax(logits, axis=1)[rows, (rows + count) % (2 * count)].mean()
