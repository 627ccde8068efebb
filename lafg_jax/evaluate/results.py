"""What an evaluation writes: evaluation.json, embeddings.npz, tables."""

import json
import os
from typing import Any

import numpy as np

from lafg_jax.config.table.data import FEATURES
from lafg_jax.data import datasets
from lafg_jax.evaluate import expansion, metrics
from lafg_jax.utils import files
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import unit_or_zero

FILE, EMBEDDINGS = "evaluation.json", "embeddings.npz"
# The metrics that variants are compared by, as papers write them; the first one ranks.
TITLES = {"recall@1": "R@1", "map@r": "MAP@R"}


def names_of(result: dict[str, Any]) -> list[str]:
  """The names of an evaluation's metrics, in the order of its tables."""
  last = {name: name.rpartition("/")[2] for name in result}
  recalls = [name for name in result if last[name].startswith(("recall@", "subset_recall@"))]
  means = [name for name in result if last[name].startswith("map@")]
  return recalls + means + [name for name in ("r_precision",) if name in result]


def metrics_only(result: dict[str, Any]) -> dict[str, float]:
  """{metric: fraction} of an evaluation, without what it was measured on."""
  return {name: result[name] for name in names_of(result)}


def percent(fraction: float, sign: str = "") -> str:
  """0.655 -> '65.5'; with sign='+' a difference: '+65.5'."""
  return f"{100 * fraction:{sign}.1f}"


def write_embeddings(
  path: str, vectors: np.ndarray, labels: np.ndarray, rows: np.ndarray, dataset: datasets.Dataset
) -> None:
  """Writes paths, labels, vectors, class names and, if any, is_query, in dataset order."""
  files.write_npz(
    path,
    paths=np.array([dataset.ids[row] for row in rows]),
    labels=labels,
    vectors=vectors,
    class_names=np.array(dataset.class_names),
    **({} if dataset.is_query is None else {"is_query": dataset.is_query[rows]}),
  )


def evaluate_file(
  path: str, ks: tuple[int, ...], expand: tuple[int, float] | None = None
) -> dict[str, Any]:
  """Metrics of an embeddings.npz: `vectors` [n, D], scaled to unit norm here, and `labels` [n].

  expand: n and alpha of expanded queries, whose metrics are `expanded`.

  Labels are whole numbers of any dtype, text or bytes, also [n, 1]. With `is_query` [n], bool or 0
  and 1, those rows query the others; without, each queries all others.

  Raises:
    UserError: the file is missing, damaged or lacks an array, vectors or labels are not as above or
      of different lengths, or no row is a query, or all are.
  """
  key = f"--config.evaluate.source={path}"
  if not os.path.isfile(path):
    raise UserError(f"{key}: no such file (it takes checkpoint, pretrained or an embeddings.npz)")
  arrays = files.read_npz(path, ("vectors", "labels"), stage=None, optional=("is_query",))
  vectors, asks = arrays["vectors"], arrays.get("is_query")
  if vectors.dtype.kind not in "fiu" or vectors.ndim != 2 or not vectors.size:
    what = f"vectors are {vectors.dtype} {vectors.shape}, not real numbers [n, D]"
    raise UserError(f"{key}: {what}")
  labels = _labels(key, arrays["labels"], len(vectors))
  if asks is not None:
    asks = _asks(key, asks, len(vectors))
  try:
    found = metrics.evaluate_embeddings(vectors, labels, tuple(ks), is_query=asks, normalize=True)
    if expand:
      unit = unit_or_zero(vectors).astype(np.float32)
      found["expanded"] = expansion.figures(unit, labels, tuple(ks), *expand, asks)
  except UserError as error:
    raise UserError(f"{key}: {error}") from error
  return {**found, "dataset": path, "split": "all"}


def _column(x: np.ndarray) -> np.ndarray:
  """[n] of an array [n, 1] or [1, n]; others as they are."""
  return x.reshape(-1) if x.ndim == 2 and 1 in x.shape else x


