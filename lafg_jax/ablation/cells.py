"""One cell, in a worker process: train, evaluate the last step, keep only the figures."""

import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.data import datasets
from lafg_jax.data.datasets import Dataset
from lafg_jax.evaluate import metrics
from lafg_jax.evaluate.embed import embed_dataset, make_embed
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import teacher_features
from lafg_jax.training import checkpoints, loop
from lafg_jax.utils import config_keys

# What is kept of each test class.
_BY_CLASS = ("recall@1", "map@r")
_DIGITS = 6


class Stopped(RuntimeError):
  """A signal asked training to stop: nothing of the cell is kept."""


def run(config: Any, prototypes_path: Path | None, scratch: str, *, trains: bool) -> dict[str, Any]:
  """Figures of one training.

  Args:
    config: resolved; training is a pure function of it and of the files that it names.
    prototypes_path: the prototypes.npz, or None without words.
    scratch: folder for what training writes and nobody keeps.
    trains: False evaluates the model before training.

  Returns:
    JSON: 'dataset', 'seed', 'split', 'steps', the metrics of `evaluate.metrics`, 'by_class'
    ({'num_queries', 'recall@1', 'map@r': [C]}, means over the class's queries that have a match, in
    the order of the class names), 'seconds', 'versions'.

  Raises:
    UserError: what `train.run` raises. Stopped: by a signal.
  """
  begun = time.monotonic()
  embedder, params, steps = _parameters(config, prototypes_path, scratch, trains)
  dataset = _dataset(_section(config.data), config.evaluate.split)
  vectors, rows = embed_dataset(
    make_embed(embedder, params), dataset, config.data, config.evaluate.batch_size
  )
  result = measure(vectors, dataset.labels[rows], dataset, rows, tuple(config.evaluate.ks))
  return {
    "dataset": dataset.name,
    "seed": config.seed,
    "split": dataset.split,
    "steps": steps,
    **result,
    "num_unreadable": len(dataset.ids) - len(rows),
    **({"partial": True} if dataset.partial else {}),
    "seconds": round(time.monotonic() - begun, 1),
    "versions": checkpoints.versions(),
  }


def _parameters(config, prototypes_path, scratch, trains) -> tuple[Any, Any, int]:
  if not trains:
    embedder, params = embedders.init_model(config)
    return embedder, params, 0
  dataset = _dataset(_section(config.data), "train")
  words = None
  if prototypes_path is not None:
    words = teacher_features.load(config, prototypes_path, dataset)
  with tempfile.TemporaryDirectory(dir=scratch) as folder:
    step, stopped = loop.run(config, folder, dataset, words)
    if stopped:
      raise Stopped(f"at step {step}")
    arrays, _ = checkpoints.require(folder)
  return embedders.build(config.model), checkpoints.subtree(arrays, "state/params"), step


def measure(
  vectors: np.ndarray, labels: np.ndarray, dataset: Dataset, rows: np.ndarray, ks: tuple[int, ...]
) -> dict[str, Any]:
  """Metrics of embeddings [n, D] and labels [n], overall and by class; `rows` [n] are theirs."""
  if dataset.is_query is None:
    pair = (vectors, labels, vectors, labels)
  else:
    asks = dataset.is_query[rows]
    pair = (vectors[asks], labels[asks], vectors[~asks], labels[~asks])
  scores, counted = metrics.per_query(*pair, ks=ks, exclude_self=dataset.is_query is None)
  owners = pair[1][counted]
  numbers = np.bincount(owners, minlength=len(dataset.class_names))
  by_class = {"num_queries": numbers.tolist()}
  for name in _BY_CLASS:
    if name in scores:
      sums = np.bincount(owners, weights=scores[name], minlength=len(numbers))
      by_class[name] = (sums / np.maximum(numbers, 1)).round(_DIGITS).tolist()
  return {
    **{name: float(values.mean()) for name, values in scores.items()},
    "num_queries": len(counted),
    "num_queries_without_match": int((~counted).sum()),
    "num_gallery": len(pair[2]),
    "num_classes": len(np.unique(pair[1])),
    "by_class": by_class,
  }


def _section(data: Any) -> str:
  """The data section as text, without what changes no image."""
  flat = config_keys.flatten(data)
  return json.dumps({k: v for k, v in flat.items() if not k.startswith(("classes_", "images_"))})


@functools.lru_cache(maxsize=6)
def _dataset(section: str, split: str) -> Dataset:
  """A split, kept between the cells of a process."""
  return datasets.load_splits(config_keys.nested(json.loads(section)), (split,))[split]
