"""Batches of decoded images, read ahead by grain in threads, or in worker processes.

Images stay uint8 RGB: the mean and standard deviation are applied on the device. A batch is a pure
function of its number, so that threads, workers, a resumed run and another number of hosts all give
the same bits. What a batch shows is a `sampling.Plan`; this module decodes and crops it.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lafg_jax.data import colours, decoders, images, pack, sampling, workers
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils import random_streams
from lafg_jax.utils.errors import UserError

Batch = dict[str, np.ndarray]
# A batch whose images are still missing, and what fills in row k of it. Rows may be filled in any
# order, by several threads.
Made = tuple[Batch, Callable[[int], None]]


def train_batches(
  dataset: Dataset,
  data: Any,
  plan: sampling.Plan,
  *,
  seed: int,
  start_step: int,
  num_steps: int,
  num_devices: int = 1,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields the batches of steps start_step to start_step + num_steps - 1, this process's share.

  A batch holds b = (B, padded to a multiple of `num_devices`) / `process_count` rows of the B rows
  of `plan`, padded with copies of row 0 (`sampling.process_rows`).
    image: uint8 [b, S, S, 3], cropped and flipped at random, S = data.image_size; then changed by
      `plan.change` where the row has a version.
    label: int32 [b], of `plan`.
    index: int32 [b], the row of the dataset that is shown; with a version K times it plus that.
    unreadable: int32 [b], the row that was to be shown and cannot be read, else -1. The first of
      `plan.stand_ins` that can be read is shown instead.

  The augmentation of a row depends on (seed, step, row of the global batch) alone.

  Args:
    dataset: images as paths or as arrays.
    data: the section `config.data`; reads image_size, resize_size, train_crop, crop_scale,
      crop_ratio, flip, color_jitter, scaled_decoding, pack, num_workers and prefetch.
    plan: which rows each batch shows.
    seed: of the augmentation; 0 or more.
    start_step: first step; > 0 where a run resumes.
    num_steps: how many batches to yield.
    num_devices: devices of all processes together.
    process_index: of this process.
    process_count: processes that share the global batch.

  Returns:
    An iterator that has close(); closing it, or dropping the last reference, ends its workers.

  Raises:
    UserError: an impossible setting; while iterating, no image can stand in for an unreadable one.
  """
  num_rows = len(plan.rows(start_step).row)
  rows = sampling.process_rows(num_rows, num_devices, process_index, process_count)
  if data.pack:
    dataset = pack.packed(dataset, data)
  make = functools.partial(
    _train_batch,
    dataset=dataset,
    plan=plan,
    rows=rows,
    size=data.image_size,
    open_=decoders.opener(data.scaled_decoding),
    augment=_augmentation(data),
    seed=seed,
  )
  return _iterate(start_step, start_step + num_steps, make, data)