def _labels(key: str, labels: np.ndarray, count: int) -> np.ndarray:
  """[n] int64, one number a class."""
  labels = _column(labels)
  whole = labels.dtype.kind in "biuSU"
  if labels.dtype.kind == "f" and labels.size:
    whole = bool(np.all(np.isfinite(labels) & (labels == np.rint(labels))))
  if labels.shape != (count,) or not whole:
    what = f"labels are {labels.dtype} {labels.shape}"
    if labels.dtype.kind == "f" and not whole:
      what += " with values that are not whole"
    raise UserError(f"{key}: {what}; it takes a whole number or a text for each of {count} vectors")
  return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _asks(key: str, asks: np.ndarray, count: int) -> np.ndarray:
  """[n] bool: which rows are queries."""
  asks = _column(asks)
  if asks.shape != (count,) or asks.dtype.kind not in "biu" or not np.isin(asks, (0, 1)).all():
    raise UserError(f"{key}: is_query is {asks.dtype} {asks.shape}, not bool ({count},)")
  asks = asks.astype(bool)
  if asks.all() == asks.any():
    raise UserError(
      f"{key}: is_query is {bool(asks[0])} for all {len(asks)} rows; it takes True for queries and "
      "False for the gallery; leave it out, and each image queries all others"
    )
  return asks


def read_result(workdir: str) -> dict[str, Any]:
  """The evaluation.json of a workdir; raises UserError if it is missing or damaged."""
  path = os.path.join(workdir, FILE)
  if not os.path.isfile(path):
    raise UserError(f"{path} does not exist: run --stage=evaluate first")
  try:
    with open(path, encoding="utf-8") as file:
      result = json.load(file)
    return result | {name: result[name] for name in ("source", "split", "chance")}
  except (ValueError, TypeError, KeyError) as error:
    raise UserError(f"{path} is damaged ({error}): run --stage=evaluate again") from error


def columns_of(result: dict[str, Any]) -> dict[str, dict[str, float]]:
  """The columns of a result's table by their titles: before training, trained, and by chance.

  Of a trained model on pretrained weights also the backbone as it is, where that is not the model
  before training, and centred on the mean of training images; and of weights between start and
  trained the trained ones.
  """
  source = result["source"]
  columns = {source if source == "pretrained" else os.path.basename(source): result}
  if "untrained" in result:
    what = FEATURES if result.get("dataset") == FEATURES else "backbone"
    titles = {"backbone": what, "backbone_centred": f"{what} centred"}
    columns = {title: result[name] for name, title in titles.items() if name in result}
    columns |= {"before training": result["untrained"], "trained": result}
  if "as_trained" in result:
    columns["without interpolation"] = result["as_trained"]
  if "expanded" in result:
    columns["expanded"] = result["expanded"]
  return columns | {"chance": result["chance"]}


def rows_of(result: dict[str, Any]) -> list[list[str]]:
  """Head and rows of the result's table in percent."""
  columns = columns_of(result)
  head = ["%", *columns]
  return [head] + [[n, *(percent(c[n]) for c in columns.values())] for n in names_of(result)]


def warning_of(result: dict[str, Any]) -> str:
  """What to say loudly of figures that nothing can fail; else ''."""
  if result["chance"]["map@r"] < 1:
    return ""
  return (
    "Every image that a query can find is of its class: all figures are 100 by chance, and say "
    "nothing. Evaluate on two classes or more."
  )


def table(result: dict[str, Any]) -> str:
  """The table as text, with what was measured above it."""
  title = (
    f"{result['dataset']}, {result['split']}: {counted(result['num_queries'], 'image')} of "
    f"{counted(result['num_classes'], 'class')}"
    + (" (partial copy)" if result.get("partial") else "")
  )
  if result.get("box_crop"):
    title += ", cut to their boxes"
  found = rows_of(result)
  widths = [max(17, len(name) + 2) for name in found[0][1:]]
  rows = [
    f"{row[0]:<12}" + "".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths, strict=True))
    for row in found
  ]
  warning = warning_of(result)
  return "\n".join([title, *rows, *([f"WARNING: {warning}"] if warning else [])])
