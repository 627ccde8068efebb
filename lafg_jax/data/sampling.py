"""Which images a batch has: class-balanced, stateless, the same on any number of hosts.

A batch is N classes x m images. `batch(step)` depends on the seed and the step alone, so that a
resumed run needs no state of the sampler, and every process can compute the global batch.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lafg_jax.utils import random_streams
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError


class Rows(NamedTuple):
  """The B rows of a global batch, each field int [B]."""

  row: np.ndarray  # of the dataset
  label: np.ndarray  # rows of one label are positives; -1 is of no class
  version: np.ndarray  # the row is shown in this version, from 0 on; -1 shows the image unchanged


class Plan(NamedTuple):
  """What the batches of a run show. All functions are pure, and cloudpickle can pickle them."""

  rows: Callable[[int], Rows]  # of a step
  # (rows of a step, place in the batch) -> rows of the dataset, in order, that may stand in there
  # for an image that cannot be read; raises UserError when none is left.
  stand_ins: Callable[[Rows, int], Iterator[int]]
  # (uint8 [S, S, 3], row of the dataset, version) -> uint8 [S, S, 3].
  change: Callable[[np.ndarray, int, int], np.ndarray]
  versions: int  # K, of each row


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
    instances: each image is a class of its own, which repeats on purpose: no warning of repeats.

  Raises:
    UserError: N or m is below 1, the seed is negative, or there are fewer than N classes.
  """
  classes, counts = np.unique(labels, return_counts=True)
  for name, value, least in (
    ("data.classes_per_batch=", classes_per_batch, 1),
    ("data.images_per_class=", images_per_class, 1),
    ("the seed of the batches is ", seed, 0),
  ):
    if value < least:
      raise UserError(f"{name}{value}: must be {least} or more")
  if classes_per_batch > len(classes):
    raise UserError(
      f"data.classes_per_batch={classes_per_batch}: only "
      f"{counted(len(classes), 'training class')} (with data.instances, images); pass "
      f"--config.data.classes_per_batch={len(classes)} or less"
    )
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
    rng = random_streams.images_of_class(seed, index, pass_)
    first = turn_in_pass * images_per_class
    return np.resize(rng.permutation(rows)[first : first + images_per_class], images_per_class)

  def batch(step: int) -> np.ndarray:
    epoch, step_in_epoch = divmod(int(step), steps_per_class_epoch)
    order = random_streams.classes(seed, epoch).permutation(len(classes))
    first = step_in_epoch * classes_per_batch
    chosen = order[first : first + classes_per_batch]
    return np.stack([class_images(int(index), epoch) for index in chosen], axis=1)

  return batch


def of_the_same_class(dataset: Any, row: int) -> Iterator[int]:
  """Rows that may stand in for an unreadable image: the others of its class, the next one first.

  Raises UserError when no other is left.
  """
  members = np.flatnonzero(dataset.labels == dataset.labels[row])
  yield from np.roll(members, -1 - int(np.searchsorted(members, row)))[:-1].tolist()
  raise UserError(
    f"no image of class '{dataset.class_names[dataset.labels[row]]}' can be read, e.g. "
    f"{dataset.ids[row]}: fetch its images again, or remove the class"
  )


def process_rows(
  num_rows: int, num_devices_total: int, process_index: int = 0, process_count: int = 1
) -> np.ndarray:
  """The rows of the global batch that one process loads, in order: int64 [rows / process].

  The B = `num_rows` rows are padded to a multiple of `num_devices_total` by repeating row 0, and
  each process takes a contiguous part. Position k of all parts together holds row k where k < B,
  else padding, which the loss masks. Raises ValueError where the processes cannot have the same
  number of devices each.
  """
  if num_devices_total % process_count:
    raise ValueError(
      f"{num_devices_total} devices cannot be shared evenly by {process_count} hosts"
    )
  padded = -(-num_rows // num_devices_total) * num_devices_total
  share = padded // process_count
  rows = np.arange(process_index * share, (process_index + 1) * share)
  return np.where(rows < num_rows, rows, 0)
