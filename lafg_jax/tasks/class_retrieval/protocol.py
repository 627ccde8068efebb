"""The evaluate stage: checkpoint, pretrained backbone or embeddings file -> evaluation.json."""

import json
import os
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax import stages
from lafg_jax.data import datasets
from lafg_jax.evaluate import metrics
from lafg_jax.evaluate.embed import embed_dataset, make_embed
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval.language_base import read_npz
from lafg_jax.training import checkpoints
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

FILE, EMBEDDINGS = "evaluation.json", "embeddings.npz"


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
  with stages.replacing(os.path.join(workdir, FILE)) as temporary:
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
  result["untrained"] = _metrics_only(_evaluate_params(config, embedder, params, dataset))
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
  classes = datasets.class_splits(config.data)[split]
  trained = set(meta["dataset"]["class_names"]) & set(classes)
  if meta["dataset"]["name"] == config.data.name and trained:
    raise UserError(
      f"the checkpoint in {folder} was trained on {len(trained)} of the {len(classes)} classes of "
      f"evaluate.split={split}: pass the data.num_val_classes it was trained with"
    )


def _metrics_only(result: dict[str, Any]) -> dict[str, float]:
  return {
    k: v for k, v in result.items() if k.startswith("recall@") or k in ("map@r", "r_precision")
  }


def write_embeddings(
  path: str, vectors: np.ndarray, labels: np.ndarray, rows: np.ndarray, dataset: datasets.Dataset
) -> None:
  """Writes paths, labels, vectors, class names and, if any, is_query, in dataset order."""
  with stages.replacing(path) as temporary, open(temporary, "wb") as file:
    np.savez(
      file,
      paths=np.array([dataset.ids[row] for row in rows]),
      labels=labels,
      vectors=vectors,
      class_names=np.array(dataset.class_names),
      **({} if dataset.is_query is None else {"is_query": dataset.is_query[rows]}),
    )


def evaluate_file(path: str, ks: tuple[int, ...]) -> dict[str, Any]:
  """Metrics of an embeddings.npz: `vectors` [n, D], scaled to unit norm here, and `labels` [n].

  With `is_query` [n] bool, those rows query the others; without, each queries all others.

  Raises:
    UserError: the file is missing, damaged or lacks an array, or no row is a query, or all are.
  """
  key = f"--config.evaluate.source={path}"
  if not os.path.isfile(path):
    raise UserError(f"{key}: no such file (it takes checkpoint, pretrained or an embeddings.npz)")
  arrays = read_npz(path, ("vectors", "labels"), stage=None, optional=("is_query",))
  vectors, labels, asks = arrays["vectors"], arrays["labels"], arrays.get("is_query")
  if vectors.dtype.kind not in "fiu" or labels.dtype.kind not in "iu":
    raise UserError(
      f"{key}: vectors are {vectors.dtype} and labels {labels.dtype}, not real and whole numbers"
    )
  if asks is not None and (asks.dtype != bool or asks.shape != labels.shape):
    raise UserError(f"{key}: is_query is {asks.dtype} {asks.shape}, not bool {labels.shape}")
  if asks is not None and len(asks) and asks.all() == asks.any():
    raise UserError(
      f"{key}: is_query is {bool(asks[0])} for all {len(asks)} rows; it takes True for queries and "
      "False for the gallery; leave it out, and each image queries all others"
    )
  result: dict[str, Any] = metrics.evaluate_embeddings(
    vectors, labels, tuple(ks), is_query=asks, normalize=True
  )
  return result | {"dataset": path, "split": "all"}


def read_result(workdir: str) -> dict[str, Any]:
  """The evaluation.json of a workdir.

  Raises:
    UserError: it is missing or damaged.
  """
  path = os.path.join(workdir, FILE)
  if not os.path.isfile(path):
    raise UserError(f"{path} does not exist: run --stage=evaluate first")
  try:
    with open(path, encoding="utf-8") as file:
      result = json.load(file)
    return result | {"source": result["source"], "split": result["split"]}
  except (ValueError, TypeError, KeyError) as error:
    raise UserError(f"{path} is damaged ({error}): run --stage=evaluate again") from error


def columns_of(result: dict[str, Any]) -> tuple[list[str], dict[str, dict[str, Any]]]:
  """The names of the metrics, and the columns of a table: what was measured, by its name."""
  names = [name for name in result if name.startswith("recall@")] + ["map@r", "r_precision"]
  if "untrained" in result:
    return names, {"untrained": result["untrained"], "trained": result}
  source = result["source"]
  return names, {source if source == "pretrained" else os.path.basename(source): result}


def table(result: dict[str, Any]) -> str:
  """The result as a small text table, in percent; the untrained model beside it where measured."""
  names, columns = columns_of(result)
  title = (
    f"{result['dataset']}, {result['split']}: {result['num_queries']} images of "
    f"{result['num_classes']} classes" + (" (partial copy)" if result.get("partial") else "")
  )
  if result.get("box_crop"):
    title += ", cut to their boxes"
  lines = [title, f"{'%':<12}" + "".join(f"{name:>12}" for name in columns)]
  for name in names:
    lines.append(f"{name:<12}" + "".join(f"{100 * c[name]:>12.1f}" for c in columns.values()))
  return "\n".join(lines)
