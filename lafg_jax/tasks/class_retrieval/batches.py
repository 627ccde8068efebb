"""Batches of class retrieval: N x m images of classes, then R recoloured images.

`resolve` puts numbers in place of 'auto', once, before a run; `plan` makes the batches.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import colours, datasets, sampling
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils import random_streams
from lafg_jax.utils.errors import UserError

# Images of a batch that is 'auto', and images of a class, at most.
AUTO_BATCH, AUTO_IMAGES = 128, 8


def resolve(config: ConfigDict) -> ConfigDict:
  """A copy of a whole config with numbers where data.classes_per_batch or images_per_class is 0.

  Both are pure functions of how many images each training class has: m is the median, from 2 to
  AUTO_IMAGES; N is all classes, or as many as fill AUTO_BATCH images. Resolving twice changes
  nothing. Raises UserError where the data set cannot be loaded.
  """
  config = config.copy_and_resolve_references()
  data = config.data
  keys = [key for key in ("classes_per_batch", "images_per_class") if not data[key]]
  if not keys:
    return config
  dataset = datasets.load_splits(data, ("train",))["train"]
  counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
  counts = np.minimum(counts, data.max_images_per_class or counts)
  median = int(np.median(counts)) if len(counts) else 0
  classes, usual = (len(dataset), 2) if data.instances else (len(counts), median)
  images = data.images_per_class or min(max(usual, 2), AUTO_IMAGES)
  data.images_per_class = images
  if not data.classes_per_batch:
    data.classes_per_batch = max(2, min(classes, AUTO_BATCH // images))
  logging.info(
    "batch: %d classes x %d images (%s auto: %d training classes with a median of %d images)",
    *(data.classes_per_batch, images, " and ".join(f"data.{key}" for key in keys)),
    *(len(counts), median),
  )
  return config


def some(dataset: Dataset, config: ConfigDict) -> Dataset:
  """At most data.max_images_per_class images of each class, a pure function of seed and labels.

  They keep their order. Fewer images of a seed are among the more of it.
  """
  most = config.data.max_images_per_class
  if not most:
    return dataset
  kept = [
    random_streams.some_images(config.seed, label).permutation(rows)[:most]
    for label in range(len(dataset.class_names))
    if len(rows := np.flatnonzero(dataset.labels == label))
  ]
  rows = np.sort(np.concatenate(kept))
  told = len(rows), len(dataset), most
  logging.info("train: %d of %d images (data.max_images_per_class=%d)", *told)
  return datasets.some_rows(dataset, rows)


def plan(dataset: Dataset, data: Any, seed: int) -> sampling.Plan:
  """The rows of each batch, for `pipeline.train_batches`: B = N m + R.

  Rows 0 to N m - 1 are of classes, slot-major (`sampling.make_sampler`). Their label is an index
  into dataset.class_names; with data.instances each image is a class of its own, and the label is
  its row. R recoloured rows follow, with label -1: any training images, each once, in one of K
  versions.

  The next readable image of the class, in dataset order, replaces an unreadable one; with
  data.instances one that the batch does not show (`_outside`), under the label of the one replaced.

  Args:
    data: the section `config.data`; reads classes_per_batch (N), images_per_class (m), instances,
      recoloured_per_batch (R) and recolourings (K).
    seed: of the samplers; 0 or more.

  Raises UserError where there are fewer classes than N, or fewer images than R.
  """
  classes, size = data.classes_per_batch, data.classes_per_batch * data.images_per_class
  instances, recoloured, versions = data.instances, data.recoloured_per_batch, data.recolourings
  labels = np.arange(len(dataset)) if instances else dataset.labels
  of_classes = sampling.make_sampler(
    labels,
    classes_per_batch=classes,
    images_per_class=data.images_per_class,
    seed=seed,
    instances=instances,
  )
  check_recoloured(len(dataset), recoloured)

  def rows(step: int) -> sampling.Rows:
    own, rng = of_classes(step).ravel(), random_streams.recoloured_rows(seed, step)
    others = rng.choice(len(dataset), recoloured, replace=False)
    version = rng.integers(versions, size=recoloured)
    return sampling.Rows(
      np.concatenate([own, others]),
      np.concatenate([labels[own], np.full(recoloured, -1)]),
      np.concatenate([np.full(size, -1), version]),
    )

  def stand_ins(wanted: sampling.Rows, place: int) -> Iterator[int]:
    if instances and place < size:
      return _outside(dataset, wanted.row[:size], place % classes, classes)
    return sampling.of_the_same_class(dataset, int(wanted.row[place]))

  return sampling.Plan(rows, stand_ins, colours.recoloured, versions)


def _outside(dataset: Dataset, shown: np.ndarray, column: int, columns: int) -> Iterator[int]:
  """Rows that may replace the image of a column, where each image is a class of its own.

  An image that the batch shows already would be a negative of itself. So the images that it does
  not show are dealt out to the columns in turn. All slots of a column find the same one, no two
  columns do, and no process has to know what another could read.
  `shown` is int [m N], rows of the dataset, slot-major; `column`, from 0 on, is that of the
  unreadable image; `columns` is N. Raises UserError where the column has no image left.
  """
  free, row = np.setdiff1d(np.arange(len(dataset)), shown), shown[column]
  mine = free[column::columns]
  yield from np.roll(mine, -int(np.searchsorted(mine, row))).tolist()
  raise UserError(
    f"{dataset.ids[row]} cannot be read, nor any image that could take its place: with "
    "data.instances only those outside of a batch can; fetch it again, or pass a smaller "
    "--config.data.classes_per_batch"
  )


def check_recoloured(num_images: int, per_batch: int) -> None:
  """Raises UserError if there are fewer images than `per_batch`, since a batch has each once."""
  if per_batch > num_images:
    raise UserError(
      f"data.recoloured_per_batch={per_batch}: there are {num_images} training images; pass "
      f"--config.data.recoloured_per_batch={num_images} or less"
    )
