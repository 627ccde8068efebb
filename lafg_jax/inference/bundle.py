"""A trained model as arrays and facts: read from checkpoints or an export, written as an export.

An export is two files: model.safetensors, with 'params/...' (what embeds; LoRA merged),
'prototypes/...' and 'readout/...', and config.json, with the training config and the other facts;
and the tokenizer's files of a model that reads texts. A whole CLIP without prompts is written as
transformers keeps it: our facts are then the entry 'lafg_jax' of its config.json.

What is kept of a checkpoint, and how it embeds, is said by `lafg_jax.tasks.<config.task>.restore`.
"""

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

from lafg_jax.config import starts
from lafg_jax.inference import locations
from lafg_jax.language.encoders import tokens
from lafg_jax.models import clip as clips
from lafg_jax.models.options import GIVEN
from lafg_jax.runtime import jax_settings
from lafg_jax.training import checkpoints
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.errors import UserError

FORMAT = 2
# Our entry in a config.json of transformers, and what its files of weights say of themselves.
_OURS, _TORCH = "lafg_jax", {"format": "pt"}
# Of every task; a task's own are its restore.FACTS.
_FACTS = "step checkpoint validation class_names dataset partial evaluation versions".split()
_TREES = ("params", "prototypes", "readout")
# What reading a JSON file raises that was edited, or that is of something else.
_FOREIGN = (ValueError, KeyError, TypeError, AttributeError)


class Trained(NamedTuple):
  """What a model needs to embed, search and be read, on the host.

  config: that of its training. params: the tree that embeds images and texts.
  prototypes: the language base, as `Retriever` has it. readout: of `attributes.readout`.
  facts: JSON: 'step', 'checkpoint' ('newest' or 'best'), 'validation' ('step' and the figures that
  made it the best, such as 'val_recall@1', or None), 'class_names', 'dataset', 'partial',
  'evaluation' (evaluation.json of that very checkpoint, or None), 'versions', and those of the
  task; of class retrieval 'box' (or None) and 'sentences' (of the vocabulary).
  files: {name: content} of the tokenizer, {} without one.
  """

  config: ConfigDict
  params: dict[str, Any]
  prototypes: dict[str, np.ndarray]
  readout: dict[str, np.ndarray]
  facts: dict[str, Any]
  files: dict[str, bytes] = {}


@jax_settings.ours()
def read(source: str, checkpoint: str = "newest") -> Trained:
  """The model that `source` holds; the arguments are those of `locations.opened`.

  An export holds one checkpoint, which is taken unless 'best' is asked for and it is not the best.

  Raises:
    UserError: nothing is there, it cannot be reached, it does not read whole, or it has no such
      checkpoint.
  """
  with locations.opened(source, checkpoint) as (folder, where):
    if not locations.is_export(folder):
      return _of_checkpoint(folder, where)
    model = _of_export(folder)
  if checkpoint == "best" and model.facts["checkpoint"] != "best":
    what = f"an export of the newest checkpoint, of step {model.facts['step']}"
    raise UserError(f"{source} is {what}: export the workdir again with --checkpoint=best")
  return model


@jax_settings.ours()
def pretrained(config: ConfigDict) -> Trained:
  """The model of a config without any training: a published CLIP, and what else is published.

  Raises UserError where the task has no such model, or a source cannot be read.
  """
  make = getattr(task_of(config), "pretrained", None)
  if make is None:
    raise UserError(f"a model of task={config.task} is trained first: pass its workdir")
  config, params, more, folder = make(config.copy_and_resolve_references())
  facts = {"step": 0, "checkpoint": "newest", "validation": None, "class_names": []}
  facts |= {"dataset": "nothing", "partial": False, "evaluation": None}
  facts |= {"versions": checkpoints.versions(), **more}
  params = jax.tree.map(np.asarray, params)
  return Trained(config, params, {}, {}, facts, _files(folder, facts))


def task_of(config: ConfigDict) -> Any:
  """The module `restore` of the task of a config; UserError where there is no such task."""
  name = str(config.task)
  try:
    # By name, as `lafg_jax.tasks.find`, which imports what trains.
    return importlib.import_module(f"lafg_jax.tasks.{name}.restore")
  except ModuleNotFoundError as error:
    if name not in str(error):
      raise
    raise UserError(f"a model of task {name!r}, which this version of lafg_jax lacks") from error


def embedding_dim(trained: Trained) -> int:
  """D of a trained model."""
  return task_of(trained.config).embedding_dim(trained.config, trained.facts)


def given_width(config: ConfigDict) -> int:
  """The width of the features that a model of data.name=features takes; 0 where it takes images."""
  return int(config.model.width) if config.model.get("size") == GIVEN else 0


def reads_texts(trained: Trained) -> bool:
  """Whether the model has a text tower beside that of images."""
  return hasattr(task_of(trained.config), "embed_texts")


def composes(trained: Trained) -> bool:
  """Whether the model has queries of an image with a text that are more than their sum."""
  return hasattr(task_of(trained.config), "compose")


def identity(trained: Trained) -> str:
  """16 hexadecimal digits of the parameters: models of one identity give the same embeddings."""
  flat = traverse_util.flatten_dict(trained.params, sep="/")
  return files.fingerprint({name: np.asarray(x) for name, x in flat.items()})[:16]


