"""Images and captions to unit-norm features: what training, evaluation and a retriever compute.

All functions are pure. `clip` is `models.clip.Clip`, its towers as `towers` gives them; `params` is
CLIP's own tree {'image', 'text', 'logit_scale'} with what a method learns (`prompts`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lafg_jax.explain import towers as explained
from lafg_jax.explain.heat import Seen
from lafg_jax.losses.contrastive import unit
from lafg_jax.models.vit import normalised
from lafg_jax.tasks.image_text_retrieval import prompts, reweighting

# The largest factor of cosines that is learned (CLIP's own bound).
MAX_SCALE = 100.0


def towers(config: ConfigDict, clip: Any) -> Any:
  """The towers with the arithmetic of the config, and prompts where it has them enter."""
  dtype, remat = jnp.dtype(config.model.dtype), config.model.remat
  image = clip.image.clone(dtype=dtype, remat=remat, prompts_at=config.prompts.place)
  return clip._replace(image=image, text=clip.text.clone(dtype=dtype, remat=remat))


def of_images(config: ConfigDict, clip: Any, params: Any, images: jax.Array) -> jax.Array:
  """Images uint8 [B, S, S, 3] to I [B, d] float32, L2-normalised."""
  given = prompts.of_image(config, clip, params)
  x = normalised(images, clip.mean, clip.std)
  x = clip.image.apply({"params": params["image"]}, x, given)
  return unit(prompts.adapted(params, x))


def see(config: ConfigDict, clip: Any, params: Any, images: jax.Array) -> Seen:
  """What explanations read of images uint8 [B, S, S, 3]."""
  given = prompts.of_image(config, clip, params)
  return explained.of_clip(clip, params, images, given, functools.partial(prompts.adapted, params))


def of_texts(
  config: ConfigDict,
  clip: Any,
  params: Any,
  ids: jax.Array,
  ends: jax.Array,
  weights: jax.Array | None = None,
) -> jax.Array:
  """Captions to T [B, d] float32, L2-normalised, with the method's prompts.

  Args:
    ids: int [B, L], with start and end token; L and the prompts fit into the context, and under
      pool 'last' fill it.
    ends: int [B], the place of each end token.
    weights: [B, L], the factors of the embeddings; None is 1. In evaluation there are none: a
      text has never seen an image.
  """
  first, later = prompts.of_text(config, clip, params)
  x = clip.text.apply({"params": params["text"]}, ids, method="embed")
  if weights is not None:
    # Before positions, which the tower adds.
    x = x * weights[..., None]
  x, ends = prompts.inserted(x, ends, first, place(clip))
  x = clip.text.apply({"params": params["text"]}, x, ends, later, place(clip))
  return unit(x)


def place(clip: Any) -> int:
  """Where text prompts stand: after the start token, or first where the family has none."""
  return 1 if clip.text.pool == "end" else 0


def token_states(clip: Any, params: Any, ids: jax.Array, ends: jax.Array) -> jax.Array:
  """The features [B, L, d] of each token of a plain caption in its place, L2-normalised."""
  x = clip.text.apply({"params": params["text"]}, ids, method="embed")
  return unit(clip.text.apply({"params": params["text"]}, x, ends, states=True))


def changes(
  config: ConfigDict,
  clip: Any,
  params: Any,
  ids: jax.Array,
  ends: jax.Array,
  words: jax.Array,
  images: jax.Array,
  blank: jax.Array,
  constants: dict[str, jax.Array],
) -> jax.Array:
  """w [B, L] of `reweighting.changes`, with S as reweighting.similarity says.

  `constants` has 'token_features' [m, d] and 'token_rows' [vocabulary] where S is context-free.
  """
  if config.reweighting.similarity == "context_free":
    of_tokens = constants["token_features"][constants["token_rows"][ids]].astype(jnp.float32)
  else:
    of_tokens = token_states(clip, params, ids, ends)
  return reweighting.changes(of_tokens, words, images, blank)


def scale(params: Any, learned: bool = False) -> jax.Array:
  """The factor of cosines, exp(logit_scale); one that is learned is at most `MAX_SCALE`."""
  factor = jnp.exp(params["logit_scale"])
  return jnp.minimum(factor, MAX_SCALE) if learned else factor
