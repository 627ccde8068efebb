"""The forms of L_ali, and L_img: pure functions over arrays of the global batch."""

import jax
import jax.numpy as jnp

from lafg_jax.losses.contrastive import cosine_logits, unit

_HIGHEST = jax.lax.Precision.HIGHEST


def symmetric_kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """(KL(p||q) + KL(q||p)) / 2 of log-probabilities [B, K], row by row: [B], in nats, >= 0."""
  return 0.5 * jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)


def alignment(
  v: jax.Array,
  labels: jax.Array,
  targets: dict[str, jax.Array],
  projectors: dict[str, jax.Array],
  mean_projectors: dict[str, jax.Array],
  *,
  form: str,
  projector: str,
  temperature: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """L_ali of LaFG, in the forms that the paper leaves open (see the functions below).

  Args:
    v: [B, D] image embeddings before L2 normalisation.
    labels: [B] int, rows of the targets.
    targets: what the form compares with: 'prototypes' [C, d]; or 'vocabulary' [N, d] and
      'attribute_cosine' [C, N], cos(t_c - mean a, a_n - mean a); or 'class_vectors' [C, W] for the
      word-free controls. The caller may have centred them.
    projectors: 'image' P_v [D, W] and 'text' P_t [d, W].
    mean_projectors: their EMA copies E_v and E_t; never take a gradient.
    form: 'distribution', 'prototype', 'vocabulary', or the controls 'orthogonal' and 'onehot'.
    projector: what the image side is compared with: 'free' (P_t, learned), 'mean' (E_t) or
      'fixed' (P_t, not learned).
    temperature: tau_a of the cosine forms.

  Returns:
    The loss, a scalar in nats, mean over the batch; and log-probabilities [B, K] of the image side
    and of the text side, for `collapse_stats`.
  """
  v, averages = v.astype(jnp.float32), jax.lax.stop_gradient(mean_projectors)
  image = projectors["image"]
  if form in ("orthogonal", "onehot"):
    # These controls have no text side.
    return _cross_entropy(_project(v, image), labels, targets["class_vectors"], temperature)
  text = projectors["text"]
  other = {"free": text, "mean": averages["text"], "fixed": jax.lax.stop_gradient(text)}[projector]
  if form == "prototype":
    classes = _project(targets["prototypes"], other)  # [C, W]
    return _cross_entropy(_project(v, image), labels, classes, temperature)
  log_probs = {"distribution": _distributions, "vocabulary": _vocabulary}.get(form)
  if log_probs is None:
    raise ValueError(f"unknown form of alignment: {form!r}")
  log_p, log_q = log_probs(v, labels, targets, image, other, temperature)
  loss = symmetric_kl(log_p, log_q).mean()
  if projector == "mean":
    crossed = log_probs(v, labels, targets, averages["image"], text, temperature)
    loss = loss + symmetric_kl(*crossed).mean()
  return loss, log_p, log_q


def _project(x: jax.Array, matrix: jax.Array) -> jax.Array:
  return jnp.matmul(x, matrix, precision=_HIGHEST)


def _cross_entropy(image_logits, labels, classes, temperature):
  """Cross-entropy of the label under softmax_c(cos(P_v V, class vector c) / tau_a)."""
  log_p = jax.nn.log_softmax(cosine_logits(image_logits, classes, temperature))
  loss = -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()
  log_q = jax.nn.log_softmax(cosine_logits(classes, classes, temperature))[labels]
  return loss, log_p, log_q


def _distributions(v, labels, targets, image, text, temperature):
  """log softmax(P_v V) and log softmax(P_t T), for skl between the two.

  'mean': skl(softmax(P_v V), sg softmax(E_t T)) + skl(softmax(E_v V), softmax(P_t T)): V takes
  gradient in both terms, E in neither.
  """
  log_q = jax.nn.log_softmax(_project(targets["prototypes"], text))[labels]
  return jax.nn.log_softmax(_project(v, image)), log_q


def _vocabulary(v, labels, targets, image, text, temperature):
  """log softmax_n(cos(P_v V, P_t a_n) / tau_a), and that of the class's cosines to the attributes.

  'mean' has two terms as in `_distributions`: P_v V with E_t a_n, and E_v V with P_t a_n, so that
  P_t learns without copying P_v.
  """
  attributes = _project(targets["vocabulary"], text)  # [N, W]
  log_p = jax.nn.log_softmax(cosine_logits(_project(v, image), attributes, temperature))
  return log_p, jax.nn.log_softmax(targets["attribute_cosine"] / temperature)[labels]


def image_alignment(
  v: jax.Array,
  rows: jax.Array,
  targets: dict[str, jax.Array],
  projector: jax.Array,
  *,
  form: str,
  temperature: float,
) -> jax.Array:
  """L_img: each image with what the vision-language model itself sees in it. Ours, not LaFG's.

  An image shows attributes that its class's text omits, and unseen classes share attributes, not
  labels. P_r maps V into the model's own space. 'vocabulary' and 'random':
  skl(softmax_n(cos(P_r V, a_n) / t), softmax_n(c_n / t)) with c_n the model's cosine of the image
  to a_n. 'feature': 1 - cos(P_r V, f), f the model's feature. P_v of L_ali is another projection:
  L_ali separates a class from all others, and L_img keeps what an image shares with them.

  Args:
    v: [B, D] image embeddings before L2 normalisation.
    rows: [B] int, the images' rows in the targets.
    targets: 'directions' [N, d] a_n and 'image_cosine' [n, N], or 'image_feature' [n, d]. A row of
      zeros is an image that could not be read: it adds nothing.
    projector: P_r [D, d].
    form: 'vocabulary', 'random' or 'feature'.
    temperature: t.

  Returns:
    A scalar, mean over the batch: in nats, or in [0, 2] for 'feature'.
  """
  image = _project(v.astype(jnp.float32), projector)  # [B, d]
  wanted = jnp.take(targets["image_feature" if form == "feature" else "image_cosine"], rows, axis=0)
  if form == "feature":
    each = 1.0 - jnp.sum(unit(image) * unit(wanted), axis=-1)
  else:
    log_p = jax.nn.log_softmax(cosine_logits(image, targets["directions"], temperature))
    each = symmetric_kl(log_p, jax.nn.log_softmax(wanted / temperature))
  return jnp.where(jnp.any(wanted != 0, axis=-1), each, 0.0).mean()


def collapse_stats(log_p: jax.Array) -> dict[str, jax.Array]:
  """How far a set of projected distributions [B, K] is from collapse.

  Returns:
    'entropy': mean entropy over log K, in [0, 1]; 1 is uniform.
    'spread': mean total-variation distance of a row from the mean row, in [0, 1]; 0 is constant:
      every image (or class) gives the same distribution.
  """
  p = jnp.exp(log_p)
  entropy = -jnp.sum(p * log_p, axis=-1).mean() / jnp.log(max(p.shape[-1], 2))
  spread = 0.5 * jnp.abs(p - p.mean(axis=0)).sum(axis=-1).mean()
  return {"entropy": entropy, "spread": spread}
