"""The evaluate stage: checkpoint, pretrained backbone or file of embeddings -> evaluation.json."""

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
from lafg_jax.evaluate import expansion, metrics, results
from lafg_jax.evaluate.embed import embed_dataset, embedding_function, make_embed
from lafg_jax.evaluate.results import EMBEDDINGS, FILE
from lafg_jax.models import embedder as embedders
from lafg_jax.models import heads
from lafg_jax.runtime import distributed
from lafg_jax.tasks.class_retrieval import (
  attribute_floors,
  batches,
  finishing,
  references,
  start,
)
from lafg_jax.tasks.class_retrieval.references import UNTRAINED, Reading
from lafg_jax.training import checkpoints, learned_weights, metrics_log, resume
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.class_names import is_generic, shorten
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import unit_or_zero

# Of an evaluation, what the study does not keep.
_NOT_KEPT = ("source", "untrained", "step", "chance", "expanded")


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """Evaluates `evaluate.source` on the classes of `evaluate.split`; writes and returns the result.

  Writes `<workdir>/evaluation.json` (the contract is in ARCHITECTURE.md) and `embeddings.npz`,
  unless that is what it evaluates. With a checkpoint, the model before training and the backbone
  are measured too, once (`references`); and where its weights lie between start and trained, the
  trained ones as well, as 'as_trained'.
  """
  source = config.evaluate.source
  if source in ("checkpoint", "best"):
    result = _evaluate_checkpoint(config, workdir, finishing.where(config))
  elif source in ("pretrained", "untrained"):
    if source == "pretrained":
      config = references.without_head(config)
    models, readings = [_before_training(config, workdir)], {source: Reading(0)}
    result = _evaluate_models(config, models, _dataset(config), workdir, readings)[source]
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
  _check_checkpoint(config, meta, workdir, where)
  logging.info("evaluate: the checkpoint of step %d", meta["step"])
  dataset, wanted = _dataset(config), references.hashes(config, meta)
  kept = distributed.agree("the untrained model", lambda: references.kept(workdir))
  words = meta["made_of"].get("the prototypes")
  known = kept.get(wanted["untrained"], {})
  lacks = attribute_floors.are_measured(config) and known.get(attribute_floors.OF) != words
  missing = [x for x, key in wanted.items() if key not in kept or (lacks and x == "untrained")]
  missing = missing if config.evaluate.references else []
  trained = {"trained": learned_weights.of(arrays), **_as_trained(workdir, meta)}
  models, readings = references.models_of(config, workdir, meta, missing, first=len(trained))
  of_trained = [(embedders.build(config.model), params) for params in trained.values()]
  every = {name: Reading(k) for k, name in enumerate(trained)} | readings
  found = _evaluate_models(config, [*of_trained, *models], dataset, workdir, every)
  result = found.pop("trained")
  result |= {name: results.metrics_only(found.pop(name)) for name in trained if name in found}
  if found:
    kept |= {wanted[name]: results.metrics_only(of) for name, of in found.items()}
    if "untrained" in found and attribute_floors.are_measured(config):
      floors = attribute_floors.measure(config, arrays, make_embed(*models[0]), dataset)
      kept[wanted["untrained"]] |= {attribute_floors.OF: words, attribute_floors.NAME: floors}
    _write(os.path.join(workdir, UNTRAINED), kept)
  result["step"] = meta["step"]
  if meta["dataset"]["partial"]:
    result["partial"] = True
  return result | {name: kept[key] for name, key in wanted.items() if key in kept}


def _as_trained(workdir: str, meta: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """The trained weights behind a final checkpoint of weights between them and the start.

  {} where those are the trained ones, or where the checkpoint they came from is not there any more
  or damaged.
  """
  step = meta["step"]
  if meta.get("alpha", 1) == 1 or step not in checkpoints.steps(workdir):
    return {}
  try:
    arrays, trained = checkpoints.read(workdir, step)
  except checkpoints.Damaged as error:
    path = os.path.join(checkpoints.folder(workdir), str(step))
    logging.warning("evaluate: the trained weights are left out, %s is damaged: %s", path, error)
    return {}
  return {"as_trained": learned_weights.of(arrays)} if trained["crc32"] == meta["made_from"] else {}


def _before_training(config: ConfigDict, workdir: str) -> Any:
  """The model of a config, with what it takes from training images: its head, and its centre."""
  embedder, params = embedders.init_model(config)
  if config.model.centre or config.model.head_init in heads.LEARNED:
    train = batches.some(datasets.load_splits(config.data, ("train",))["train"], config)
    if (make := start.make_head(config, workdir, train)) is not None:
      params["embedding"] = make(embedder, params)
    if config.model.centre:
      params = finishing.centred(config, [params], train)[0]
  return embedder, params


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


def _evaluate_models(config, models, dataset, workdir, readings) -> dict[str, dict[str, Any]]:
  """Metrics of {name: Reading} of models (embedder, parameters), each image decoded once for all.

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
  expand = expansion_of(config)

  def measured(name: str, reading: Reading) -> dict[str, Any]:
    vectors = found[reading.model]
    if reading.centre is not None:
      vectors = unit_or_zero(vectors - reading.centre).astype(np.float32)
    result = metrics.evaluate_embeddings(vectors, labels, ks, is_query=asks) | about
    if expand and name == first:
      result["expanded"] = expansion.figures(vectors, labels, ks, *expand, asks)
    return result

  first = next(iter(readings))
  return {name: measured(name, reading) for name, reading in readings.items()}


def expansion_of(config: ConfigDict) -> tuple[int, float] | None:
  """The n and alpha of expanded queries; None where they are not asked for."""
  asked = config.evaluate
  return (asked.expand, asked.expand_alpha) if asked.expand else None


def _check_checkpoint(config: ConfigDict, meta: dict[str, Any], workdir: str, where: str) -> None:
  """Raises UserError where a checkpoint is of another model, or trained on the test classes."""
  folder = checkpoints.folder(workdir, where)
  of_final = resume.AFTERWARDS if where == checkpoints.FINAL else ()
  embedding = keys.deciding(config, "embedding")
  names = dict.fromkeys([*(x for x in embedding if x not in resume.AFTERWARDS), *of_final])
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
