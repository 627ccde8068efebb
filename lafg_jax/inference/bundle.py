"""A trained model as arrays and facts: read from checkpoints or an export, written as an export.

An export is two files: model.safetensors, with 'params/...' (what embeds an image; LoRA merged),
'prototypes/...' and 'readout/...', and config.json, with the training config and the other facts.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

from lafg_jax.evaluate.embed import inference_params
from lafg_jax.inference import locations
from lafg_jax.models import embedder as embedders
from lafg_jax.runtime import jax_settings
from lafg_jax.tasks.class_retrieval import attributes
from lafg_jax.training import checkpoints
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.errors import UserError

FORMAT = 2
_FACTS = (
  "step checkpoint validation class_names dataset partial box sentences evaluation versions".split()
)
_TREES = ("params", "prototypes", "readout")
# What reading a JSON file raises that was edited, or that is of something else.
_FOREIGN = (ValueError, KeyError, TypeError, AttributeError)


class Trained(NamedTuple):
  """What a model needs to embed, search and be read, on the host.

  config: that of its training. params: the tree that `Embedder` takes, for inference alone.
  prototypes: the language base, as `Retriever` has it. readout: of `attributes.readout`.
  facts: JSON: 'step', 'checkpoint' ('newest' or 'best'), 'validation' ('step', 'val_map@r' and
  'val_recall@1' that made it the best, or None), 'class_names', 'dataset', 'partial', 'box' (or
  None), 'sentences' (of the vocabulary), 'evaluation' (evaluation.json of that very checkpoint, or
  None) and 'versions'.
  """

  config: ConfigDict
  params: dict[str, Any]
  prototypes: dict[str, np.ndarray]
  readout: attributes.Readout
  facts: dict[str, Any]


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


def embedding_dim(config: ConfigDict) -> int:
  """D of a trained model."""
  return config.model.embedding_dim or embedders.build(config.model).backbone.width


def identity(trained: Trained) -> str:
  """16 hexadecimal digits of the parameters: models of one identity give the same embeddings."""
  flat = traverse_util.flatten_dict(trained.params, sep="/")
  return files.fingerprint({name: np.asarray(x) for name, x in flat.items()})[:16]


def _of_checkpoint(workdir: str, where: str) -> Trained:
  arrays, meta = checkpoints.require(workdir, where)
  config = config_keys.nested(meta["config"])
  params = checkpoints.subtree(arrays, "state/params")
  prototypes = checkpoints.subtree(arrays, "prototypes")
  readout = {}
  if prototypes:
    means = checkpoints.subtree(arrays, "state/averages/projectors")
    readout = attributes.readout(config, prototypes["vocabulary"], params["projectors"], means)
  inference = inference_params(embedders.build(config.model), params)
  facts = {
    **{name: meta[name] for name in ("step", "box", "sentences", "versions")},
    **{name: meta["dataset"][name] for name in ("class_names", "partial")},
    "dataset": meta["dataset"]["name"],
    "checkpoint": "best" if where == checkpoints.BEST else "newest",
    "validation": meta.get("validation"),
    "evaluation": _evaluation(workdir, where, meta["step"]),
  }
  return Trained(config, jax.tree.map(np.asarray, inference), prototypes, readout, facts)


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


def write(trained: Trained, folder: str) -> None:
  """Writes model.safetensors and config.json, each whole or not at all."""
  from safetensors.numpy import save

  tree = {name: getattr(trained, name) for name in _TREES}
  flat = traverse_util.flatten_dict(tree, sep="/")
  weights = os.path.join(folder, locations.WEIGHTS)
  with files.replacing(weights) as temporary:
    # Not save_file, whose files only their owner may read.
    temporary.write_bytes(save({name: np.asarray(x, order="C") for name, x in flat.items()}))
  facts = {"library": "lafg_jax", "format": FORMAT, "weights_sha256": files.file_hash(weights)}
  facts |= {"facts": trained.facts, "config": config_keys.flatten(trained.config)}
  with files.replacing(os.path.join(folder, locations.FACTS)) as temporary:
    temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _of_export(folder: str) -> Trained:
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  path, weights = (os.path.join(folder, name) for name in (locations.FACTS, locations.WEIGHTS))
  try:
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    # A list or a number has no `get`.
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
    flat = load_file(weights)
    config = config_keys.nested(found["config"])
    embedding_dim(config)
    facts = {name: found["facts"][name] for name in _FACTS}
    trees = {name: checkpoints.subtree(flat, name) for name in _TREES}
    return Trained(config=config, facts=facts, **trees)
  except UserError:
    raise
  except (SafetensorError, *_FOREIGN) as error:
    raise UserError(f"{folder} is damaged: {error}; export it again") from error