def _of_checkpoint(workdir: str, where: str) -> Trained:
  if not os.path.isdir(checkpoints.folder(workdir, where)):
    config = _without_training(workdir)
    if config is not None:
      return pretrained(config)
  arrays, meta = checkpoints.require(workdir, where)
  config = config_keys.nested(meta["config"])
  task = task_of(config)
  facts = {
    **{name: meta[name] for name in ("step", "versions", *task.FACTS)},
    **{name: meta["dataset"][name] for name in ("class_names", "partial")},
    "dataset": meta["dataset"]["name"],
    "checkpoint": "best" if where == checkpoints.BEST else "newest",
    "validation": meta.get("validation"),
    "evaluation": _evaluation(workdir, where, meta["step"]),
  }
  found = _files(os.path.join(workdir, tokens.FOLDER), facts)
  return Trained(config, **task.trees(config, arrays), facts=facts, files=found)


def _without_training(workdir: str) -> ConfigDict | None:
  """The config of a workdir whose run trains nothing, as run.json has it; None of all others."""
  flat = starts.config_of(workdir)
  if flat is None or not hasattr(task_of(config := config_keys.nested(flat)), "pretrained"):
    return None
  names = importlib.import_module(f"lafg_jax.tasks.{config.task}.default").default_names(config)
  return None if "train" in names else config


def _files(folder: str, facts: dict[str, Any]) -> dict[str, bytes]:
  """The tokenizer's files of a folder; UserError where one is missing or another."""
  found = {}
  for name, wanted in facts.get("tokenizer", {}).items():
    path = Path(folder, name)
    if name not in tokens.FILES or not path.is_file():
      raise UserError(f"{path} is missing, a file of the tokenizer: copy the whole model again")
    if files.file_hash(path) != wanted:
      raise UserError(f"{path} is not the file that the model was trained with: copy it again")
    found[name] = path.read_bytes()
  return found


def _evaluation(workdir: str, where: str, step: int) -> dict[str, Any] | None:
  """evaluation.json, where it is of this very checkpoint."""
  path = Path(workdir, locations.EVALUATION)
  source = "best" if where == checkpoints.BEST else "checkpoint"
  try:
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if result is not None and (result["source"], result["step"]) == (source, step):
      return result if "chance" in result else None
  except _FOREIGN as error:
    # The model embeds all the same.
    logging.warning("%s is damaged and left out: %s", path, error)
  return None


def write(trained: Trained, folder: str) -> list[str]:
  """Writes model.safetensors and config.json, and what else `Trained` has; the names of the files.

  Each is written whole or not at all, config.json last.
  """
  from safetensors.numpy import save

  theirs = in_transformers(trained)
  tensors, config, beside = theirs or (_flat(trained), {}, {})
  contents = {name: json.dumps(x, indent=2).encode() + b"\n" for name, x in beside.items()}
  # Not save_file, whose files only their owner may read.
  weights = save({name: np.asarray(x, order="C") for name, x in tensors.items()}, _TORCH)
  contents = {locations.WEIGHTS: weights} | contents | trained.files
  facts = {"library": "lafg_jax", "format": FORMAT}
  facts |= {"weights_sha256": hashlib.sha256(weights).hexdigest()}
  facts |= {"facts": trained.facts, "config": config_keys.flatten(trained.config)}
  facts = config | {_OURS: facts} if theirs else facts
  contents[locations.FACTS] = json.dumps(facts, indent=2).encode() + b"\n"
  for name, content in contents.items():
    with files.replacing(os.path.join(folder, name)) as temporary:
      temporary.write_bytes(content)
  names = [locations.WEIGHTS, locations.FACTS]
  return names + [name for name in contents if name not in names]


def in_transformers(trained: Trained) -> tuple[Any, Any, Any] | None:
  """(tensors, config.json, {name: JSON} beside it) where a model of transformers is the same."""
  make = getattr(task_of(trained.config), "in_transformers", None)
  return make(trained.config, trained.facts, trained.params, trained.files) if make else None


def _flat(trained: Trained) -> dict[str, np.ndarray]:
  tree = {name: getattr(trained, name) for name in _TREES}
  return traverse_util.flatten_dict(tree, sep="/")


def _of_export(folder: str) -> Trained:
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  path, weights = (os.path.join(folder, name) for name in (locations.FACTS, locations.WEIGHTS))
  try:
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    # A list or a number has no `get`.
    theirs = _OURS in found
    found = found.get(_OURS, found)
    ours, layout = found.get("library") == "lafg_jax", found.get("format")
  except _FOREIGN as error:
    raise UserError(f"{path} is damaged or no config of lafg_jax.export: {error}") from error
  if not ours:
    raise UserError(f"{path} is of another library; lafg_jax.export writes what is read here")
  if layout != FORMAT:
    raise UserError(f"{path} has format {layout}, this version reads {FORMAT}")
  try:
    if files.file_hash(weights) != found["weights_sha256"]:
      raise UserError(f"{weights} is not the file that {path} was written with: export it again")
    config = config_keys.nested(found["config"])
    task = task_of(config)
    facts = {name: found["facts"][name] for name in (*_FACTS, *task.FACTS)}
    task.embedding_dim(config, facts)
    if theirs:
      trees: dict[str, Any] = {name: {} for name in _TREES} | {"params": _of_transformers(folder)}
    else:
      flat = load_file(weights)
      trees = {name: checkpoints.subtree(flat, name) for name in _TREES}
    return Trained(config=config, facts=facts, files=_files(folder, facts), **trees)
  except UserError:
    raise
  except (SafetensorError, *_FOREIGN) as error:
    raise UserError(f"{folder} is damaged: {error}; export it again") from error


def _of_transformers(folder: str) -> dict[str, Any]:
  return jax.tree.map(np.asarray, clips.load(folder)[1])
