"""The train stage of image-text retrieval: hands its objective, batches and meta to the loop."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import captions, pipeline
from lafg_jax.data.captions import Captioned
from lafg_jax.language.encoders import kept_clip
from lafg_jax.models.weights import files
from lafg_jax.runtime import distributed
from lafg_jax.tasks.image_text_retrieval import (
  batches,
  embed,
  methods,
  objective,
  protocol,
  stored_features,
  texts,
)
from lafg_jax.tasks.image_text_retrieval import model as models
from lafg_jax.tasks.image_text_retrieval.stored_features import Stored
from lafg_jax.training import loop
from lafg_jax.training.best_checkpoint import Validation
from lafg_jax.utils import config_keys, random_streams
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint


def run(
  config: ConfigDict, workdir: str, captioned: Captioned, val: Captioned | None = None
) -> tuple[int, bool]:
  """Trains on `captioned` as `loop.run` does, with its result and errors.

  `config` is resolved; `val` is what train.validate_every measures.
  """
  captioned = shuffled(config, captioned)
  stored, model = stored_features.load(config, workdir, captioned), models.load(config)
  words = texts.tokenised(texts.with_room(config, model.reader), captioned.captions)

  def start() -> Any:
    # Here, where the run is known to be that of the workdir's checkpoints.
    keep = functools.partial(kept_clip.keep_tokenizer, workdir, model.clip)
    distributed.agree("the tokenizer's files", keep)
    return make_objective(config, model, captioned, words, stored)

  measure = None
  if val is not None and config.train.validate_every:
    measure = protocol.make_validation(embed.splits(config, model, val), val)
  return loop.run(
    config,
    workdir,
    start,
    make_feed(config, captioned, words, stored),
    meta=meta(config, captioned, stored, words) | kept_clip.facts_of(model.clip),
    validation=Validation(measure, "val_recall@1") if measure else None,
  )


def shuffled(config: ConfigDict, captioned: Captioned) -> Captioned:
  """The control image_text.shuffle_captions: captions of other images, or of other classes."""
  how, rows = config.image_text.shuffle_captions, len(captioned.captions)
  if how == "none":
    return captioned
  rng = random_streams.of_seed(config.seed)
  if how == "images":
    # One cycle through all rows: none keeps its own.
    order = rng.permutation(rows)
    source = np.empty(rows, int)
    source[order] = np.roll(order, 1)
  else:
    source = _of_other_classes(captioned.labels, rng)
  given = captioned.negatives
  return captioned._replace(
    captions=[captioned.captions[row] for row in source],
    negatives=None if given is None else [given[row] for row in source],
    spans=None,
  )


def _of_other_classes(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """[n] for each row a row of the class that its class is dealt; none keeps its own.

  Raises UserError where there are not two classes.
  """
  order = rng.permutation(np.unique(labels))
  if len(order) < 2:
    raise UserError(
      "--config.image_text.shuffle_captions=classes: it takes captions of two classes or more; "
      "pass --config.image_text.shuffle_captions=images"
    )
  rows_of = {label: np.flatnonzero(labels == label) for label in order.tolist()}
  source = np.empty(len(labels), int)
  for label, other in zip(order.tolist(), np.roll(order, 1).tolist(), strict=True):
    source[rows_of[label]] = np.resize(rows_of[other], len(rows_of[label]))
  return source


def make_objective(
  config: ConfigDict, model: Any, captioned: Captioned, words: texts.Tokens, stored: Stored
) -> Any:
  """The objective of a resolved config for a training set."""
  params = models.init_params(config, model)
  constants = stored_features.constants(config, stored, model.clip.text.vocabulary)
  if methods.reweights(config) and config.reweighting.weights == "random":
    constants["quantiles"] = embed.quantiles(config, model, params, captioned, words, constants)
  drawn = 0 if config.captions.negatives == "none" else config.captions.num_negatives
  return objective.build(
    config,
    model.clip,
    params,
    rows=config.captions.batch_size,
    length=words.ids.shape[1],
    negatives=drawn,
    constants=constants,
  )


def make_feed(
  config: ConfigDict, captioned: Captioned, words: texts.Tokens, stored: Stored
) -> loop.Feed:
  """The batches of a data set, with the words of each caption, and other images where asked."""
  feed = batches.feed(config, captioned, words, stored.table)
  other = methods.reweights(config) and config.reweighting.weights == "other"

  def made(start: int, params: dict[str, Any], stopped: Any) -> Iterator[dict[str, np.ndarray]]:
    beside = _other_images(config, captioned, start) if other else None
    return _with_words(feed.batches(start, params, stopped), words, beside)

  return feed._replace(batches=made)


def _with_words(given: Any, words: texts.Tokens, beside: Any) -> Iterator[dict[str, np.ndarray]]:
  with contextlib.ExitStack() as stack:
    for iterator in (given, beside):
      if iterator is not None:
        stack.enter_context(contextlib.closing(iterator))
    for batch in given:
      more = {"words": words.words[batch["row"]]}
      if beside is not None:
        more["other"] = next(beside)["image"]
      yield batch | more


def _other_images(config: ConfigDict, captioned: Captioned, start: int) -> Iterator[Any]:
  """The images of `batches`, each one row further in the global batch."""
  order = batches.order(captioned, config.captions.batch_size, config.seed)
  plan = batches.plan(captioned, order._replace(rows=lambda step: np.roll(order.rows(step), 1)))
  return pipeline.train_batches(
    captions.as_dataset(captioned),
    config.data,
    plan,
    seed=config.seed,
    **loop.share(config, start),
  )


def meta(
  config: ConfigDict, captioned: Captioned, stored: Stored, words: texts.Tokens
) -> dict[str, Any]:
  """The JSON that a checkpoint has beside its arrays."""
  of_dataset = {
    "name": captioned.name,
    "content": captioned.content,
    "class_names": list(captioned.class_names),
    "partial": captioned.partial,
  }
  return {
    "config": config_keys.flatten(config),
    "dataset": of_dataset,
    "made_of": {
      "the training images or captions": fingerprint(of_dataset, words.ids),
      "the pretrained weights": files.content_hash(config.model.pretrained, files.WHOLE),
      "the stored text features": fingerprint(stored.features, stored.token_features),
    },
  }