def eval_batches(
  dataset: Dataset,
  data: Any,
  batch_size: int,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields all images once, in dataset order, resized and cropped at the centre.

  Of several processes each yields every `process_count`-th batch, all equally many. A batch holds
  B = `batch_size` rows, the last ones padded:
    image: uint8 [B, S, S, 3], zeros where there is none, S = data.image_size.
    index: int32 [B], row of the dataset; -1 for padding and for an image that cannot be read.
    unreadable: int32 [B], the row that cannot be read, else -1; its name is dataset.ids[row].

  Args:
    dataset: images as paths or as arrays.
    data: the section `config.data`; reads image_size, resize_size, num_workers and
      prefetch. Images are decoded whole: figures do not depend on data.scaled_decoding.
    batch_size: rows per batch.
    process_index: of this process.
    process_count: processes that share the batches.

  Returns:
    An iterator that has close(); closing it, or dropping the last reference, ends its workers.

  Raises:
    UserError: an impossible setting.
  """
  _check_sizes(data)
  crop = functools.partial(images.resize_centre_crop, resize=data.resize_size, size=data.image_size)
  make = functools.partial(
    _eval_batch,
    dataset=dataset,
    batch_size=batch_size,
    open_=images.open_image,
    crop=crop,
    size=data.image_size,
    first=process_index,
    every=process_count,
  )
  return _iterate(0, -(-len(dataset.labels) // (batch_size * process_count)), make, data)


def view_batches(
  dataset: Dataset,
  data: Any,
  ranges: Sequence[tuple[int, int]],
  batch_size: int,
  *,
  views: int,
  seed: int,
) -> Iterator[Batch]:
  """Yields views of images that are always the same: one batch for each of `ranges`.

  With k = max(views, 1) views an image, view v of dataset row i is number i k + v, and a range
  (first, last) asks for the numbers from `first` to last - 1, at most `batch_size` of them:
    image: uint8 [B, S, S, 3], zeros where there is none; B = `batch_size`, S = data.image_size.
    index: int32 [B], the row that is shown: as in training, the next readable one of the class
      stands in for an image that cannot be read; -1 for padding.

  Args:
    dataset: images as paths or as arrays.
    data: the section `config.data`, as for `train_batches`.
    ranges: the numbers wanted, a batch each.
    batch_size: rows per batch.
    views: random training crops of an image; 0 is its centre crop.
    seed: of the crops, which depend on (seed, view, row) alone.

  Raises:
    UserError: an impossible setting; while iterating, a class of which no image can be read.
  """
  _check_sizes(data)
  resize, size = data.resize_size, data.image_size
  crop = (
    _augmentation(data) if views else lambda img, _: images.resize_centre_crop(img, resize, size)
  )
  make = functools.partial(
    _view_batch,
    dataset=dataset,
    ranges=ranges,
    batch_size=batch_size,
    views=max(views, 1),
    # A centre crop is the one that evaluation sees.
    open_=decoders.opener(views > 0 and data.scaled_decoding),
    crop=crop,
    size=size,
    seed=seed,
  )
  return _iterate(0, len(ranges), make, data)


def _augmentation(data: Any) -> Callable[[Any, np.random.Generator], np.ndarray]:
  """augment(image, rng) -> uint8 [S, S, 3], as the config says; holds plain values only."""
  if data.train_crop == "random_resized":
    crop = functools.partial(
      images.random_resized_crop,
      size=data.image_size,
      scale=tuple(data.crop_scale),
      ratio=tuple(data.crop_ratio),
    )
  elif data.train_crop == "resize_crop":
    _check_sizes(data)
    crop = functools.partial(
      images.resize_random_crop, resize=data.resize_size, size=data.image_size
    )
  else:
    raise UserError(
      f"data.train_crop='{data.train_crop}': choose 'random_resized' or 'resize_crop'"
    )
  return functools.partial(_augment, crop=crop, flip=bool(data.flip), jitter=data.color_jitter)


def _augment(
  img: Any,
  rng: np.random.Generator,
  *,
  crop: Callable[..., np.ndarray],
  flip: bool,
  jitter: float,
) -> np.ndarray:
  shown = crop(img, rng)
  if flip:
    shown = images.flip(shown, rng)
  return colours.jittered(shown, rng, jitter) if jitter else shown


def _check_sizes(data: Any) -> None:
  if data.resize_size < data.image_size:
    raise UserError(
      f"data.resize_size={data.resize_size} is smaller than data.image_size={data.image_size}: the "
      f"crop does not fit; pass --config.data.resize_size={data.image_size} or more"
    )


def _train_batch(
  step: int,
  *,
  dataset: Dataset,
  plan: sampling.Plan,
  rows: np.ndarray,
  size: int,
  open_: Callable[[Any], Any],
  augment: Callable[[Any, np.random.Generator], np.ndarray],
  seed: int,
) -> Made:
  wanted = plan.rows(step)
  batch: Batch = {
    "image": np.empty((len(rows), size, size, 3), np.uint8),
    "label": wanted.label[rows].astype(np.int32),
    "index": np.empty(len(rows), np.int32),
    "unreadable": np.full(len(rows), -1, np.int32),
  }

  def fill(k: int) -> None:
    place = int(rows[k])
    row, version = int(wanted.row[place]), int(wanted.version[place])

    def show(other: int) -> np.ndarray:
      img = images.source_of_dataset(dataset, other, open_)
      pixels = augment(img, random_streams.augmentation(seed, step, place))
      return pixels if version < 0 else plan.change(pixels, other, version)

    batch["image"][k], shown = _first_readable(show, row, plan.stand_ins(wanted, place))
    batch["index"][k] = shown if version < 0 else shown * plan.versions + version
    if shown != row:
      batch["unreadable"][k] = row

  return batch, fill


def _first_readable(
  show: Callable[[int], np.ndarray], wanted: int, others: Iterator[int]
) -> tuple[np.ndarray, int]:
  """show(row) of `wanted`, or of the first of `others` that can be read; and that row."""
  for row in itertools.chain([wanted], others):
    with contextlib.suppress(images.UnreadableImage):
      return show(row), row
  raise AssertionError("stand-ins end with an error")


def _eval_batch(
  number: int,
  *,
  dataset: Dataset,
  batch_size: int,
  open_: Callable[[Any], Any],
  crop: Callable[..., np.ndarray],
  size: int,
  first: int,
  every: int,
) -> Made:
  batch = _blank(batch_size, size) | {"unreadable": np.full(batch_size, -1, np.int32)}
  start = (first + number * every) * batch_size

  def fill(k: int) -> None:
    if start + k >= len(dataset):
      return
    try:
      batch["image"][k] = crop(images.source_of_dataset(dataset, start + k, open_))
      batch["index"][k] = start + k
    except images.UnreadableImage:
      batch["unreadable"][k] = start + k

  return batch, fill


def _view_batch(
  number: int,
  *,
  dataset: Dataset,
  ranges: Sequence[tuple[int, int]],
  batch_size: int,
  views: int,
  open_: Callable[[Any], Any],
  crop: Callable[[Any, np.random.Generator], np.ndarray],
  size: int,
  seed: int,
) -> Made:
  batch, wanted = _blank(batch_size, size), range(*ranges[number])

  def fill(k: int) -> None:
    if k >= len(wanted):
      return
    first, view = divmod(wanted[k], views)

    def show(row: int) -> np.ndarray:
      img = images.source_of_dataset(dataset, row, open_)
      return crop(img, random_streams.view(seed, view, first))

    others = sampling.of_the_same_class(dataset, first)
    batch["image"][k], batch["index"][k] = _first_readable(show, first, others)

  return batch, fill


def _blank(batch_size: int, size: int) -> Batch:
  image = np.zeros((batch_size, size, size, 3), np.uint8)
  return {"image": image, "index": np.full(batch_size, -1, np.int32)}


def _iterate(start: int, stop: int, make: Callable[[int], Made], data: Any) -> Iterator[Batch]:
  """make(start), ..., make(stop - 1), read ahead as data.num_workers and data.prefetch say."""
  if data.num_workers < 0 or data.prefetch < 0:
    raise UserError(
      f"data.num_workers={data.num_workers} and data.prefetch={data.prefetch}: must be 0 or more"
    )
  if data.num_workers:
    ahead = max(1, -(-data.prefetch // data.num_workers))
    whole = functools.partial(_filled, make=make)
    return _opened(workers.batches(whole, range(start, stop), data.num_workers, ahead))
  # Here, because worker processes import this module, and grain would bring jax into each of them.
  import grain

  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  pool = concurrent.futures.ThreadPoolExecutor(cores, "lafg_jax-decode")
  # A task costs as much as a small image, so that each takes several; and cores end together.
  filled = functools.partial(_filled, make=make, each=pool.map, tasks=4 * cores)
  batches = grain.MapDataset.range(start, stop).map(filled)
  # Two batches are under way at a time: while the last images of one are decoded, cores that are
  # free begin the next. grain's threads only wait for those of the pool.
  options = grain.ReadOptions(num_threads=min(data.prefetch, 2), prefetch_buffer_size=data.prefetch)
  return _opened(batches.to_iter_dataset(options), pool)


def _filled(
  number: int, *, make: Callable[[int], Made], each: Callable[..., Iterable] = map, tasks: int = 1
) -> Batch:
  """Batch `number`, its images decoded in so many tasks, which `each` runs."""
  batch, fill = make(int(number))

  def fill_part(first: int) -> None:
    for k in range(first, len(batch["index"]), tasks):
      fill(k)

  for _ in each(fill_part, range(tasks)):
    pass
  return batch


_open_readers: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _close_readers() -> None:
  """Ends workers while the modules that this takes are still there."""
  for reader in list(_open_readers):
    if not reader.gi_running:
      reader.close()


def _opened(batches: Iterable[Batch], pool: Any = None) -> Iterator[Batch]:
  """Goes over batches: close() and garbage collection stop what runs behind them."""

  def read() -> Iterator[Batch]:
    iterator: Any = iter(batches)
    try:
      yield from iterator
    finally:
      iterator.close()
      if pool is not None:
        pool.shutdown(wait=False, cancel_futures=True)

  reader = read()
  _open_readers.add(reader)
  return reader
