"""Weights of a caption's tokens, by how much an image changes what each token says (DCAR).

w_j = |S(token j, blank) - S(token j, image)|. If p(token | image) is proportional to exp(tau S),
the difference is a pointwise mutual information up to a constant. S and the scale of the weights
are open in the paper; these are ours.
"""

import jax
import jax.numpy as jnp
import numpy as np

# The weights stay within these multiples of their mean in the caption.
LEAST, MOST = 0.25, 4.0
BLANKS = {"white": 255, "grey": 128, "black": 0}
# Of the distribution that random weights follow.
QUANTILES = 257


def blank_image(name: str, size: int) -> np.ndarray:
  """uint8 [1, S, S, 3], all pixels alike."""
  return np.full((1, size, size, 3), BLANKS[name], np.uint8)


def changes(tokens: jax.Array, words: jax.Array, images: jax.Array, blank: jax.Array) -> jax.Array:
  """w [B, L], 0 for tokens that are no part of the caption.

  Pieces of one word share the mean of their S, and so their w.

  Args:
    tokens: [B, L, d] features of each token, L2-normalised.
    words: int [B, L], the number of the word that each token is a piece of; -1 for start and end
      token and padding.
    images: [B, d], L2-normalised. blank: [d].
  """
  difference = jnp.einsum("bld,bd->bl", tokens, blank[None] - images)
  content = words >= 0
  pieces = (words[:, :, None] == words[:, None, :]) & content[:, None, :]
  count = jnp.maximum(pieces.sum(axis=2), 1)
  mean = jnp.einsum("blm,bm->bl", pieces.astype(difference.dtype), difference) / count
  return jnp.where(content, jnp.abs(mean), 0.0)


def ratios(w: jax.typing.ArrayLike, words: jax.typing.ArrayLike) -> jax.Array:
  """w over its mean in the caption, within `LEAST` and `MOST`; 1 where that mean is 0."""
  w, words = jnp.asarray(w), jnp.asarray(words)
  content = words >= 0
  mean = w.sum(axis=1, keepdims=True) / jnp.maximum(content.sum(axis=1, keepdims=True), 1)
  ratio = jnp.where(mean > 0, w / jnp.where(mean > 0, mean, 1.0), 1.0)
  return jnp.clip(ratio, LEAST, MOST)


def scaled(
  w: jax.typing.ArrayLike,
  words: jax.typing.ArrayLike,
  gamma: float,
  raw: bool = False,
  ratio: jax.Array | None = None,
) -> jax.Array:
  """a [B, L], the factors of token embeddings: 1 + gamma (ratio - 1), or with `raw` w itself.

  1 for tokens that are no part of the caption. `ratio` stands in for that of `w` where it is given.
  """
  w, words = jnp.asarray(w), jnp.asarray(words)
  if not raw:
    w = 1.0 + gamma * ((ratios(w, words) if ratio is None else ratio) - 1.0)
  return jnp.where(words >= 0, w, 1.0)


def shuffled(w: jax.Array, words: jax.Array, keys: jax.Array) -> jax.Array:
  """w [B, L] dealt out anew among the tokens of each caption, by a key [B] for each row."""

  def one(w, words, key):
    content = words >= 0
    drawn = jnp.where(content, jax.random.uniform(key, w.shape), 2.0)
    # Both begin with the caption's places: in random order, and in their own.
    source, target = jnp.argsort(drawn), jnp.argsort(~content, stable=True)
    return w.at[target].set(w[source])

  return jax.vmap(one)(w, words, keys)


def random_ratios(quantiles: jax.Array, shape: tuple[int, ...], keys: jax.Array) -> jax.Array:
  """Ratios [B, L] drawn for each token from the distribution with these quantiles [Q]."""
  places = jnp.linspace(0.0, 1.0, len(quantiles))
  drawn = jax.vmap(lambda key: jax.random.uniform(key, shape[1:]))(keys)
  return jnp.interp(drawn, places, quantiles)


def quantiles_of(ratio: np.ndarray, words: np.ndarray) -> np.ndarray:
  """[Q] quantiles of the ratios of all captions' tokens, for `random_ratios`."""
  return np.quantile(ratio[words >= 0], np.linspace(0, 1, QUANTILES)).astype(np.float32)
