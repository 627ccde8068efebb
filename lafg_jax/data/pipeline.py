"""Batches of decoded images, read ahead by grain in threads, or in worker processes.

Images stay uint8 RGB: the mean and standard deviation are applied on the device. A batch is a pure
function of its number, so that threads, workers, a resumed run and another number of hosts all give
the same bits. A `sampling.Plan` says what a training batch shows; this module decodes and crops it.
"""

import atexit
import concurrent.futures
import functools
import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.data import colours, decoders, images, pack, sampling, vectors, workers
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils import random_streams
from lafg_jax.utils.errors import UserError

Batch = dict[str, np.ndarray]


class _Shown(NamedTuple):
  """What one row of a batch shows."""

  row: int  # of the dataset
  stand_ins: Iterable[int]  # rows, of which the first readable one is shown if it cannot be read
  rng: Callable[[], np.random.Generator | None]  # of its random crop
  version: int = -1  # of `sampling.Rows`


# A batch without its images, and the function that says what row k shows; None leaves it blank.
_Planned = tuple[Batch, Callable[[int], _Shown | None]]


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
  of `plan`, padded with copies of row 0 (`sampling.process_rows`):
    image: uint8 [b, S, S, 3], cropped and flipped at random, S = data.image_size; then changed by
      `plan.change` where the row has a version.
    label: int32 [b], of `plan`.
    index: int32 [b], the row of the dataset that is shown; with a version K times it plus that.
    unreadable: int32 [b], the row that was planned and cannot be read, else -1. The first of
      `plan.stand_ins` that can be read is shown instead.

  The augmentation of a row depends on (seed, step, row of the global batch) alone. The iterator has
  close(): closing it, or dropping the last reference, ends its workers.

  Args:
    dataset: images as paths or as arrays; of vectors [n, D] 'image' is float32 [b, D].
    data: the section `config.data`; reads image_size, resize_size, train_crop, crop_scale,
      crop_ratio, flip, color_jitter, scaled_decoding, pack, num_workers and prefetch.
    plan: which rows each batch shows.
    seed: of the augmentation; 0 or more.
    start_step: first step; > 0 where a run resumes.
    num_steps: how many batches to yield.
    num_devices: devices of all processes together.
    process_index: of this process.
    process_count: processes that share the global batch.

  Raises:
    UserError: an impossible setting; while iterating, no image can stand in for an unreadable one.
  """
  num_rows = len(plan.rows(start_step).row)
  rows = sampling.process_rows(num_rows, num_devices, process_index, process_count)
  if vectors.held(dataset):
    steps = range(start_step, start_step + num_steps)
    return _opened(vectors.train_batches(dataset, plan, rows, steps))
  if data.pack:
    dataset = pack.packed(dataset, data)
  make = functools.partial(
    _filled,
    planned=functools.partial(_train_rows, plan=plan, rows=rows, seed=seed),
    dataset=dataset,
    open_=decoders.opener(data.scaled_decoding),
    crop=_augmentation(data),
    size=data.image_size,
    plan=plan,
  )
  return _iterate(range(start_step, start_step + num_steps), make, data)


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

  `data` is the section `config.data`; image_size, resize_size, pad, num_workers and prefetch are
  read. Images are decoded whole: figures do not depend on data.scaled_decoding. The iterator has
  close(), as that of `train_batches`. Raises UserError for an impossible setting.
  """
  if vectors.held(dataset):
    return _opened(vectors.eval_batches(dataset, batch_size, process_index, process_count))
  make = functools.partial(
    _filled,
    planned=functools.partial(_eval_rows, len(dataset), batch_size, process_index, process_count),
    dataset=dataset,
    open_=images.open_image,
    crop=_centre_crop(data),
    size=data.image_size,
  )
  return _iterate(range(-(-len(dataset) // (batch_size * process_count))), make, data)


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
    index: int32 [B], the row that is shown; -1 for padding. The next readable image of its class
      stands in for an image that cannot be read.
    unreadable: int32 [B], as in `train_batches`.

  Args:
    dataset: images as paths or as arrays.
    data: the section `config.data`, as for `train_batches`.
    ranges: the numbers wanted, a batch each.
    batch_size: rows per batch.
    views: random training crops of an image; 0 is its centre crop, as evaluation takes it.
    seed: of the crops, which depend on (seed, view, row) alone.

  Raises:
    UserError: an impossible setting; while iterating, a class of which no image can be read.
  """
  centre = _centre_crop(data)
  make = functools.partial(
    _filled,
    planned=functools.partial(_view_rows, dataset, ranges, batch_size, max(views, 1), seed),
    dataset=dataset,
    open_=decoders.opener(views > 0 and data.scaled_decoding),
    crop=_augmentation(data) if views else centre,
    size=data.image_size,
  )
  return _iterate(range(len(ranges)), make, data)


def _train_rows(step: int, *, plan: sampling.Plan, rows: np.ndarray, seed: int) -> _Planned:
  wanted = plan.rows(step)

  def shown(k: int) -> _Shown:
    place = int(rows[k])
    rng = functools.partial(random_streams.augmentation, seed, step, place)
    row, version = int(wanted.row[place]), int(wanted.version[place])
    return _Shown(row, plan.stand_ins(wanted, place), rng, version)

  return _blank(len(rows)) | {"label": wanted.label[rows].astype(np.int32)}, shown


def _eval_rows(num_images: int, batch_size: int, first: int, every: int, number: int) -> _Planned:
  start = (first + number * every) * batch_size

  def shown(k: int) -> _Shown | None:
    return _Shown(start + k, (), lambda: None) if start + k < num_images else None

  return _blank(batch_size), shown


def _view_rows(
  dataset: Dataset,
  ranges: Sequence[tuple[int, int]],
  batch_size: int,
  views: int,
  seed: int,
  number: int,
) -> _Planned:
  wanted = range(*ranges[number])

  def shown(k: int) -> _Shown | None:
    if k >= len(wanted):
      return None
    row, view = divmod(wanted[k], views)
    rng = functools.partial(random_streams.view, seed, view, row)
    return _Shown(row, sampling.of_the_same_class(dataset, row), rng)

  return _blank(batch_size), shown


def _blank(rows: int) -> Batch:
  return {name: np.full(rows, -1, np.int32) for name in ("index", "unreadable")}


def _centre_crop(data: Any) -> Callable[[Any, Any], np.ndarray]:
  """crop(image, unused) -> uint8 [S, S, 3]."""
  _check_sizes(data)
  resize, size, pad = data.resize_size, data.image_size, data.pad
  return lambda img, _: images.resize_centre_crop(img, resize, size, pad)


def _augmentation(data: Any) -> Callable[[Any, np.random.Generator], np.ndarray]:
  """augment(image, rng) -> uint8 [S, S, 3], as the config says."""
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
  flip, jitter = bool(data.flip), data.color_jitter

  def augment(img: Any, rng: np.random.Generator) -> np.ndarray:
    shown = images.flip(crop(img, rng), rng) if flip else crop(img, rng)
    return colours.jittered(shown, rng, jitter) if jitter else shown

  return augment


def _check_sizes(data: Any) -> None:
  if data.resize_size < data.image_size:
    raise UserError(
      f"data.resize_size={data.resize_size} is smaller than data.image_size={data.image_size}: the "
      f"crop does not fit; pass --config.data.resize_size={data.image_size} or more"
    )


def _iterate(numbers: range, make: Callable[..., Batch], data: Any) -> Iterator[Batch]:
  """make(n) for each of `numbers`, read ahead as data.num_workers and data.prefetch say."""
  if data.num_workers < 0 or data.prefetch < 0:
    raise UserError(
      f"data.num_workers={data.num_workers} and data.prefetch={data.prefetch}: must be 0 or more"
    )
  if data.num_workers:
    ahead = max(1, -(-data.prefetch // data.num_workers))
    return _opened(workers.batches(make, numbers, data.num_workers, ahead))
  # Imported here: worker processes import this module, and grain imports jax.
  import grain

  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  pool = concurrent.futures.ThreadPoolExecutor(cores, "lafg_jax-decode")
  # A task costs as much as a small image: each decodes several. With 4 a core, cores end together.
  filled = functools.partial(make, each=pool.map, tasks=4 * cores)
  batches = grain.MapDataset.range(numbers.start, numbers.stop).map(filled)
  # Two batches are made at a time: while the last images of one are decoded, idle cores begin the
  # next. grain's threads only wait for those of the pool.
  options = grain.ReadOptions(num_threads=min(data.prefetch, 2), prefetch_buffer_size=data.prefetch)
  return _opened(batches.to_iter_dataset(options), pool)


def _filled(
  number: int,
  *,
  planned: Callable[[int], _Planned],
  dataset: Dataset,
  open_: Callable[..., Any],
  crop: Callable[[Any, Any], np.ndarray],
  size: int,
  plan: sampling.Plan | None = None,
  each: Callable[..., Iterable] = map,
  tasks: int = 1,
) -> Batch:
  """Batch `number`, its images decoded in so many tasks, which `each` runs."""
  batch, shown = planned(int(number))
  count = len(batch["index"])
  # Every row of a training batch shows an image: nothing has to be blank.
  batch["image"] = (np.zeros if plan is None else np.empty)((count, size, size, 3), np.uint8)

  def fill(k: int, of: _Shown) -> None:
    for row in itertools.chain([of.row], of.stand_ins):
      try:
        pixels = crop(images.source_of_dataset(dataset, row, open_), of.rng())
      except images.UnreadableImage:
        batch["unreadable"][k] = of.row
        continue
      batch["image"][k], batch["index"][k] = pixels, row
      if plan is not None and of.version >= 0:
        batch["image"][k] = plan.change(pixels, row, of.version)
        batch["index"][k] = row * plan.versions + of.version
      return

  def fill_part(first: int) -> None:
    for k in range(first, count, tasks):
      if (of := shown(k)) is not None:
        fill(k, of)

  for _ in each(fill_part, range(tasks)):
    pass
  return batch


_open_readers: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _close_readers() -> None:
  """Ends workers while the modules that this needs are still loaded."""
  for reader in list(_open_readers):
    if not reader.gi_running:
      reader.close()


def _opened(batches: Iterable[Batch], pool: Any = None) -> Iterator[Batch]:
  """Yields the batches; close() and garbage collection stop what makes them."""

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
