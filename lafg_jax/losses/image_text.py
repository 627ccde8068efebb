"""Losses between images and captions: pure functions of the global batch."""

import jax
import jax.numpy as jnp

from lafg_jax.losses.contrastive import unit

# The logarithm of "no such term": finite, so that gradients are 0 and not NaN.
_LOG_ZERO = -1e30
_HIGHEST = jax.lax.Precision.HIGHEST


def contrast(
  images: jax.Array,
  texts: jax.Array,
  captions: jax.Array,
  scale: jax.Array | float,
  direction: str = "symmetric",
) -> jax.Array:
  """InfoNCE between images and their captions (CLIP, Radford et al., ICML 2021).

  Captions with equal strings are positives of each other: with E_ij = [caption i = caption j], the
  target of row i is E_i / sum_j E_ij, and that of column j likewise. Without equal strings this is
  CLIP's loss.

  Args:
    images, texts: [B, d], row i of one belongs to row i of the other; L2-normalised here.
    captions: int [B], equal numbers for equal strings.
    scale: exp(logit_scale), the factor of the cosines.
    direction: 'symmetric', the mean of both directions, or 'image_to_text'.

  Returns:
    A float32 scalar: the mean over the batch of the cross-entropy.
  """
  logits = scale * jnp.matmul(unit(images), unit(texts).T, precision=_HIGHEST)
  same = (captions[:, None] == captions[None, :]).astype(logits.dtype)
  # `same` is symmetric: rows and columns have the same targets.
  targets = same / same.sum(axis=1, keepdims=True)
  to_text = -(targets * jax.nn.log_softmax(logits, axis=1)).sum(axis=1).mean()
  if direction == "image_to_text":
    return to_text
  to_image = -(targets * jax.nn.log_softmax(logits.T, axis=1)).sum(axis=1).mean()
  return 0.5 * (to_text + to_image)


def category(
  images: jax.Array,
  candidates: jax.Array,
  same_class: jax.Array,
  there: jax.Array,
  scale: jax.Array | float,
  *,
  alpha: float,
  form: str = "logits",
) -> jax.Array:
  """L_cate of DCAR (arXiv 2508.04028): the positive caption against other ones.

  With s_ik = scale <image i, candidate k of i> and m_ik = 1 + alpha where that candidate is of the
  image's class, else 1, and k = 0 the positive. The form is open in the paper; these are ours:

    'logits': -mean_i log( m_i0 exp s_i0 / sum_k m_ik exp s_ik ): log m is added to the logits
    'cosine': the same without m, of s'_ik = m_ik s_ik

  Args:
    images: [B, d], L2-normalised here.
    candidates: [B, n, d] features of captions, k = 0 the positive; L2-normalised here.
    same_class: bool [B, n], whether the candidate is of the image's class.
    there: bool [B, n]; False is padding, which takes no part. The positive is always there.
    scale: exp(logit_scale).
    alpha: at least 0.

  Returns:
    A float32 scalar; 0 where nothing but the positive is there.
  """
  cosine = jnp.einsum("bd,bnd->bn", unit(images), unit(candidates), precision=_HIGHEST)
  weight = jnp.where(same_class, 1.0 + alpha, 1.0)
  logits = scale * cosine
  logits = logits + jnp.log(weight) if form == "logits" else logits * weight
  logits = jnp.where(there, logits, _LOG_ZERO)
  return -jax.nn.log_softmax(logits, axis=1)[:, 0].mean()


def distillation(students: jax.Array, teachers: jax.Array) -> jax.Array:
  """The mean of 1 - cos(student, teacher) over rows [B, d]; the teacher takes no gradient."""
  cosine = (unit(students) * unit(jax.lax.stop_gradient(teachers))).sum(axis=-1)
  return 1.0 - cosine.mean()
