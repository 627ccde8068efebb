"""What an evaluation writes: evaluation.json, embeddings.npz, tables."""

import json
import os
from typing import Any

import numpy as np

from lafg_jax.data import datasets
from lafg_jax.evaluate import metrics
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import read_npz

FILE, EMBEDDINGS = "evaluation.json", "embeddings.npz"


def metrics_only(result: dict[str, Any]) -> dict[str, float]:
  return {
    k: v for k, v in result.items() if k.startswith("recall@") or k in ("map@r", "r_precision")
  }


def write_embeddings(
  path: str, vectors: np.ndarray, labels: np.ndarray, rows: np.ndarray, dataset: datasets.Dataset
) -> None:
  """Writes paths, labels, vectors, class names and, if any, is_query, in dataset order."""
  with files.replacing(path) as temporary, open(temporary, "wb") as file:
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
