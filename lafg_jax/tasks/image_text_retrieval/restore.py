"""A restored model of image-text retrieval: what it keeps of a checkpoint, and how it embeds.

Its facts are those of `language.encoders.kept_clip`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.evaluate.embed import Embed
from lafg_jax.explain import heat, towers
from lafg_jax.language.encoders import clip_texts, kept_clip
from lafg_jax.models import clip_record
from lafg_jax.models.weights import to_transformers
from lafg_jax.tasks.image_text_retrieval import embed, features, methods, texts
from lafg_jax.tasks.image_text_retrieval import model as models
from lafg_jax.tasks.image_text_retrieval.model import Model
from lafg_jax.training import checkpoints

FACTS = kept_clip.FACTS
# Parameters of training alone.
_OF_TRAINING = ("caa",)


def trees(config: ConfigDict, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """'params': both towers with what the method learned, without what training alone reads."""
  del config
  params = checkpoints.subtree(arrays, "state/params")
  kept = {name: x for name, x in params.items() if name not in _OF_TRAINING}
  return {"params": kept, "prototypes": {}, "readout": {}}


def pretrained(config: ConfigDict) -> tuple[ConfigDict, dict[str, Any], dict[str, Any], str]:
  """(config, params, facts, folder of the tokenizer) of the config's CLIP without any method."""
  config.prompts.method = "zero_shot"
  clip, params, _ = models.load(config)
  return config, params, kept_clip.facts_of(clip), clip.tokens.folder


def clip_of(config: ConfigDict, facts: dict[str, Any]) -> Any:
  """The towers, with the arithmetic of the config, and prompts where it has them enter."""
  return features.towers(config, clip_record.build(facts["clip"]))


def embedding_dim(config: ConfigDict, facts: dict[str, Any]) -> int:
  """D of a trained model."""
  del config
  return facts["clip"]["dim"]


def of_images(config: ConfigDict, facts: dict[str, Any]) -> Callable[..., jax.Array]:
  """A pure function (params, uint8 images [b, S, S, 3]) -> [b, D] float32 of unit norm."""
  return functools.partial(features.of_images, config, clip_of(config, facts))


def of_texts(config: ConfigDict, facts: dict[str, Any]) -> Callable[..., jax.Array]:
  """A pure function (params, ids [b, L], ends [b]) -> [b, D] float32 of unit norm."""
  return functools.partial(features.of_texts, config, clip_of(config, facts))


def embed_images(config: ConfigDict, facts: dict[str, Any], params: dict[str, Any]) -> Embed:
  """`of_images` with these parameters, compiled, over all local devices."""
  model = Model(clip_of(config, facts), {}, None)
  return embed.image_function(config, model)(_without(params, "text"))


def embed_texts(
  config: ConfigDict, facts: dict[str, Any], params: dict[str, Any], found: dict[str, bytes]
) -> Callable[[Sequence[str]], np.ndarray]:
  """(n >= 1 texts) -> [n, D], over all local devices, with the method's prompts.

  found: the tokenizer's files. Texts that are longer than the tower reads are cut, with a warning.
  """
  reader = kept_clip.tokenizer(facts, found)
  model = Model(clip_of(config, facts), {}, reader)
  spread = embed.text_function(config, model)(_without(params, "image"))
  room = texts.with_room(config, reader)

  def embed_all(said: Sequence[str]) -> np.ndarray:
    clip_texts.warn_of_cuts(room, said)
    return spread(said)

  return embed_all


def see_images(
  config: ConfigDict, facts: dict[str, Any], params: dict[str, Any]
) -> Callable[[np.ndarray], heat.Seen]:
  """What explanations read: (uint8 images [n, S, S, 3]) -> their embeddings and patches."""
  return towers.seeing(functools.partial(features.see, config, clip_of(config, facts)), params)


def length(config: ConfigDict, facts: dict[str, Any]) -> int:
  """L, the most tokens of a text beside the method's prompts."""
  method = methods.of(config)
  return facts["clip"]["text"]["context"] - (method.number if method.text else 0)


def in_transformers(
  config: ConfigDict, facts: dict[str, Any], params: dict[str, Any], found: dict[str, bytes]
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, dict]] | None:
  """Tensors, config.json and other JSON files of transformers' CLIPModel or SiglipModel.

  None where that model does not compute what this one does: it has no prompts and no adapter.
  """
  clip = clip_of(config, facts)
  learned = set(params) - {"image", "text", "logit_scale", "logit_bias"}
  if learned or not to_transformers.kind(clip):
    return None
  reader = kept_clip.tokenizer(facts, found)
  named = {"bos_token_id": reader.start, "eos_token_id": reader.end, "pad_token_id": reader.pad}
  special = {name: x for name, x in named.items() if x is not None}
  return (
    to_transformers.tensors(clip, params),
    to_transformers.config(clip, special),
    {"preprocessor_config.json": to_transformers.preprocessor(clip, config.data.resize_size)},
  )


def _without(params: dict[str, Any], tower: str) -> dict[str, Any]:
  return {name: x for name, x in params.items() if name != tower}
