"""A restored model of class retrieval: what it keeps of a checkpoint, and how it embeds."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.evaluate.embed import Embed, inference_params, make_embed, unit_embedding
from lafg_jax.explain import heat, towers
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import attributes
from lafg_jax.training import checkpoints

FACTS = ("box", "sentences")


def trees(config: ConfigDict, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """'params' that embed an image, LoRA merged; the language base; and what reads attributes."""
  params = checkpoints.subtree(arrays, "state/params")
  prototypes = checkpoints.subtree(arrays, "prototypes")
  readout = {}
  if prototypes:
    means = checkpoints.subtree(arrays, "state/averages/projectors")
    readout = attributes.readout(config, prototypes["vocabulary"], params["projectors"], means)
  inference = inference_params(embedders.build(config.model), params)
  return {
    "params": jax.tree.map(np.asarray, inference),
    "prototypes": prototypes,
    "readout": readout,
  }


def embedding_dim(config: ConfigDict, facts: dict[str, Any]) -> int:
  """D of a trained model."""
  del facts
  return config.model.embedding_dim or embedders.build(config.model).backbone.width


def of_images(config: ConfigDict, facts: dict[str, Any]) -> Callable[..., jax.Array]:
  """A pure function (params, uint8 images [b, S, S, 3]) -> [b, D] float32 of unit norm."""
  del facts
  return functools.partial(unit_embedding, embedders.build(config.model))


def embed_images(config: ConfigDict, facts: dict[str, Any], params: dict[str, Any]) -> Embed:
  """`of_images` with these parameters, compiled, over all local devices."""
  del facts
  return make_embed(embedders.build(config.model), params)


def see_images(
  config: ConfigDict, facts: dict[str, Any], params: dict[str, Any]
) -> Callable[[np.ndarray], heat.Seen]:
  """What explanations read: (uint8 images [n, S, S, 3]) -> their embeddings and patches."""
  del facts
  return towers.seeing(functools.partial(towers.of_embedder, embedders.build(config.model)), params)
