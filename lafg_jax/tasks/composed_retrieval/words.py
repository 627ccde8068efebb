"""Whose pseudo words a config takes: a trained Phi, a published one, or an inversion of images."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.data import composed
from lafg_jax.tasks.composed_retrieval import (
  concepts,
  corpus,
  inversion,
  mapping,
  methods,
  objective,
)
from lafg_jax.tasks.composed_retrieval.features import Words
from lafg_jax.tasks.composed_retrieval.model import Model
from lafg_jax.training import checkpoints, resume


class Source(NamedTuple):
  """of: image features to pseudo words; None where the method has none. about: for the result."""

  of: Words | None
  about: dict[str, Any]


def load(config: ConfigDict, workdir: str, model: Model) -> Source:
  """What gives the pseudo words of a resolved config.

  Raises UserError: there is no checkpoint, it is of another config, or mapping.source is no Phi.
  """
  if "phi" not in methods.reads(config):
    return Source(None, {"step": 0})
  if methods.inverts(config):
    return Source(functools.partial(_inverted, config, workdir, model), {"step": 0, "phi": "oti"})
  if config.evaluate.source == "untrained":
    return Source(of_params(config.mapping.method, untrained(config, model)), {"step": 0})
  if given := mapping.load(config, model.clip):
    about = {"step": 0, "phi": config.mapping.source}
    return Source(of_params(*given), about)
  where = checkpoints.where_of(config.evaluate.source)
  arrays, meta = checkpoints.require(workdir, where)
  _check(config, meta, checkpoints.folder(workdir, where))
  logging.info("evaluate: the checkpoint of step %d", meta["step"])
  params = checkpoints.subtree(arrays, "state/params/mapping")
  return Source(of_params(config.mapping.method, params), {"step": meta["step"]})


def concepts_of(config: ConfigDict) -> concepts.Concepts:
  """The concepts of an inversion of references: of files, of mapping.texts, or of the source.

  Raises UserError where there are none.
  """
  return concepts.of(config, _concept_texts(config))


def of_params(kind: str, params: Any) -> Words:
  """The pseudo words of a Phi: features [m, D] to [m, width]."""
  return lambda x: np.asarray(_apply(kind, params, x))


@functools.partial(jax.jit, static_argnums=0)
def _apply(kind: str, params: Any, x: jax.Array) -> jax.Array:
  return mapping.apply(kind, params, x)


def untrained(config: ConfigDict, model: Model) -> Any:
  """Phi's parameters before training."""
  return objective.init_params(config, model.clip, {})["mapping"]


def _inverted(config: ConfigDict, workdir: str, model: Model, x: np.ndarray) -> np.ndarray:
  named = concepts_of(config)
  folder = inversion.folder_of(workdir, config, x, named)
  found: np.ndarray = inversion.invert(config, *model, x, named, folder)
  return found


def inverted_by(config: ConfigDict) -> list[Any]:
  """What decides the inversions of reference images beside them, CLIP and the seed."""
  of = config.mapping
  given = [Path(path) if path else 0 for path in (of.concepts, of.concept_phrases)]
  return [of.inversion_steps, of.inversion_rate, given, _concept_texts(config)]


def _concept_texts(config: ConfigDict) -> tuple[str, ...]:
  """The texts whose nouns are concepts: mapping.texts, or the source's own; () of a file of them.

  Raises UserError where the source has none.
  """
  of = config.mapping
  if of.concepts or of.concept_phrases:
    return ()
  return corpus.read_texts(of.texts) if of.texts else composed.training(config).texts


def _check(config: ConfigDict, meta: dict[str, Any], folder: str) -> None:
  """Raises UserError where a checkpoint is of another CLIP or another way of training."""
  names = keys.deciding(config, "embedding") | {"mapping.method": config.mapping.method}
  resume.check_evaluated(names, config, meta, folder)
