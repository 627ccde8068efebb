"""The train stage of composed retrieval: Phi, by the shared loop."""

import functools
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.data.composed import Training
from lafg_jax.language.encoders import kept_clip
from lafg_jax.models.weights import files
from lafg_jax.runtime import distributed
from lafg_jax.tasks.composed_retrieval import batches, corpus, key_phrases, objective
from lafg_jax.tasks.composed_retrieval import concepts as words_of
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.tasks.composed_retrieval.model import Model
from lafg_jax.training import loop
from lafg_jax.training.best_checkpoint import Validation
from lafg_jax.training.step import Objective
from lafg_jax.utils import config_keys


def run(
  config: ConfigDict,
  workdir: str,
  training: Training,
  validation: Validation | None = None,
  facts: dict[str, Any] | None = None,
) -> tuple[int, bool]:
  """Trains Phi on `training` as `loop.run` does, with its result and errors.

  Args:
    training: of `corpus.training`.
    validation: what train.validate_every measures: parameters -> figures.
    facts: more of the checkpoints' meta, what `restore` reads of the CLIP.

  Raises:
    UserError: there is nothing to train on, less than a batch of it, or what the config names is
      missing; before anything is computed.
  """
  corpus.check(config, training)
  if config.mapping.method == "lincir":
    key_phrases.finder(config.mapping.phrases)
  elif config.mapping.method == "searle":
    words_of.of(config, training.texts)
  model = models.load(config)
  prepared = functools.cache(lambda: corpus.prepare(config, workdir, model, training))

  def start() -> Objective:
    # Here, where the run is known to be that of the workdir's checkpoints.
    keep = functools.partial(kept_clip.keep_tokenizer, workdir, model.clip)
    distributed.agree("the tokenizer's files", keep)
    return make_objective(config, model, prepared())

  # Before the loop, which holds back the first signal: inversions may take hours, and the chunks
  # that are there stay.
  prepared()
  return loop.run(
    config,
    workdir,
    start,
    make_feed(config, model, training, prepared),
    meta=meta(config, training) | (facts or {}),
    validation=validation if config.train.validate_every else None,
  )


def make_objective(config: ConfigDict, model: Model, prepared: corpus.Corpus) -> Objective:
  """The objective of a config for a prepared corpus."""
  length = 0
  if config.mapping.method == "lincir":
    length = prepared.arrays["ids"].shape[1]
  elif config.mapping.method == "searle":
    length = batches.length_of(model.reader, prepared.concepts)
  params = objective.init_params(config, model.clip, model.params)
  return objective.build(config, model.clip, params, length=length, reader=model.reader)


def make_feed(config: ConfigDict, model: Model, training: Training, prepared: Any) -> loop.Feed:
  """The batches of a run; `prepared` is called when the first is asked for."""
  count = corpus.size_of(config, training)
  return batches.feed(
    config, model.reader, count, functools.cache(lambda: corpus.names(config, training)), prepared
  )


def meta(config: ConfigDict, training: Training) -> dict[str, Any]:
  """The JSON that a checkpoint has beside its arrays."""
  content = corpus.content(config, training)
  return {
    "config": config_keys.flatten(config),
    "dataset": {
      "name": config.composed.source,
      "content": content,
      "class_names": [],
      "partial": False,
    },
    "made_of": {
      "the training texts or images": content,
      "the pretrained weights": files.content_hash(config.model.pretrained, files.WHOLE),
    },
  }
