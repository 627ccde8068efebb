"""The evaluate stage: a checkpoint, CLIP itself, or a file of embeddings -> evaluation.json."""

import json
import os
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.config.table.train import OF_MODELS
from lafg_jax.data import captions
from lafg_jax.data.captions import Captioned
from lafg_jax.evaluate.results import FILE
from lafg_jax.language.encoders import clip_texts
from lafg_jax.tasks.image_text_retrieval import at_test, embed, methods, negatives, protocol
from lafg_jax.tasks.image_text_retrieval import model as models
from lafg_jax.training import checkpoints, resume
from lafg_jax.utils import files
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.errors import UserError


def run(config: ConfigDict, workdir: str) -> None:
  """Evaluates `evaluate.source` on `evaluate.split`; writes evaluation.json and embeddings.npz.

  Beside a checkpoint, zero-shot CLIP is measured: the model before all training.
  """
  source, split = config.evaluate.source, config.evaluate.split
  if source not in OF_MODELS:
    found = protocol.evaluate_file(source, tuple(config.evaluate.ks))
    _write(workdir, found | {"source": source, "step": 0})
    return
  config = methods.resolve(config)
  captioned = captions.load_splits(config, (split,))[split]
  untrained = None
  zero, model = zero_shot(config)
  params = model.params
  if source == "pretrained" or not methods.trains(config):
    trained, step = _embedded(zero, model, model.params, captioned), 0
  else:
    params, step = _parameters(config, workdir, captioned)
    trained = _embedded(config, models.load(config), params, captioned)
    untrained = _embedded(zero, model, model.params, captioned)
  about: dict[str, Any] = {"step": step}
  how, trained_here = config.reweighting.at_test, params is not model.params
  if trained_here and methods.reweights(config) and how != "none":
    about["at_test"] = _at_test(config, params, captioned, trained)
  protocol.write(config, workdir, captioned, trained, untrained, **about)


def _at_test(config: ConfigDict, params: Any, captioned: Captioned, trained: Any) -> dict[str, Any]:
  """The figures with weights at test, under the name of the way."""
  how, train = config.reweighting.at_test, None
  if how == "mean":
    train = captions.load_splits(config, ("train",))["train"]
  model = models.load(config)
  return {how: at_test.measured(config, model, params, train, captioned, trained)}


def zero_shot(config: ConfigDict) -> tuple[ConfigDict, models.Model]:
  """The config of plain CLIP, without prompts, and its model."""
  config = config.copy_and_resolve_references()
  config.prompts.method = "zero_shot"
  return config, models.load(config)


def _parameters(
  config: ConfigDict, workdir: str, captioned: Captioned
) -> tuple[dict[str, Any], int]:
  """Those of the checkpoint, or before training, and the step."""
  source = config.evaluate.source
  if source == "untrained":
    return models.init_params(config, models.load(config)), 0
  where = checkpoints.where_of(source)
  arrays, meta = checkpoints.require(workdir, where)
  _check_checkpoint(config, meta, checkpoints.folder(workdir, where), captioned)
  logging.info("evaluate: the checkpoint of step %d", meta["step"])
  return checkpoints.subtree(arrays, "state/params"), meta["step"]


def _check_checkpoint(
  config: ConfigDict, meta: dict[str, Any], folder: str, captioned: Captioned
) -> None:
  """Raises UserError where a checkpoint is of another model or split, or knows what is tested."""
  names = keys.deciding(config, "embedding")
  split = ["source", "layout", "class_column", "template", "finches", "images_per_class", "split"]
  split += ["classes", "test_fraction", "val_fraction"]
  names |= {f"captions.{x}": config.captions[x] for x in split}
  # What says which classes and captions train: with other values some of these would be tested.
  of_data = ("split_seed", "train_fraction", "num_val_classes", "max_train_classes")
  names |= {f"data.{x}": config.data[x] for x in of_data}
  resume.check_evaluated(names, config, meta, folder)
  trained = meta["dataset"]["class_names"]
  if config.captions.split == "classes" and (both := set(trained) & set(captioned.class_names)):
    raise UserError(
      f"the checkpoint in {folder} was trained on {len(both)} of the "
      f"{len(captioned.class_names)} classes of evaluate.split={captioned.split} "
      f"({shorten(sorted(both))}): pass the data.test_classes it was trained with"
    )


def _embedded(
  config: ConfigDict, model: models.Model, params: dict[str, Any], captioned: Captioned
) -> Any:
  """The embeddings of a split, as `protocol` takes them."""
  images, of_texts = embed.splits(config, model, captioned)(params)
  more = None
  if config.captions.distractors == "negatives":
    wrong = distractors(config, model, captioned)
    more = embed.text_function(config, model)(params)(wrong)
  return protocol.of_captioned(captioned, images, of_texts, more)


def distractors(config: ConfigDict, model: models.Model, captioned: Captioned) -> tuple[str, ...]:
  """The wrong captions that join the gallery: those of the data, or with a near class named."""
  near = None
  if captioned.negatives is None and len(captioned.class_names) > 1:
    of_names = clip_texts.plain_features(
      model.clip, model.params, model.reader, captioned.class_names
    )
    near = negatives.nearest(of_names, config.captions.nearest_classes)
  found = negatives.distractors(negatives.build(captioned, near, given=True))
  if not found:
    raise UserError(
      f"--config.captions.distractors=negatives: {captioned.split} has no wrong captions; pass "
      "--config.captions.distractors=none"
    )
  return found


def _write(workdir: str, result: dict[str, Any]) -> None:
  if jax.process_index() == 0:
    with files.replacing(os.path.join(workdir, FILE)) as temporary:
      temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
