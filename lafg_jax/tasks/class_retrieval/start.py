"""What a model takes from training images before or after training: its head, and its centre.

`<workdir>/head.npz` keeps a head that starts from features of training images, so that a run that
resumes, and an evaluation, have the same numbers.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import datasets
from lafg_jax.data.datasets import Dataset
from lafg_jax.evaluate.embed import embed_dataset
from lafg_jax.models import heads
from lafg_jax.models.embedder import Embedder
from lafg_jax.runtime import devices, distributed
from lafg_jax.training import checkpoints
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

FILE = "head.npz"
# Training images that are looked at: evenly spaced in the order of the data set, so of all classes.
HEAD_IMAGES, CENTRE_IMAGES = 2048, 1024
# Part of the file's key: raised when this code gives another head for the same inputs.
_VERSION = 1
# Keys of the model that act behind the features that the head starts from.
_BEHIND = ("centre", "pretrained")

# (embedder, parameters with a random head) -> the head's 'kernel' [width, D] and 'bias' [D]
MakeHead = Callable[[Embedder, dict[str, Any]], dict[str, np.ndarray]]


def sample(dataset: Dataset, count: int) -> Dataset:
  """At most `count` images of a dataset, evenly spaced in its order."""
  total = len(dataset.labels)
  if total <= count:
    return dataset
  return datasets.some_rows(dataset, (2 * np.arange(count) + 1) * total // (2 * count))


def make_head(config: ConfigDict, workdir: str, dataset: Dataset) -> MakeHead | None:
  """What makes the head of model.head_init from training images; None where it takes none.

  The head is read from the workdir, or computed and kept there. All processes call it together.
  It raises UserError where no image can be read, there are too few, or the workdir cannot be
  written to.
  """
  if config.model.head_init not in heads.LEARNED:
    return None

  def make(embedder: Embedder, params: dict[str, Any]) -> dict[str, np.ndarray]:
    key = _key(config, dataset, params.get("backbone", {}))
    kept = distributed.agree("the head", lambda: _read(workdir, key) is not None)
    if kept and (found := _read(workdir, key)) is not None:
      return found
    logging.info("train: the head starts from features of training images (model.head_init)")
    features = _features(config, dataset, embedder, params)
    whiten = config.model.head_init == "pca_whitened"
    made = _pca(features.tobytes(), features.shape, config.model.embedding_dim, whiten)
    # Copies: a step takes the parameters' own memory.
    head = {name: x.copy() for name, x in made.items()}
    if jax.process_index() == 0:
      _write(workdir, key, head)
    return head

  return make


@functools.lru_cache(maxsize=2)
def _pca(features: bytes, shape: tuple[int, int], dim: int, whiten: bool) -> dict[str, np.ndarray]:
  """`heads.pca`, which takes seconds, once for runs on the same features, as a study has many."""
  return heads.pca(np.frombuffer(features, np.float32).reshape(shape), dim, whiten)


def kept_head(workdir: str) -> dict[str, np.ndarray]:
  """The head that a run of the workdir started from; UserError where its file is not there."""
  found = files.read_npz(os.path.join(workdir, FILE), ("kernel", "bias"), stage="train")
  return {name: found[name] for name in ("kernel", "bias")}


def _features(
  config: ConfigDict, dataset: Dataset, embedder: Embedder, params: dict[str, Any]
) -> np.ndarray:
  """[n, width] of some training images, as the linear layer gets them."""
  inputs = {name: x for name, x in params.items() if name not in ("embedding", "lora")}

  def features(p: Any, images: jax.Array) -> jax.Array:
    found: Any = embedder.apply({"params": p}, images, method="inputs")
    return found

  embed = devices.spread(features, inputs)
  size = config.evaluate.batch_size
  (found,), _ = embed_dataset([embed], sample(dataset, HEAD_IMAGES), config.data, size)
  return found


def _key(config: ConfigDict, dataset: Dataset, backbone: dict[str, Any]) -> str:
  data = {name: config.data[name] for name in ("image_size", "resize_size", "pad")}
  model = {name: x for name, x in config.model.items() if name not in _BEHIND}
  content = datasets.fingerprint(dataset), datasets.content_of(dataset)
  return files.fingerprint(
    *(_VERSION, HEAD_IMAGES, content, data, model, config.seed, checkpoints.flatten(backbone))
  )


def _read(workdir: str, key: str) -> dict[str, np.ndarray] | None:
  """The kept head, where it was made of the same."""
  path = os.path.join(workdir, FILE)
  if not os.path.exists(path):
    return None
  try:
    found = files.read_npz(path, ("kernel", "bias", "key"), stage=None)
  except UserError as error:
    logging.warning("%s; it is made again", error)
    return None
  same = str(found["key"]) == key
  return {name: found[name] for name in ("kernel", "bias")} if same else None


def _write(workdir: str, key: str, head: dict[str, np.ndarray]) -> None:
  path = os.path.join(workdir, FILE)
  try:
    files.write_npz(path, key=np.array(key), **head)
  except OSError as error:
    raise UserError(
      f"{path} cannot be written ({error.strerror}): pass another --workdir, or free space"
    ) from error
