"""What stands beside the figures of a trained model: the model before training, and the backbone.

`untrained` is the model before training; `backbone`, the feature of the pretrained backbone as it
is, where a head or prompts make that another model; `backbone_centred`, the same less its mean over
training images. Of given features the backbone is the features. They are measured once a workdir:
`untrained.json` keeps their figures.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.data import datasets
from lafg_jax.models import embedder as embedders
from lafg_jax.models import heads
from lafg_jax.runtime import distributed
from lafg_jax.tasks.class_retrieval import batches, finishing, given_features, start
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

# {hash of all that decides them: figures of a model before training}.
UNTRAINED = "untrained.json"
# Which of them there are.
NAMES = ("untrained", "backbone", "backbone_centred")

# An embedder and its parameters.
Model = tuple[Any, dict[str, Any]]


class Reading(NamedTuple):
  """Embeddings of a model, by its place in a list, less `centre` [D] where it is given."""

  model: int
  centre: np.ndarray | None = None


def without_head(config: ConfigDict) -> ConfigDict:
  """The config of the backbone's own feature: no head or prompts, which are random, no centre."""
  bare = config.copy_and_resolve_references()
  bare.model.update(embedding_dim=0, embedding_norm="", head_init="random", num_prompts=0)
  bare.model.centre = False
  return bare


def hashes(config: ConfigDict, meta: dict[str, Any]) -> dict[str, str]:
  """{name: the hash of all that decides its figures} beside a checkpoint with this meta."""
  split, weights = config.evaluate.split, meta["made_of"]["the pretrained weights"]
  content = datasets.content_fingerprint(config.data, split)
  deciding = keys.deciding(config, "embedding")
  trained_on = meta["dataset"]["content"]
  # Such a head starts from training images.
  learned = [trained_on] if config.model.head_init in heads.LEARNED else []
  asked = (weights, content, split, config.evaluate.ks, *learned)
  found = {"untrained": files.fingerprint(deciding, *asked)}
  if config.model.pretrained or given_features.are(config):
    model, bare = config.model, without_head(config).model
    names = NAMES[2:] if all(model[name] == bare[name] for name in _OF_HEAD) else NAMES[1:]
    found |= {name: files.fingerprint(name, found["untrained"], trained_on) for name in names}
  return found


# What makes the model before training another one than the backbone.
_OF_HEAD = ("embedding_dim", "embedding_norm", "num_prompts")


def kept(workdir: str) -> dict[str, dict[str, Any]]:
  """The content of untrained.json; {} where it is missing or damaged."""
  path = os.path.join(workdir, UNTRAINED)
  try:
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, TypeError) as error:
    logging.warning("%s is damaged, and what it kept is measured again: %s", path, error)
    return {}


def models_of(
  config: ConfigDict, workdir: str, meta: dict[str, Any], names: list[str], first: int
) -> tuple[list[Model], dict[str, Reading]]:
  """The models for these names, and which of them, from place `first` on, each name reads.

  Names are left out, with a warning, where the pretrained weights or the training images cannot be
  read any more: the checkpoint is evaluated all the same, and needs neither.
  """
  models: list[Model] = []
  readings: dict[str, Reading] = {}
  # Where there is no head, the model before training is the backbone.
  of_bare = [name for name in names if name != "untrained"]
  same = of_bare == ["backbone_centred"] and "backbone" not in hashes(config, meta)
  if "untrained" in names:
    made = _or_none(workdir, lambda: _untrained(config, workdir))
    if made is None:
      return [], {}
    readings["untrained"] = Reading(first)
    models.append(made)
  if of_bare and not (same and models):
    made = _or_none(workdir, lambda: embedders.init_model(without_head(config)))
    if made is None:
      return models, readings
    models.append(made)
  at = first + len(models) - 1
  if "backbone" in names:
    readings["backbone"] = Reading(at)
  if "backbone_centred" in names:
    centre = _centre(config, models[-1], meta)
    readings |= {} if centre is None else {"backbone_centred": Reading(at, centre)}
  return models, readings


def _untrained(config: ConfigDict, workdir: str) -> Model:
  embedder, params = embedders.init_model(config)
  if config.model.head_init in heads.LEARNED:
    params["embedding"] = start.kept_head(workdir)
  return embedder, params


def _or_none(workdir: str, make: Any) -> Model | None:
  """A model before training; None, with a warning, where its weights cannot be read any more."""
  failed, made = "", None
  try:
    made = make()
  except UserError as error:
    failed = str(error)
  # All processes embed together, or none does.
  why = distributed.agree("the pretrained weights", lambda: failed)
  if why:
    result = os.path.join(workdir, "evaluation.json")
    logging.warning(
      "evaluate: the figures before training are left out (%s); to have them, delete %s and "
      "evaluate again where the weights can be read", *(why, result)
    )  # fmt: skip
    return None
  if failed:
    raise UserError(failed)
  return made


def _centre(config: ConfigDict, model: Model, meta: dict[str, Any]) -> np.ndarray | None:
  """The mean embedding of training images; None, with a warning, where these are not there."""
  failed, train = "", None
  try:
    train = batches.some(datasets.load_splits(config.data, ("train",))["train"], config)
    if datasets.content_of(train) != meta["dataset"]["content"]:
      failed = "this data set has other training images than the checkpoint was trained on"
  except UserError as error:
    failed = str(error)
  why = distributed.agree("the training images", lambda: failed)
  if why or train is None:
    logging.warning("evaluate: the centred backbone is left out (%s)", why or failed)
    return None
  centre: np.ndarray = finishing.centred(without_head(config), [model[1]], train)[0]["centre"]
  return centre
