"""What image-text retrieval trains: L = L_con + lambda L_cate of a global batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.losses import image_text
from lafg_jax.tasks.image_text_retrieval import features, methods, prompts, reweighting
from lafg_jax.training.step import Objective

# CLIP's own parameters: frozen unless the method trains all.
_OF_CLIP = ("image/", "text/", "logit_scale", "logit_bias")
# The side of a random crop, as a part of the image's.
_CROP = (0.5, 0.9)


def build(
  config: ConfigDict,
  clip: Any,
  params: dict[str, Any],
  *,
  rows: int,
  length: int,
  negatives: int = 0,
  constants: dict[str, Any] | None = None,
) -> Objective:
  """The objective of a resolved config.

  Args:
    clip: the towers, as `features.towers` gives them.
    params: CLIP's tree with what the method learns, `init_params`.
    rows: B, images with their captions in a global batch.
    length: L, tokens of a caption with start and end token, padded.
    negatives: K, at most, of a caption; read with L_cate.
    constants: 'features' [n, d], the stored features U of plain texts, read with L_cate;
      'token_features' [m, d] and 'token_rows' [vocabulary], the features of single tokens and
      which of them a token has, read by context-free weights; 'quantiles', read by random ones.
  """
  size = config.data.image_size
  image = jax.ShapeDtypeStruct((size, size, 3), np.uint8)
  token = jax.ShapeDtypeStruct((length,), np.int32)
  number = jax.ShapeDtypeStruct((), np.int32)
  embed_reads = {"image": image, "tokens": token, "ends": number}
  if methods.reweights(config):
    embed_reads["words"] = token
    if config.reweighting.weights == "other":
      embed_reads["other"] = image
  loss_reads = {"caption": number}
  if methods.has_categories(config):
    drawn = jax.ShapeDtypeStruct((1 + negatives,), np.int32)
    there = jax.ShapeDtypeStruct(drawn.shape, np.bool_)
    loss_reads |= {"negative": drawn, "category": drawn, "negative_mask": there}
  given = dict(constants or {})
  if config.prompts.method == "finetune_distill":
    given["start"] = {"image": params["image"]}
  return Objective(
    params=params,
    embed=_make_embed(config, clip),
    loss=make_loss(config),
    embed_reads=embed_reads,
    loss_reads=loss_reads,
    rows=rows,
    constants=given,
    is_frozen=frozen_by(config),
    shown=("loss", "l_con", "l_cate", "l_distil"),
  )


def init_params(
  config: ConfigDict, clip: Any, of_clip: dict[str, Any], words: list[int] | None
) -> dict[str, Any]:
  """CLIP's tree with what the method learns, before training; a pure function of its arguments.

  `words` are the token ids of prompts.words, without start and end.
  """
  embedded = None
  if words is not None and methods.of(config).init == "words":
    ids = jnp.asarray(words, jnp.int32)[None]
    embedded = clip.text.apply({"params": of_clip["text"]}, ids, method="embed")[0]
  key = jax.random.split(jax.random.key(config.seed))[1]
  return {**of_clip, **prompts.init(config, clip, embedded, key)}


def frozen_by(config: ConfigDict) -> Callable[[str], bool]:
  """Whether a parameter stays as it started, whatever train.freeze says."""
  full, learned = methods.is_full(config), config.image_text.logit_scale == "learned"

  def is_frozen(path: str) -> bool:
    if path == "logit_scale":
      return not learned
    # L_con has no bias, and so it takes no gradient.
    return path == "logit_bias" or (not full and path.startswith(_OF_CLIP))

  return is_frozen


def _make_embed(config: ConfigDict, clip: Any) -> Callable[..., dict[str, jax.Array]]:
  """Images and captions to {'image': I, 'text': T}, both [b, d]; 'crop' and 'wanted' to distil."""
  weighs, distils = methods.reweights(config), config.prompts.method == "finetune_distill"

  def embed(params, averages, rows, constants, keys):
    del averages
    images, ids = features.of_images(config, clip, params, rows["image"]), rows["tokens"]
    weights = _weights(config, clip, params, rows, images, constants, keys) if weighs else None
    texts = features.of_texts(config, clip, params, ids, rows["ends"], weights)
    found = {"image": images, "text": texts}
    if distils:
      crops = random_crops(rows["image"], keys)
      found["crop"] = features.of_images(config, clip, params, crops)
      found["wanted"] = features.of_images(config, clip, constants["start"], crops)
    return found

  return embed


def _weights(config, clip, params, rows, images, constants, keys) -> jax.Array:
  """a [b, L] of the captions of some rows; no gradient goes through it."""
  options, ids, words = config.reweighting, rows["tokens"], rows["words"]
  fixed, images, constants = jax.lax.stop_gradient((params, images, constants))
  if options.weights == "other":
    images = features.of_images(config, clip, fixed, rows["other"])
  white = reweighting.blank_image(options.blank, rows["image"].shape[1])
  # Of the parameters alone, and so once for all rows.
  blank = features.of_images(config, clip, fixed, jnp.asarray(white))[0]
  w = features.changes(config, clip, fixed, ids, rows["ends"], words, images, blank, constants)
  drawn = jax.vmap(lambda key: jax.random.split(key))(keys)
  ratio = None
  if options.weights == "shuffled":
    w = reweighting.shuffled(w, words, drawn[:, 0])
  if options.weights == "random":
    ratio = reweighting.random_ratios(constants["quantiles"], w.shape, drawn[:, 0])
  a = reweighting.scaled(w, words, options.gamma, options.raw, ratio)
  plain = jax.vmap(lambda key: jax.random.bernoulli(key, options.plain))(drawn[:, 1])
  return jax.lax.stop_gradient(jnp.where(plain[:, None], 1.0, a))


def random_crops(images: jax.Array, keys: jax.Array) -> jax.Array:
  """A random square of each image [b, S, S, 3], in the size of the image; float32 in [0, 255]."""
  side = images.shape[1]

  def one(image, key):
    drawn = jax.random.uniform(key, (3,))
    part = _CROP[0] + (_CROP[1] - _CROP[0]) * drawn[0]
    corner = drawn[1:] * (1 - part) * side
    zoom = jnp.stack([1 / part, 1 / part])
    moved = -corner * zoom
    return jax.image.scale_and_translate(
      image.astype(jnp.float32), image.shape, (0, 1), zoom, moved, "linear", antialias=False
    )

  return jax.vmap(one)(images, keys)


def make_loss(config: ConfigDict) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
  """`Objective.loss` of a config."""
  options, of_category = config.image_text, config.category
  learned, has_categories = options.logit_scale == "learned", methods.has_categories(config)

  def loss(embeddings, params, averages, batch, constants, key):
    del averages, key
    images, texts = embeddings["image"], embeddings["text"]
    factor = features.scale(params, learned)
    total = image_text.contrast(images, texts, batch["caption"], factor, options.direction)
    metrics = {"l_con": total}
    if has_categories:
      metrics["l_cate"] = _category(config, images, params, batch, constants["features"], factor)
      total = total + of_category.weight * metrics["l_cate"]
    if "wanted" in embeddings:
      metrics["l_distil"] = image_text.distillation(embeddings["crop"], embeddings["wanted"])
      total = total + options.distillation * metrics["l_distil"]
    return total, metrics

  return loss


def _category(config, images, params, batch, stored, factor) -> jax.Array:
  """L_cate of images [B, d]; the texts are stored features, and only CAA changes them."""
  strings, there = batch["negative"], batch["negative_mask"]
  same = batch["category"] == batch["category"][:, :1]
  candidates = prompts.caa(config, params, stored[strings].astype(jnp.float32))
  if config.category.candidates == "batch":
    others, labels = candidates[:, 0], batch["category"][:, 0]
    shape = (len(strings), *others.shape)
    candidates = jnp.concatenate([candidates, jnp.broadcast_to(others, shape)], axis=1)
    there = jnp.concatenate([there, _new_captions(strings, there)], axis=1)
    same = jnp.concatenate([same, labels[:, None] == labels[None]], axis=1)
  options = config.category
  return image_text.category(
    images, candidates, same, there, factor, alpha=options.alpha, form=options.form
  )


def _new_captions(strings: jax.Array, there: jax.Array) -> jax.Array:
  """bool [B, B]: caption j of the batch is no candidate of row i yet, and no repeat."""
  captions = strings[:, 0]
  among = ((strings[:, :, None] == captions) & there[:, :, None]).any(axis=1)
  repeat = jnp.tril(captions[:, None] == captions, -1).any(axis=1)
  return ~among & ~repeat
