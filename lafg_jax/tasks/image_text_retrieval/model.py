"""The model of a config: CLIP's towers, its tokenizer, and parameters before training."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from lafg_jax.language.encoders import clip_texts
from lafg_jax.models import clip as clips
from lafg_jax.tasks.image_text_retrieval import features, methods, objective


class Model(NamedTuple):
  """clip: as `features.towers` gives it. params: CLIP's own tree. reader: its tokenizer."""

  clip: Any
  params: dict[str, Any]
  reader: Any


def load(config: ConfigDict) -> Model:
  """The model of a config, loaded once; raises UserError as `models.clip.load`."""
  source, size = config.model.pretrained, config.data.image_size
  clip, params = _loaded(source, size, config.model.dtype, config.model.remat)
  return Model(features.towers(config, clip), params, clip_texts.tokenizer(clip))


@functools.lru_cache(maxsize=2)
def _loaded(source: str, image_size: int, dtype: str, remat: str) -> Any:
  return clips.load(source, image_size, jnp.dtype(dtype), remat)


def init_params(config: ConfigDict, model: Model) -> dict[str, Any]:
  """CLIP's tree with what the method of a resolved config learns, before training."""
  words = None
  if methods.of(config).init == "words":
    words = model.reader.pieces([config.prompts.words])[0]
  return objective.init_params(config, model.clip, model.params, words)
