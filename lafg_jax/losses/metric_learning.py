"""Usual losses of metric learning that can replace L_aux: pure functions over arrays.

As in contrastive.py, every function takes the *global* batch. A temperature t divides the squared
distance D = 2 - 2 cos of unit vectors: a logit is -D / t, which differs from cos / (t / 2) by a
constant that does not change a softmax. A paper's tau, the divisor of cos, is t = 2 tau.
"""

import jax
import jax.numpy as jnp

from lafg_jax.losses import contrastive


def supcon(z: jax.Array, labels: jax.Array, *, temperature: float) -> jax.Array:
  """Supervised contrastive loss, L_out of Khosla et al. (NeurIPS 2020, eq. 2).

  For every anchor i with positives P(i), the other rows of its label, averaged over such anchors:

    -1/|P(i)| sum_{p in P(i)} log( exp(-D(z_i, z_p)/t) / sum_{a != i} exp(-D(z_i, z_a)/t) )

  Args:
    z: [B, D] embeddings, B >= 2; L2-normalised here.
    labels: [B] int.
    temperature: t > 0, the divisor of D; the paper's tau = 0.1 is t = 0.2.

  Returns:
    A float32 scalar, >= 0; 0 where no row has a positive.
  """
  z = z.astype(jnp.float32)
  itself = jnp.eye(len(z), dtype=bool)
  logits = jnp.where(itself, -jnp.inf, contrastive.cosine_logits(z, z, temperature / 2))  # [B, B]
  positive = (labels[:, None] == labels[None, :]) & ~itself
  count = positive.sum(axis=1)  # [B]
  mean_positive = jnp.where(positive, logits, 0.0).sum(axis=1) / jnp.maximum(count, 1)
  loss = jnp.where(count > 0, jax.nn.logsumexp(logits, axis=1) - mean_positive, 0.0)
  return loss.sum() / jnp.maximum((count > 0).sum(), 1)


def norm_softmax(
  z: jax.Array, labels: jax.Array, proxies: jax.Array, *, temperature: float
) -> jax.Array:
  """Normalised softmax of Zhai & Wu (BMVC 2019): cross-entropy over cosines to class weights.

  The mean over rows of -log( exp(-D(z_i, p_y)/t) / sum_c exp(-D(z_i, p_c)/t) ), y the label of i.
  Their LayerNorm before the embedding is the model's (model.embedding_norm).

  Args:
    z: [B, D] embeddings; L2-normalised here.
    labels: [B] int, rows of `proxies`.
    proxies: [C, D], one a training class, learned; L2-normalised here.
    temperature: t > 0, the divisor of D; the paper's sigma = 0.05 is t = 0.1.

  Returns:
    A float32 scalar in nats, >= 0.
  """
  logits = contrastive.cosine_logits(z.astype(jnp.float32), proxies, temperature / 2)  # [B, C]
  log_p = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()


def proxy_anchor(
  z: jax.Array, labels: jax.Array, proxies: jax.Array, *, alpha: float, margin: float
) -> jax.Array:
  """Proxy-Anchor of Kim et al. (CVPR 2020, eq. 4).

  With s the cosine, X+ the rows of a proxy's class, X- the others, and P+ the proxies whose class
  is in the batch:

    1/|P+| sum_{p in P+} log(1 + sum_{x in X+} exp(-alpha (s(x, p) - margin)))
    + 1/C sum_p log(1 + sum_{x in X-} exp(alpha (s(x, p) + margin)))

  Args:
    z: [B, D] embeddings; L2-normalised here.
    labels: [B] int, rows of `proxies`.
    proxies: [C, D], one a training class, learned; L2-normalised here.
    alpha: scale of the cosines, > 0; 32 in the paper.
    margin: delta, on the cosine, >= 0; 0.1 in the paper.

  Returns:
    A float32 scalar, >= 0.
  """
  cosine = contrastive.cosine_logits(z.astype(jnp.float32), proxies, 1.0)  # [B, C]
  positive = labels[:, None] == jnp.arange(len(proxies))
  pulls = _log1p_sum_exp(-alpha * (cosine - margin), positive)  # [C], 0 without a positive
  pushes = _log1p_sum_exp(alpha * (cosine + margin), ~positive)
  return pulls.sum() / positive.any(axis=0).sum() + pushes.mean()


def _log1p_sum_exp(x: jax.Array, keep: jax.Array) -> jax.Array:
  """log(1 + sum of exp(x) where keep) down the columns of [B, C]: [C]."""
  # The row of zeros is the 1; it also leaves no column empty, whose gradient would be NaN.
  kept = jnp.concatenate([jnp.zeros_like(x[:1]), jnp.where(keep, x, -jnp.inf)])
  return jax.nn.logsumexp(kept, axis=0)


def init_proxies(key: jax.Array, num_classes: int, embedding_dim: int) -> jax.Array:
  """[C, D] float32, He's normal initialisation over the classes: sqrt(2 / C) a number.

  That of Proxy-Anchor's authors. Only directions enter a loss, but the length decides how far a
  step of given size turns a proxy: their learning rates go with this one.
  """
  return jax.random.normal(key, (num_classes, embedding_dim)) * jnp.sqrt(2.0 / num_classes)
