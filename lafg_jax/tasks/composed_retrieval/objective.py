"""What the training of Phi minimises: LinCIR's, SEARLE's or Pic2Word's loss of a global batch.

CLIP is frozen. Its text tower takes part, for the gradient flows through it; its image tower does
not: features of images and of plain texts come with the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.losses import image_text
from lafg_jax.losses import mapping as losses
from lafg_jax.losses.contrastive import unit
from lafg_jax.tasks.composed_retrieval import mapping as networks
from lafg_jax.tasks.composed_retrieval import pseudo_words
from lafg_jax.tasks.composed_retrieval.pseudo_words import Phrases
from lafg_jax.training.step import Objective

# SEARLE's: L = L_distil + 0.75 L_gpt, and the temperature of L_distil.
OF_PHRASES, TEMPERATURE = 0.75, 0.25


def init_params(config: ConfigDict, clip: Any, of_clip: dict[str, Any]) -> dict[str, Any]:
  """CLIP's tree with a Phi before training; a pure function of its arguments."""
  method, width = config.mapping.method, clip.text.sizes[0]
  hidden = networks.hidden(method, clip.dim, config.mapping.hidden)
  key = jax.random.split(jax.random.key(config.seed))[1]
  return {**of_clip, "mapping": networks.init(method, clip.dim, width, hidden, key)}


def build(
  config: ConfigDict, clip: Any, params: dict[str, Any], *, length: int, reader: Any = None
) -> Objective:
  """The objective of a config.

  Args:
    params: of `init_params`.
    length: L, tokens of a text; 'pic2word' has one text, which `reader` cuts.
  """
  method, width = config.mapping.method, clip.text.sizes[0]
  number = jax.ShapeDtypeStruct((), np.int32)
  token = jax.ShapeDtypeStruct((length,), np.int32)
  feature = jax.ShapeDtypeStruct((clip.dim,), np.float32)
  places = jax.ShapeDtypeStruct((length,), np.bool_)
  said = {"ids": token, "ends": number, "at": places}
  constants: dict[str, Any] = {}
  if method == "lincir":
    target = jax.ShapeDtypeStruct((clip.dim,), np.float16)
    reads, loss_reads = {"target": target, **said}, {"target": target}
  elif method == "searle":
    plain = {"plain": token, "plain_ends": number}
    reads = {"feature": feature, **said, **plain}
    loss_reads = {"inverted": jax.ShapeDtypeStruct((width,), np.float32)}
  else:
    reads, loss_reads = {"feature": feature}, {"feature": feature, "row": number}
    constants = pseudo_words.phrases(reader, pseudo_words.PLAIN, [""])._asdict()
  return Objective(
    params=params,
    embed=_EMBED[method](config, clip),
    loss=_LOSS[method],
    embed_reads=reads,
    loss_reads=loss_reads,
    rows=config.mapping.batch_size,
    constants=constants,
    is_frozen=is_frozen,
    shown=("loss", "l_distil", "l_gpt"),
  )


def is_frozen(path: str) -> bool:
  """All of CLIP: Phi alone learns."""
  return not path.startswith("mapping/")


def _words(config: ConfigDict) -> Callable[..., jax.Array]:
  """(params, features [b, D], keys [b]) -> pseudo words [b, width], with dropout."""
  method, dropout = config.mapping.method, config.mapping.dropout
  if not dropout:
    return lambda params, x, keys: networks.apply(method, params["mapping"], x)
  return lambda params, x, keys: networks.apply(method, params["mapping"], x, dropout, keys)


def noised(x: jax.Array, scale: float, keys: jax.Array) -> jax.Array:
  """x + scale u n of each row [b, D]: u ~ U(0, 1), one a row, and n ~ N(0, I)."""

  def one(key: jax.Array) -> jax.Array:
    of_u, of_n = jax.random.split(key)
    return jax.random.uniform(of_u) * jax.random.normal(of_n, x.shape[1:])

  return x + scale * jax.vmap(one)(keys)


def _lincir(config: ConfigDict, clip: Any) -> Callable[..., dict[str, jax.Array]]:
  words, noise = _words(config), config.mapping.noise

  def embed(params, averages, rows, constants, keys):
    del averages, constants
    drawn = jax.vmap(jax.random.split)(keys)
    x = noised(rows["target"].astype(jnp.float32), noise, drawn[:, 0])
    said = Phrases(rows["ids"], rows["ends"], rows["at"])
    made = words(params, x, drawn[:, 1])
    return {"text": pseudo_words.features(clip, params, said, made)}

  return embed


def _lincir_loss(embeddings, params, averages, batch, constants, key):
  del params, averages, constants, key
  return losses.reconstruction(embeddings["text"], batch["target"].astype(jnp.float32)), {}


def _searle(config: ConfigDict, clip: Any) -> Callable[..., dict[str, jax.Array]]:
  words = _words(config)

  def embed(params, averages, rows, constants, keys):
    del averages, constants
    made = words(params, rows["feature"], keys)
    said = Phrases(rows["ids"], rows["ends"], rows["at"])
    found = unit(pseudo_words.features(clip, params, said, made))
    wanted = pseudo_words.plain_features(clip, params, rows["plain"], rows["plain_ends"])
    return {"words": made, "l_gpt": 1 - (found * unit(jax.lax.stop_gradient(wanted))).sum(axis=-1)}

  return embed


def _searle_loss(embeddings, params, averages, batch, constants, key):
  del params, averages, constants, key
  l_distil = losses.distillation(embeddings["words"], batch["inverted"], TEMPERATURE)
  l_gpt = embeddings["l_gpt"].mean()
  return l_distil + OF_PHRASES * l_gpt, {"l_distil": l_distil, "l_gpt": l_gpt}


def _pic2word(config: ConfigDict, clip: Any) -> Callable[..., dict[str, jax.Array]]:
  words = _words(config)

  def embed(params, averages, rows, constants, keys):
    del averages
    count = len(rows["feature"])
    said = {name: jnp.broadcast_to(x, (count, *x.shape[1:])) for name, x in constants.items()}
    made = words(params, rows["feature"], keys)
    return {"text": pseudo_words.features(clip, params, Phrases(**said), made)}

  return embed


def _pic2word_loss(embeddings, params, averages, batch, constants, key):
  del averages, constants, key
  scale = jnp.exp(jax.lax.stop_gradient(params["logit_scale"]))
  texts, images = embeddings["text"], batch["feature"]
  return image_text.contrast(images, texts, batch["row"], scale), {}


_EMBED = {"lincir": _lincir, "searle": _searle, "pic2word": _pic2word}
_LOSS = {"lincir": _lincir_loss, "searle": _searle_loss, "pic2word": _pic2word_loss}
