"""The evaluate stage: checkpoint, pretrained backbone or embeddings file -> evaluation.json."""

import json
import os
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import datasets, readers, same_images
from lafg_jax.evaluate import metrics
from lafg_jax.evaluate.embed import embed_dataset, make_embed
from lafg_jax.evaluate.results import (
  EMBEDDINGS,
  FILE,
  evaluate_file,
  metrics_only,
  write_embeddings,
)
from lafg_jax.models import embedder as embedders
from lafg_jax.training import checkpoints
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.class_names import is_generic, shorten
from lafg_jax.utils.errors import UserError


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """Evaluates `evaluate.source` on the classes of `evaluate.split`; writes and returns the result.

  Writes `<workdir>/evaluation.json` (the contract is in ARCHITECTURE.md) and, unless it was read
  from one, `<workdir>/embeddings.npz`.
  """
  source = config.evaluate.source
  if source in ("checkpoint", "best"):
    where = checkpoints.BEST if source == "best" else checkpoints.FOLDER
    result = _evaluate_checkpoint(config, workdir, where)
  elif source == "pretrained":
    config = config.copy_and_resolve_references()
    with config.unlocked():
      # The backbone's own feature: a random head or random prompts would only blur it.
      config.model.update({"embedding_dim": 0, "embedding_norm": "", "num_prompts": 0})
    embedder, params = embedders.init_model(config)
    dataset = _dataset(config)
    result = _evaluate_params(config, embedder, params, dataset, workdir)
    result["step"] = 0
  else:
    result = evaluate_file(source, config.evaluate.ks)
  result["source"] = source
  if jax.process_index() != 0:
    return result
  with files.replacing(os.path.join(workdir, FILE)) as temporary:
    temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
  return result


def _evaluate_checkpoint(config: ConfigDict, workdir: str, where: str) -> dict[str, Any]:
  arrays, meta = checkpoints.require(workdir, where)
  _check_checkpoint(config, meta, checkpoints.folder(workdir, where))
  logging.info("evaluate: the checkpoint of step %d", meta["step"])
  embedder = embedders.build(config.model)
  params = checkpoints.subtree(arrays, "state/params")
  dataset = _dataset(config)
  result = _evaluate_params(config, embedder, params, dataset, workdir)
  result["step"] = meta["step"]
  if meta["dataset"]["partial"]:
    result["partial"] = True
  embedder, params = embedders.init_model(config)
  result["untrained"] = metrics_only(_evaluate_params(config, embedder, params, dataset))
  return result


def _dataset(config: ConfigDict) -> datasets.Dataset:
  split = config.evaluate.split
  return datasets.load_splits(config.data, splits=(split,))[split]


def _evaluate_params(
  config: ConfigDict,
  embedder: embedders.Embedder,
  params: dict,
  dataset: datasets.Dataset,
  workdir: str | None = None,
) -> dict[str, Any]:
  """Metrics of one set of parameters; with a workdir, embeddings.npz there as well."""
  embed = make_embed(embedder, params)
  vectors, rows = embed_dataset(embed, dataset, config.data, config.evaluate.batch_size)
  labels = dataset.labels[rows]
  if workdir is not None and jax.process_index() == 0:
    write_embeddings(os.path.join(workdir, EMBEDDINGS), vectors, labels, rows, dataset)
  result: dict[str, Any] = metrics.evaluate_embeddings(
    vectors,
    labels,
    tuple(config.evaluate.ks),
    is_query=None if dataset.is_query is None else dataset.is_query[rows],
  )
  result |= {
    "dataset": dataset.name,
    "split": dataset.split,
    "num_unreadable": len(dataset.ids) - len(rows),
  }
  if dataset.partial:
    result["partial"] = True
  if config.data.box_crop:
    result["box_crop"] = True
  return result


def _check_checkpoint(config: ConfigDict, meta: dict[str, Any], folder: str) -> None:
  """The checkpoint is of this model, and never saw the classes it is evaluated on."""
  # Checkpoints from before these were keys are of their defaults.
  old = {"data.box_crop": False, "data.resize_size": 256} | meta["config"]
  names = [k for k in old if k.startswith("model.")]
  names += ["seed", "data.image_size", "data.resize_size"]
  if meta["dataset"]["name"] == config.data.name:
    # Another data set may have no boxes to crop to.
    names.append("data.box_crop")
  changed = config_keys.differences(names, old, config_keys.flatten(config))
  if changed:
    raise UserError(
      f"the checkpoint in {folder} is of another config ({'; '.join(changed)}): pass the config it "
      "was trained with"
    )
  split = config.evaluate.split
  if trained := _trained_classes(config, meta):
    raise UserError(
      f"the checkpoint in {folder} was trained on {len(trained)} of the "
      f"{len(datasets.class_splits(config.data)[split])} classes of evaluate.split={split} "
      f"({shorten(trained)}): pass the data.num_val_classes it was trained with, or other classes"
    )


def _trained_classes(config: ConfigDict, meta: dict[str, Any]) -> list[str]:
  """The classes of evaluate.split that a checkpoint was trained on.

  Within one data set an equal name is the same class. Where another data set, or another place, is
  evaluated, a generic name such as 'class 01' says nothing: there the images tell (see
  `same_images.trained`), whatever data.name is. If the training images are gone, or are others by
  now, equal names of one data.name count as the same class, with a warning.
  """
  test, of_training = _dataset(config), set(meta["dataset"]["class_names"])
  same_name = meta["dataset"]["name"] == config.data.name
  equal = [name for name in test.class_names if same_name and name in of_training]
  then = config_keys.nested({k: x for k, x in meta["config"].items() if k.startswith("data.")}).data
  same_place = same_name and readers.source(then) == readers.source(config.data)
  if same_place or not any(map(is_generic, test.class_names)):
    return equal
  try:
    train = datasets.load_splits(then, ("train",))["train"]
    if datasets.content_of(train) != meta["dataset"]["content"]:
      raise UserError(f"{readers.source(then)} holds other images than those of the training")
  except UserError as error:
    logging.warning("evaluate: are test classes unseen? Names alone were compared: %s", error)
    return equal
  return [x for x in equal if not is_generic(x)] + same_images.trained(train, test)
