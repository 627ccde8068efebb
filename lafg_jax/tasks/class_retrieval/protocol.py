"""The evaluate stage: checkpoint, pretrained backbone or file of embeddings -> evaluation.json."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.data import datasets, readers, same_images
from lafg_jax.evaluate import expansion, metrics, results
from lafg_jax.evaluate.embed import embed_dataset, embedding_function, make_embed
from lafg_jax.evaluate.results import EMBEDDINGS, FILE
from lafg_jax.models import embedder as embedders
from lafg_jax.runtime import distributed
from lafg_jax.tasks.class_retrieval import attribute_floors
from lafg_jax.training import checkpoints, metrics_log, resume
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.class_names import is_generic, shorten
from lafg_jax.utils.errors import UserError

# {hash of all that decides them: figures of the model before training}.
UNTRAINED = "untrained.json"
# Of an evaluation, what the study does not keep.
_NOT_KEPT = ("source", "untrained", "step", "chance", "expanded")


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """Evaluates `evaluate.source` on the classes of `evaluate.split`; writes and returns the result.

  Writes `<workdir>/evaluation.json` (the contract is in ARCHITECTURE.md) and `embeddings.npz`,
  unless that is what it evaluates. With a checkpoint, the model before training is measured too,
  once: `untrained.json` keeps its figures.
  """
  source = config.evaluate.source
  if source in ("checkpoint", "best"):
    where = checkpoints.where_of(source)
    result = _evaluate_checkpoint(config, workdir, where)
  elif source in ("pretrained", "untrained"):
    if source == "pretrained":
      # The backbone's own feature, without a head or prompts, which are random.
      config = config.copy_and_resolve_references()
      config.model.update(embedding_dim=0, embedding_norm="", num_prompts=0)
    models = [embedders.init_model(config)]
    (result,) = _evaluate_models(config, models, _dataset(config), workdir)
    result["step"] = 0
  else:
    result = results.evaluate_file(source, config.evaluate.ks, expansion_of(config))
  result["source"] = source
  _write(os.path.join(workdir, FILE), result)
  metrics_log.evaluated(workdir, result)
  return result


def _write(path: str, content: dict[str, Any]) -> None:
  if jax.process_index() == 0:
    with files.replacing(path) as temporary:
      temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _evaluate_checkpoint(config: ConfigDict, workdir: str, where: str) -> dict[str, Any]:
  arrays, meta = checkpoints.require(workdir, where)
  _check_checkpoint(config, meta, checkpoints.folder(workdir, where))
  logging.info("evaluate: the checkpoint of step %d", meta["step"])
  dataset, kept = _dataset(config), distributed.agree("the untrained model", lambda: _kept(workdir))
  models = [(embedders.build(config.model), checkpoints.subtree(arrays, "state/params"))]
  key = _key_of_untrained(config, meta["made_of"]["the pretrained weights"])
  words, known = meta["made_of"].get("the prototypes"), kept.get(key, {})
  lacks = attribute_floors.are_measured(config) and known.get(attribute_floors.OF) != words
  if (not known or lacks) and (untrained := _untrained_model(config, workdir)):
    models.append(untrained)
  result, *others = _evaluate_models(config, models, dataset, workdir)
  if others:
    kept[key] = results.metrics_only(others[0])
    if attribute_floors.are_measured(config):
      floors = attribute_floors.measure(config, arrays, make_embed(*models[1]), dataset)
      kept[key] |= {attribute_floors.OF: words, attribute_floors.NAME: floors}
    _write(os.path.join(workdir, UNTRAINED), kept)
  result["step"] = meta["step"]
  if meta["dataset"]["partial"]:
    result["partial"] = True
  return result | {"untrained": kept[key]} if key in kept else result


def _key_of_untrained(config: ConfigDict, weights: str | None) -> str:
  """The hash of all that decides the figures before training; `weights` is that of the weights."""
  split = config.evaluate.split
  content = datasets.content_fingerprint(config.data, split)
  deciding = keys.deciding(config, "embedding")
  return files.fingerprint(deciding, weights, content, split, config.evaluate.ks)


def _untrained_model(config: ConfigDict, workdir: str) -> Any:
  """The model before training and its parameters.

  None, with a warning, where the pretrained weights cannot be read any more. The checkpoint is
  evaluated all the same: it needs neither them nor the network.
  """
  failed, made = "", None
  try:
    made = embedders.init_model(config)
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
  return made


def _kept(workdir: str) -> dict[str, dict[str, Any]]:
  """The content of untrained.json; {} where it is missing or damaged."""
  path = os.path.join(workdir, UNTRAINED)
  try:
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, TypeError) as error:
    logging.warning("%s is damaged, and what it kept is measured again: %s", path, error)
    return {}


def make_validation(
  config: ConfigDict, val: datasets.Dataset
) -> Callable[[dict[str, Any]], dict[str, float]]:
  """`measure(params) -> {'val_recall@1', 'val_map@r'}` on the validation classes.

  `config` is resolved; `params` are unreplicated.
  """
  embedding = embedding_function(embedders.build(config.model))

  def measure(params: dict[str, Any]) -> dict[str, float]:
    with distributed.unhurried("validation"):
      embed = embedding(params)
      (vectors,), rows = embed_dataset([embed], val, config.data, config.evaluate.batch_size)
      asks = None if val.is_query is None else val.is_query[rows]
      found = metrics.evaluate_embeddings(vectors, val.labels[rows], (1,), is_query=asks)
    return {f"val_{name}": float(found[name]) for name in ("recall@1", "map@r")}

  return measure


def _dataset(config: ConfigDict) -> datasets.Dataset:
  split = config.evaluate.split
  return datasets.load_splits(config.data, splits=(split,))[split]


def _evaluate_models(config, models, dataset, workdir) -> list[dict[str, Any]]:
  """Metrics of models (embedder, parameters), each image decoded once for all of them.

  The embeddings of the first go into embeddings.npz of the workdir.
  """
  embeds = [make_embed(*model) for model in models]
  found, rows = embed_dataset(embeds, dataset, config.data, config.evaluate.batch_size)
  labels, asks = dataset.labels[rows], None if dataset.is_query is None else dataset.is_query[rows]
  if jax.process_index() == 0:
    path = os.path.join(workdir, EMBEDDINGS)
    results.write_embeddings(path, found[0], labels, rows, dataset)
  unreadable = len(dataset.ids) - len(rows)
  about = {"dataset": dataset.name, "split": dataset.split, "num_unreadable": unreadable}
  said = {"partial": dataset.partial, "box_crop": config.data.box_crop}
  about |= {name: True for name, holds in said.items() if holds}
  ks = tuple(config.evaluate.ks)
  measured = [metrics.evaluate_embeddings(x, labels, ks, is_query=asks) | about for x in found]
  if expand := expansion_of(config):
    measured[0]["expanded"] = expansion.figures(found[0], labels, ks, *expand, asks)
  return measured


def expansion_of(config: ConfigDict) -> tuple[int, float] | None:
  """The n and alpha of expanded queries; None where they are not asked for."""
  asked = config.evaluate
  return (asked.expand, asked.expand_alpha) if asked.expand else None


def _check_checkpoint(config: ConfigDict, meta: dict[str, Any], folder: str) -> None:
  """Raises UserError where a checkpoint is of another model, or trained on the test classes."""
  names = keys.deciding(config, "embedding")
  if meta["dataset"]["name"] != config.data.name:
    # Another data set may have no boxes to crop to.
    del names["data.box_crop"]
  resume.check_evaluated(names, config, meta, folder)
  split = config.evaluate.split
  if trained := _trained_classes(config, meta):
    raise UserError(
      f"the checkpoint in {folder} was trained on {len(trained)} of the "
      f"{len(datasets.class_splits(config.data)[split])} classes of evaluate.split={split} "
      f"({shorten(trained)}): pass the data.num_val_classes it was trained with, or other classes"
    )


def figures(workdir: str) -> dict[str, Any]:
  """What the study keeps of an evaluation.

  Returns:
    evaluation.json without the untrained model and the chance level; 'steps'; and 'by_class',
    {'num_queries', 'recall@1', 'map@r': [C]}, means over the class's queries that have a match, in
    the order of the class names.

  Raises:
    UserError: evaluation.json or embeddings.npz is missing or damaged.
  """
  result, path = results.read_result(workdir), os.path.join(workdir, EMBEDDINGS)
  names = ("vectors", "labels", "class_names")
  arrays = files.read_npz(path, names, stage="evaluate", optional=("is_query",))
  vectors, labels, names_of_classes = (arrays[name] for name in names)
  kept = {k: v for k, v in result.items() if k not in _NOT_KEPT}
  by_class = by_class_means(vectors, labels, len(names_of_classes), arrays.get("is_query"))
  return kept | {"steps": result["step"], "by_class": by_class}


def by_class_means(
  vectors: np.ndarray, labels: np.ndarray, count: int, is_query: np.ndarray | None = None
) -> dict[str, list[float]]:
  """Recall@1 and MAP@R of embeddings [n, D] with labels [n] by class, as `figures` has them."""
  pair = (vectors, labels, vectors, labels)
  if is_query is not None:
    pair = (vectors[is_query], labels[is_query], vectors[~is_query], labels[~is_query])
  scores, num_matches = metrics.per_query(*pair, ks=(1,), exclude_self=is_query is None)
  owners = pair[1][num_matches > 0]
  numbers = np.bincount(owners, minlength=count)
  found: dict[str, list[float]] = {"num_queries": numbers.tolist()}
  for name in ("recall@1", "map@r"):
    sums = np.bincount(owners, weights=scores[name], minlength=count)
    found[name] = (sums / np.maximum(numbers, 1)).round(6).tolist()
  return found


def _trained_classes(config: ConfigDict, meta: dict[str, Any]) -> list[str]:
  """The classes of evaluate.split that a checkpoint was trained on.

  Equal names of one data set and place are the same class. Elsewhere a generic name such as
  'class 01' says nothing, and images are compared (`same_images.trained`). Where the training
  images are gone or changed, equal names of one data.name count as the same class, with a warning.
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
