"""A restored model of composed retrieval: what it keeps of a checkpoint, and how it embeds.

Its facts are those of `language.encoders.kept_clip`, and 'mapping', the kind of its Phi
(`mapping.KINDS`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.evaluate.embed import Embed
from lafg_jax.explain import heat, towers
from lafg_jax.language.encoders import clip_texts, kept_clip
from lafg_jax.losses.contrastive import unit
from lafg_jax.models import clip as clips
from lafg_jax.models import clip_record
from lafg_jax.runtime import devices, jax_settings
from lafg_jax.tasks.composed_retrieval import features, mapping, methods, pseudo_words, queries
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.tasks.composed_retrieval.pseudo_words import Phrases
from lafg_jax.training import checkpoints
from lafg_jax.utils import padding
from lafg_jax.utils.errors import UserError

FACTS = (*kept_clip.FACTS, "mapping")
# Queries whose pseudo words are read at once.
_BATCH = 128


def facts_of(clip: Any, kind: str) -> dict[str, Any]:
  """The facts of a loaded Clip and of a Phi of that kind, for a checkpoint's meta."""
  return kept_clip.facts_of(clip) | {"mapping": kind}


def trees(config: ConfigDict, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """'params': both towers and 'mapping', Phi."""
  del config
  return {"params": checkpoints.subtree(arrays, "state/params"), "prototypes": {}, "readout": {}}


def pretrained(config: ConfigDict) -> tuple[ConfigDict, dict[str, Any], dict[str, Any], str]:
  """(config, params, facts, folder of the tokenizer) of the config's CLIP and of mapping.source.

  Raises UserError where there is no mapping.source, or the query reads no Phi.
  """
  config = methods.resolve(config)
  clip, params, _ = models.load(config)
  found = mapping.load(config, clip)
  if found is None and "phi" not in methods.reads(config):
    raise UserError(
      "this run has no Phi (query.use_phi=False, or a method without one), so that an image with a "
      "text is no query of it: run it with --config.query.use_phi=True, or load a config of "
      f"image-text retrieval with model.pretrained={config.model.pretrained} and "
      "prompts.method=zero_shot"
    )
  if found is None:
    raise UserError(
      "--config.mapping.source=: pass a trained Phi, or train one and pass the workdir"
    )
  kind, phi = found
  return config, {**params, "mapping": phi}, facts_of(clip, kind), clip.tokens.folder


def clip_of(config: ConfigDict, facts: dict[str, Any]) -> Any:
  """The towers, with the arithmetic of the config."""
  return clip_record.build(facts["clip"], jnp.dtype(config.model.dtype), config.model.remat)


def embedding_dim(config: ConfigDict, facts: dict[str, Any]) -> int:
  """D of a trained model."""
  del config
  return facts["clip"]["dim"]


def length(config: ConfigDict, facts: dict[str, Any]) -> int:
  """L, the most tokens of a text, special ones and a pseudo word included."""
  del config
  return facts["clip"]["text"]["context"]


def of_images(config: ConfigDict, facts: dict[str, Any]) -> Callable[..., jax.Array]:
  """A pure function (params, uint8 images [b, S, S, 3]) -> q_v or t_v [b, D] of unit norm."""
  return functools.partial(clips.embed_images, clip_of(config, facts))


def of_texts(config: ConfigDict, facts: dict[str, Any]) -> Callable[..., jax.Array]:
  """A pure function (params, ids [b, L], ends [b]) -> [b, D] float32 of unit norm."""
  return functools.partial(_of_texts, clip_of(config, facts))


def of_queries(config: ConfigDict, facts: dict[str, Any]) -> Callable[..., jax.Array]:
  """A pure function of an image with a text to q = beta q_f + (1 - beta) q_v, of unit norm.

  It is (params, uint8 images [b, S, S, 3], ids [b, L], ends [b], at [b]) -> [b, D] float32: `at` is
  the place of the pseudo word among the tokens. The weights are the config's, without edits.
  """
  clip, (_, beta, rest, said) = clip_of(config, facts), methods.weights_of(config, {"phi"})
  if said:
    raise ValueError(f"query.method={config.query.method} has no pseudo word")

  def embed(params: Any, images: jax.Array, ids: Any, ends: Any, at: Any) -> jax.Array:
    v = models.of_images(clip, params, images)
    q = rest * unit(v)
    if beta:
      q = q + beta * _with_words(clip, facts["mapping"], params, v, Phrases(ids, ends, at))
    return unit(q)

  return embed


def embed_images(config: ConfigDict, facts: dict[str, Any], params: dict[str, Any]) -> Embed:
  """`of_images` with these parameters, compiled, over all local devices."""
  return devices.spread(of_images(config, facts), {"image": params["image"]})


def see_images(
  config: ConfigDict, facts: dict[str, Any], params: dict[str, Any]
) -> Callable[[np.ndarray], heat.Seen]:
  """What explanations read: (uint8 images [n, S, S, 3]) -> their embeddings and patches."""
  see = functools.partial(towers.of_clip, clip_of(config, facts))
  return towers.seeing(see, {"image": params["image"]})


def embed_texts(
  config: ConfigDict, facts: dict[str, Any], params: dict[str, Any], found: dict[str, bytes]
) -> Callable[[Sequence[str]], np.ndarray]:
  """(n >= 1 texts) -> [n, D] of unit norm, over all local devices; `found` are the tokenizer's
  files. Texts that are longer than the tower reads are cut, with a warning."""
  reader = kept_clip.tokenizer(facts, found)
  # The weights go to the devices once, not with each query.
  embed = clip_texts.plain_function(clip_of(config, facts))({"text": params["text"]})

  def embed_all(said: Sequence[str]) -> np.ndarray:
    clip_texts.warn_of_cuts(reader, said)
    return clip_texts.encoded(embed, reader, reader.ids(said), "embed texts")

  return embed_all


def compose(
  config: ConfigDict, facts: dict[str, Any], params: dict[str, Any], found: dict[str, bytes]
) -> tuple[Embed, Callable[..., np.ndarray]]:
  """(features, queries) of an image with a text, as `lafg_jax.tasks` has them.

  features: uint8 images [B, S, S, 3] -> f_v [B, d], not normalised: Phi reads it so.
  queries(f_v [n, d], n texts, n lists of edited descriptions) -> q [n, D] of unit norm: alpha q_m +
  beta q_f + the rest q_v (section 1.5 of the method's document), with the config's weights. A query
  without a description has no q_m, and the weights of the others are scaled up.
  """
  clip, kind = clip_of(config, facts), facts["mapping"]
  reader = kept_clip.tokenizer(facts, found)
  texts_of = embed_texts(config, facts, params, found)
  with_words = jax.jit(functools.partial(_with_words, clip, kind))
  with jax_settings.ours():
    held = jax.device_put({name: params[name] for name in ("text", "mapping")})
  template, first_alone = _template(config), methods.of(config).edits == "first"

  @jax_settings.ours()
  def of_phrases(v: np.ndarray, said: Sequence[str]) -> np.ndarray:
    rows = pseudo_words.phrases(reader, template, said)
    parts = []
    for first in range(0, len(v), _BATCH):
      part = np.arange(first, min(first + _BATCH, len(v)))
      filled = np.resize(part, padding.few_sizes(len(part)))
      q = with_words(held, v[filled], Phrases(*(x[filled] for x in rows)))
      parts.append(np.asarray(q)[: len(part)])
    return np.concatenate(parts)

  def of_queries(v: np.ndarray, said: Sequence[str], edited: Sequence[Sequence[str]]) -> np.ndarray:
    edited = [of[: 1 if first_alone else None] for of in edited]
    has = np.array([bool(of) for of in edited])
    weights = methods.weights_of(config, {"phi", "edit"} if has.any() else {"phi"})
    q_m = None
    if weights.alpha:
      q_m = features.means(texts_of([text for of in edited for text in of]), edited)[0]
    q_f = of_phrases(v, said) if weights.beta or not has.all() else None
    q_t = texts_of(said) if weights.text else None
    return queries.unit(queries.query(q_m, q_f, queries.unit(v), weights, q_t, has))

  embed = devices.spread(functools.partial(models.of_images, clip), {"image": params["image"]})
  return embed, of_queries


def spoken(config: ConfigDict) -> tuple[str, str, str]:
  """What stands before and after the pseudo word of q_f ('{text}' is the text), and the query."""
  _, beta, rest, _ = methods.weights_of(config, {"phi"})
  before, _, after = _template(config).partition("$")
  return before.strip(), after.strip(), f"{beta:.3g} q_f + {rest:.3g} q_v"


def description_weight(config: ConfigDict) -> float:
  """The weight of q_m in a query that has an edited description."""
  return methods.weights_of(config, {"phi", "edit"}).alpha


def _template(config: ConfigDict) -> str:
  """That of q_f, without the objects that an editor adds."""
  name = methods.of(config).template
  return methods.TEMPLATES["without_added" if name == "cvsi" else name]


def _of_texts(clip: Any, params: Any, ids: jax.Array, ends: jax.Array) -> jax.Array:
  return clips.embed_texts(clip, params, clips.token_embeddings(clip, params, ids), ends)


def _with_words(clip: Any, kind: str, params: Any, v: jax.Array, rows: Phrases) -> jax.Array:
  """q_f [B, D] of unit norm: texts with Phi(f_v) at their places."""
  words = mapping.apply(kind, params["mapping"], v)
  return unit(pseudo_words.features(clip, params, rows, words))
