"""The evaluate stage: checkpoint, pretrained backbone or embeddings file -> evaluation.json."""

import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.data import datasets, readers, same_images
from lafg_jax.evaluate import metrics
from lafg_jax.evaluate.embed import embed_dataset, embedding_function, make_embed
from lafg_jax.evaluate.results import (
  EMBEDDINGS,
  FILE,
  evaluate_file,
  metrics_only,
  read_result,
  write_embeddings,
)
from lafg_jax.models import embedder as embedders
from lafg_jax.runtime import distributed
from lafg_jax.training import checkpoints
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.class_names import is_generic, shorten
from lafg_jax.utils.errors import UserError

# Figures of the model before training, by the hash of all that decides them.
UNTRAINED = "untrained.json"


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """Evaluates `evaluate.source` on the classes of `evaluate.split`; writes and returns the result.

  Writes `<workdir>/evaluation.json` (the contract is in ARCHITECTURE.md) and, unless it was read
  from one, `<workdir>/embeddings.npz`. With a checkpoint, the figures of the model before training
  are measured too, once: `<workdir>/untrained.json` keeps them.
  """
  source = config.evaluate.source
  if source in ("checkpoint", "best"):
    where = checkpoints.BEST if source == "best" else checkpoints.FOLDER
    result = _evaluate_checkpoint(config, workdir, where)
  elif source == "untrained":
    result = _evaluate_params(config, *embedders.init_model(config), _dataset(config), workdir)
    result["step"] = 0
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
  untrained = _evaluate_untrained(
    config, workdir, dataset, meta["made_of"]["the pretrained weights"]
  )
  return result if untrained is None else result | {"untrained": untrained}


def _evaluate_untrained(
  config: ConfigDict, workdir: str, dataset: datasets.Dataset, weights: str | None
) -> dict[str, float] | None:
  """Metrics of the model before training: those that the workdir keeps, or measured and kept.

  None, with a warning, where the pretrained weights cannot be read any more: the figures of the
  checkpoint need neither them nor the network.

  Args:
    weights: the hash of the pretrained weights that training began with, or None.
  """
  path, split = os.path.join(workdir, UNTRAINED), config.evaluate.split
  key = files.fingerprint(
    *(keys.deciding(config, "embedding"), weights),
    datasets.content_fingerprint(config.data, split),
    *(split, config.evaluate.ks),
  )
  kept = distributed.agree("the untrained model", lambda: _read_kept(path))
  if key in kept:
    return kept[key]
  failed = ""
  try:
    embedder, params = embedders.init_model(config)
  except UserError as error:
    failed = str(error)
  # All processes embed together, or none does.
  why = distributed.agree("the pretrained weights", lambda: failed)
  if why:
    logging.warning(
      "evaluate: the figures before training are left out (%s); to have them, delete %s and "
      "evaluate again where the weights can be read", *(why, os.path.join(workdir, FILE))
    )  # fmt: skip
    return None
  if failed:
    raise UserError(failed)
  found = metrics_only(_evaluate_params(config, embedder, params, dataset))
  if jax.process_index() == 0:
    with files.replacing(path) as temporary:
      temporary.write_text(json.dumps(kept | {key: found}, indent=2) + "\n", encoding="utf-8")
  return found


def _read_kept(path: str) -> dict[str, dict[str, float]]:
  """What an earlier evaluation kept, by the hash of all that decides it."""
  try:
    with open(path, encoding="utf-8") as file:
      return dict(json.load(file))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, TypeError) as error:
    logging.warning("%s is damaged, and what it kept is measured again: %s", path, error)
    return {}


def make_validation(
  config: ConfigDict, val: datasets.Dataset
) -> Callable[[dict[str, Any]], dict[str, float]]:
  """`measure(params) -> {'val_recall@1', 'val_map@r'}` of unreplicated parameters.

  Args:
    config: resolved.
    val: images of the validation classes.
  """
  embedding = embedding_function(embedders.build(config.model))

  def measure(params: dict[str, Any]) -> dict[str, float]:
    with distributed.unhurried("validation"):
      embed = embedding(params)
      vectors, rows = embed_dataset(embed, val, config.data, config.evaluate.batch_size)
      asks = None if val.is_query is None else val.is_query[rows]
      found = metrics.evaluate_embeddings(vectors, val.labels[rows], (1,), is_query=asks)
    return {f"val_{name}": float(found[name]) for name in ("recall@1", "map@r")}

  return measure


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
  names = keys.deciding(config, "embedding")
  if meta["dataset"]["name"] != config.data.name:
    # Another data set may have no boxes to crop to.
    del names["data.box_crop"]
  changed = config_keys.differences(names, meta["config"], config_keys.flatten(config))
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


def figures(workdir: str) -> dict[str, Any]:
  """What the study keeps of an evaluation: its result, and means by class.

  Returns:
    evaluation.json without the untrained model; 'steps'; and 'by_class', {'num_queries',
    'recall@1', 'map@r': [C]}, means over the class's queries that have a match, in the order of the
    class names.

  Raises:
    UserError: evaluation.json or embeddings.npz is missing or damaged.
  """
  result = read_result(workdir)
  names = ("vectors", "labels", "class_names")
  path = os.path.join(workdir, EMBEDDINGS)
  arrays = files.read_npz(path, names, stage="evaluate", optional=("is_query",))
  vectors, labels, asks = arrays["vectors"], arrays["labels"], arrays.get("is_query")
  kept = {k: v for k, v in result.items() if k not in ("source", "untrained", "step")}
  by_class = by_class_means(vectors, labels, len(arrays["class_names"]), asks)
  return kept | {"steps": result["step"], "by_class": by_class}


def by_class_means(
  vectors: np.ndarray, labels: np.ndarray, count: int, is_query: np.ndarray | None = None
) -> dict[str, list[float]]:
  """Recall@1 and MAP@R of embeddings [n, D] with labels [n] by class, as `figures` has them."""
  pair = (vectors, labels, vectors, labels)
  if is_query is not None:
    pair = (vectors[is_query], labels[is_query], vectors[~is_query], labels[~is_query])
  scores, counted = metrics.per_query(*pair, ks=(1,), exclude_self=is_query is None)
  owners = pair[1][counted]
  numbers = np.bincount(owners, minlength=count)
  found: dict[str, list[float]] = {"num_queries": numbers.tolist()}
  for name in ("recall@1", "map@r"):
    sums = np.bincount(owners, weights=scores[name], minlength=count)
    found[name] = (sums / np.maximum(numbers, 1)).round(6).tolist()
  return found


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
