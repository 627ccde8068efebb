"""Which images make up which batch: class-balanced, stateless, the same on any number of hosts.

A batch is N classes x m images. `batch(step)` depends on the seed and the step alone, so that a
resumed run needs no state of the sampler, and every process can compute the global batch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.utils.errors import UserError

# Last words of the seeds of the three kinds of draws. Not 0: NumPy pads short seeds with zeros, and
# the augmentation's are (seed, step, row).
_CLASS_STREAM, _IMAGE_STREAM, _RECOLOURED_STREAM = 1, 2, 4


def batch_labels(dataset: Any, data: Any) -> np.ndarray:
  """[n] int32: the classes that batches are made of; with data.instances each image is its own."""
  return np.arange(len(dataset), dtype=np.int32) if data.instances else dataset.labels


def make_sampler(
  labels: np.ndarray,
  *,
  classes_per_batch: int,
  images_per_class: int,
  seed: int,
  instances: bool = False,
) -> Callable[[int], np.ndarray]:
  """Returns `batch(step)`, the class-balanced batches of a training run.

  batch(step) is an int64 array [m, N] of positions in `labels`, slot-major: row a is slot a, column
  i is class i; all of column i are of one class and the N classes are distinct. It is a pure
  function of (seed, step).

  A class epoch is C // N steps, in which no class appears twice (the C % N classes left over differ
  from epoch to epoch). Of each class, m images are set aside per class epoch, in the order of a
  permutation that is drawn anew every n_c // m class epochs: within such a pass no image repeats. A
  class with fewer than m images gives all of them, then repeats them up to m.

  Args:
    labels: int [n], the class of each image.
    classes_per_batch: N.
    images_per_class: m.
    seed: 0 or more.
    instances: each image is a class of its own, whose repeats are meant: nothing is warned of.

  Raises:
    UserError: N or m is below 1, the seed is negative, or there are fewer than N classes.
  """
  classes, counts = np.unique(labels, return_counts=True)
  _check(len(classes), classes_per_batch, images_per_class, seed)
  members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
  steps_per_class_epoch = len(classes) // classes_per_batch
  if (num_small := int(np.sum(counts < images_per_class))) and not instances:
    logging.warning(
      "%d of %d classes have fewer than data.images_per_class=%d images: theirs repeat in a batch",
      num_small,
      len(classes),
      images_per_class,
    )

  def class_images(index: int, turn: int) -> np.ndarray:
    rows = members[index]
    turns_per_pass = max(1, len(rows) // images_per_class)
    pass_, turn_in_pass = divmod(turn, turns_per_pass)
    rng = np.random.default_rng([seed, index, pass_, _IMAGE_STREAM])
    first = turn_in_pass * images_per_class
    return np.resize(rng.permutation(rows)[first : first + images_per_class], images_per_class)

  def batch(step: int) -> np.ndarray:
    epoch, step_in_epoch = divmod(int(step), steps_per_class_epoch)
    order = np.random.default_rng([seed, epoch, 0, _CLASS_STREAM]).permutation(len(classes))
    first = step_in_epoch * classes_per_batch
    chosen = order[first : first + classes_per_batch]
    return np.stack([class_images(int(index), epoch) for index in chosen], axis=1)

  return batch


def check_recoloured(num_images: int, per_batch: int) -> None:
  """Raises UserError if there are fewer images than `per_batch`, since a batch has each once."""
  if per_batch > num_images:
    raise UserError(
      f"data.recoloured_per_batch={per_batch}: there are {num_images} training images; pass "
      f"--config.data.recoloured_per_batch={num_images} or less"
    )


def make_recoloured_sampler(
  num_images: int, *, per_batch: int, versions: int, seed: int
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
  """`batch(step) -> (rows [R], versions [R])`, int64: images whatever their class, each once.

  Stateless as the sampler of classes is.

  Args:
    num_images: of the data set.
    per_batch: R, 0 or more.
    versions: K, recolourings of each image.
    seed: 0 or more.

  Raises:
    UserError: there are fewer images than R.
  """
  check_recoloured(num_images, per_batch)

  def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, int(step), 0, _RECOLOURED_STREAM])
    return rng.choice(num_images, per_batch, replace=False), rng.integers(versions, size=per_batch)

  return batch


def _check(num_classes: int, classes_per_batch: int, images_per_class: int, seed: int) -> None:
  if classes_per_batch < 1:
    raise UserError(f"data.classes_per_batch={classes_per_batch}: must be 1 or more")
  if images_per_class < 1:
    raise UserError(f"data.images_per_class={images_per_class}: must be 1 or more")
  if seed < 0:
    raise UserError(f"the seed of the batches is {seed}: must be 0 or more")
  if classes_per_batch > num_classes:
    raise UserError(
      f"data.classes_per_batch={classes_per_batch}: only {num_classes} training classes (with "
      f"data.instances, images) are available; pass "
      f"--config.data.classes_per_batch={num_classes} or less"
    )


def process_rows(
  num_rows: int, num_devices_total: int, process_index: int = 0, process_count: int = 1
) -> np.ndarray:
  """The rows of the global batch that one process loads, in order: int64 [rows / process].

  The B = `num_rows` rows are padded to a multiple of `num_devices_total` by repeating row 0, and
  each process takes a contiguous part. Position k of all parts put together holds row k where
  k < B and padding from there on, which is what the loss masks by.

  Raises:
    ValueError: the processes do not have the same number of devices each.
  """
  if num_devices_total % process_count:
    raise ValueError(
      f"{num_devices_total} devices cannot be shared evenly by {process_count} hosts"
    )
  padded = -(-num_rows // num_devices_total) * num_devices_total
  share = padded // process_count
  rows = np.arange(process_index * share, (process_index + 1) * share)
  return np.where(rows < num_rows, rows, 0)
