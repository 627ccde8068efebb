"""Training on a frozen backbone: its features are computed once, kept on disk, and batched.

`<workdir>/features/<key>/00000.npz`, ... hold the features of the training images in dataset order.
The key is a hash of all that decides them: images, crops, the backbone and its weights. Files are
written whole, so that a rerun after a kill goes on with the next one. The folder may be deleted.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import datasets, pipeline, sampling
from lafg_jax.data.datasets import Dataset
from lafg_jax.models.embedder import Embedder
from lafg_jax.runtime import devices
from lafg_jax.training import checkpoints
from lafg_jax.utils import files, random_streams
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.progress import Progress

FOLDER = "features"
# Images in a file: at most so many are computed again after a kill.
CHUNK = 1024
# Part of the key: raised when this code gives other features of the same inputs.
_VERSION = 2
# Keys of the model that act after the features, or whose effect is in the hash of the weights.
_NOT_OF_FEATURES = ("embedding_dim", "embedding_norm", "pretrained")

# Features [n, k, width] float32, and [n] int32, the rows of the dataset that they are of.
Chunk = tuple[np.ndarray, np.ndarray]


def features(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset,
  embedder: Embedder,
  params: dict[str, Any],
  stopped: Callable[[], bool] = lambda: False,
) -> Chunk | None:
  """The backbone's features of all images, read from the workdir, or computed and kept there.

  `stopped` is asked after every batch; once it says yes, the unfinished file is dropped.

  Returns:
    [n, k, width] float32 for the k views of each image in dataset order, and [n] int32, the row
    that is shown: another one of its class where an image cannot be read. None where it was
    stopped; a rerun goes on after the files that are there.

  Raises:
    UserError: no image of a class can be read, or the workdir cannot be written to.
  """
  backbone, count = params["backbone"], len(dataset.labels)
  folder = Path(workdir, FOLDER, _key(config, dataset, backbone)[:16])
  shape = (max(config.train.feature_views, 1), embedder.backbone.width)
  starts = range(0, count, CHUNK)
  chunks: dict[int, Chunk] = {}
  for start in starts:
    chunk = _read(folder, start, (min(CHUNK, count - start), *shape))
    if chunk is not None:
      chunks[start] = chunk
  missing = [start for start in starts if start not in chunks]
  if missing:
    logging.info("features: %d of %d files are there already", len(chunks), len(starts))
    chunks |= _compute(config, folder, dataset, embedder, backbone, missing, stopped)
  if len(chunks) < len(starts):
    logging.info("features: stopped, %d of %d files are kept", len(chunks), len(starts))
    return None
  vectors, rows = zip(*(chunks[start] for start in starts), strict=True)
  return np.concatenate(vectors), np.concatenate(rows)


def _key(config: ConfigDict, dataset: Dataset, backbone: dict[str, Any]) -> str:
  data, views = config.data, config.train.feature_views
  crop = {"resize_size": data.resize_size, "pad": data.pad}
  if views:
    names = ("train_crop", "crop_scale", "crop_ratio", "flip", "color_jitter")
    crop |= {name: data[name] for name in names} | {"seed": config.seed}
  scaled = views > 0 and data.scaled_decoding
  in_memory = isinstance(dataset.images, np.ndarray) and dataset.images.dtype == np.uint8
  content = dataset.images if in_memory else datasets.content_of(dataset)
  model = {name: x for name, x in config.model.items() if name not in _NOT_OF_FEATURES}
  weights = checkpoints.flatten(backbone)
  return files.fingerprint(
    *(_VERSION, datasets.fingerprint(dataset), content, data.image_size, crop, scaled, views),
    *(model, weights),
  )


def _compute(config, folder, dataset, embedder, backbone, missing, stopped) -> dict[int, Chunk]:
  """The chunks that start at `missing`, each written when it is whole; fewer where stopped."""
  size, views = config.evaluate.batch_size, max(config.train.feature_views, 1)
  ends = {start: min(start + CHUNK, len(dataset.labels)) for start in missing}
  ranges = [
    (first, min(first + size, ends[start] * views))
    for start in missing
    for first in range(start * views, ends[start] * views, size)
  ]
  apply = devices.spread(
    lambda p, x: embedder.apply({"params": {"backbone": p}}, x, method="features"), backbone
  )
  batches: Any = pipeline.view_batches(
    dataset, config.data, ranges, size, views=config.train.feature_views, seed=config.seed
  )
  done, vectors, rows = {}, [], []
  total = sum(last - first for first, last in ranges)
  progress = Progress("features of the frozen backbone", total, "images")
  with contextlib.closing(batches), progress:
    for (first, last), batch in zip(ranges, batches, strict=True):
      vectors.append(apply(batch["image"])[: last - first])
      rows.append(batch["index"][: last - first])
      progress.add(last - first)
      start = first // views // CHUNK * CHUNK
      if last == ends[start] * views:
        shaped = np.concatenate(vectors).reshape(ends[start] - start, views, -1)
        done[start] = (shaped, np.concatenate(rows)[::views])
        _write(folder, start, done[start])
        vectors, rows = [], []
      if stopped():
        break
  return done


def _write(folder: Path, start: int, chunk: Chunk) -> None:
  # Every process computes all features; one writes.
  if jax.process_index() != 0:
    return
  try:
    files.write_npz(folder / f"{start // CHUNK:05d}.npz", features=chunk[0], rows=chunk[1])
  except OSError as error:
    raise UserError(
      f"{folder} cannot be written to ({error.strerror}): pass another --workdir, or free space"
    ) from error


def _read(folder: Path, start: int, shape: tuple[int, int, int]) -> Chunk | None:
  """A chunk of features of that shape, or None where its file is missing or damaged."""

  def is_sound(vectors: np.ndarray, rows: np.ndarray) -> bool:
    shapes = (vectors.shape, rows.shape) == (shape, shape[:1])
    return shapes and (vectors.dtype, rows.dtype) == (np.float32, np.int32)

  path = folder / f"{start // CHUNK:05d}.npz"
  return files.read_cached_npz(path, ("features", "rows"), is_sound)


def batches(
  config: ConfigDict, dataset: Dataset, cached: Chunk, start: int
) -> Iterator[dict[str, np.ndarray]]:
  """The batches of `pipeline.train_batches` from step `start` on, with features for images.

  In place of 'image', a batch has 'feature' [b, width] float32 of one view of each image, drawn by
  (seed, step, row).
  """
  (vectors, shown), data = cached, config.data
  batch_rows = sampling.make_sampler(
    dataset.labels,
    classes_per_batch=data.classes_per_batch,
    images_per_class=data.images_per_class,
    seed=config.seed,
  )
  size = data.classes_per_batch * data.images_per_class
  mine = sampling.process_rows(size, jax.device_count(), jax.process_index(), jax.process_count())
  for step in range(start, config.train.steps):
    rows = batch_rows(step).ravel()[mine].astype(np.int32)
    rng = random_streams.feature_views(config.seed, step)
    views = rng.integers(vectors.shape[1], size=size)[mine]
    yield {
      "feature": vectors[rows, views],
      "label": dataset.labels[rows].astype(np.int32),
      "index": shown[rows],
      "unreadable": np.where(shown[rows] == rows, np.int32(-1), rows),
    }
