"""Batches of decoded images, read ahead by grain in threads, or in worker processes.

Images stay uint8 RGB: the mean and standard deviation are applied on the device. A batch is a pure
function of its number, so that threads, workers, a resumed run and another number of hosts all give
the same bits.
"""

import atexit
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lafg_jax.data import colours, decoders, images, pack, sampling, workers
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils.errors import UserError

Batch = dict[str, np.ndarray]

# Last word of the seeds of fixed views; `train_batches` and `sampling` have others.
_VIEW_STREAM = 3


def train_batches(
  dataset: Dataset,
  data: Any,
  *,
  seed: int,
  start_step: int,
  num_steps: int,
  num_devices: int = 1,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields the batches of steps start_step to start_step + num_steps - 1, this process's share.

  A batch holds b = (N m + R, padded to a multiple of `num_devices`) / `process_count` rows, in the
  slot-major order of `sampling.make_sampler`, padded with copies of row 0 (`process_rows` there).
  Behind the N m rows of classes come R = data.recoloured_per_batch, any training images in other
  colours, before the padding.
    image: uint8 [b, S, S, 3], cropped and flipped at random, S = data.image_size.
    label: int32 [b], index into dataset.class_names; with data.instances the row of the dataset;
      -1 of a recoloured image.
    index: int32 [b], the row of the dataset that is shown; of a recoloured image K times that row
      plus the version, K = data.recolourings.
    unreadable: int32 [b], the row that was to be shown and cannot be read, else -1. The next
      readable image of its class, in dataset order, stands in for it.

  The augmentation of a row depends on (seed, step, row of the global batch) alone.

  Args:
    dataset: images as paths or as arrays.
    data: the section `config.data`; reads classes_per_batch, images_per_class, image_size,
      instances, recoloured_per_batch, recolourings, resize_size, train_crop, crop_scale,
      crop_ratio, flip, color_jitter, scaled_decoding, pack, num_workers and prefetch.
    seed: of the sampler and of the augmentation; 0 or more.
    start_step: first step; > 0 where a run resumes.
    num_steps: how many batches to yield.
    num_devices: devices of all processes together.
    process_index: of this process.
    process_count: processes that share the global batch.

  Returns:
    An iterator that has close(); closing it, or dropping the last reference, ends its workers.

  Raises:
    UserError: an impossible setting; while iterating, a class of which no image can be read.
  """
  labels = sampling.batch_labels(dataset, data)
  batch_rows = sampling.make_sampler(
    labels,
    classes_per_batch=data.classes_per_batch,
    images_per_class=data.images_per_class,
    seed=seed,
    instances=data.instances,
  )
  recoloured = sampling.make_recoloured_sampler(
    len(dataset), per_batch=data.recoloured_per_batch, versions=data.recolourings, seed=seed
  )
  num_rows = data.classes_per_batch * data.images_per_class + data.recoloured_per_batch
  rows = sampling.process_rows(num_rows, num_devices, process_index, process_count)
  if data.pack:
    dataset = pack.packed(dataset, data)
  make = functools.partial(
    _train_batch,
    dataset=dataset,
    labels=labels,
    batch_rows=batch_rows,
    recoloured=recoloured,
    versions=data.recolourings,
    rows=rows,
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
  if views:
    crop = _augmentation(data)
  else:
    crop = functools.partial(_centre, resize=data.resize_size, size=data.image_size)
  make = functools.partial(
    _view_batch,
    dataset=dataset,
    ranges=ranges,
    batch_size=batch_size,
    views=max(views, 1),
    # A centre crop is the one that evaluation sees.
    open_=decoders.opener(views > 0 and data.scaled_decoding),
    crop=crop,
    size=data.image_size,
    seed=seed,
  )
  return _iterate(0, len(ranges), make, data)


def _centre(img: Any, rng: np.random.Generator, *, resize: int, size: int) -> np.ndarray:
  del rng
  return images.resize_centre_crop(img, resize=resize, size=size)


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


def _show_or_next(
  dataset: Dataset, row: int, show: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, int]:
  """show(row), or of the next image of its class that can be read; and the row that was shown."""
  try:
    return show(row), row
  except images.UnreadableImage:
    pass
  same_class = np.flatnonzero(dataset.labels == dataset.labels[row])
  later = np.roll(same_class, -1 - int(np.searchsorted(same_class, row)))[:-1]
  for other in later:
    try:
      return show(int(other)), int(other)
    except images.UnreadableImage:
      continue
  raise UserError(
    f"no image of class '{dataset.class_names[dataset.labels[row]]}' can be read, e.g. "
    f"{dataset.ids[row]}: fetch its images again, or remove the class"
  )


def _train_batch(
  step: int,
  *,
  dataset: Dataset,
  labels: np.ndarray,
  batch_rows: Callable[[int], np.ndarray],
  recoloured: Callable[[int], tuple[np.ndarray, np.ndarray]],
  versions: int,
  rows: np.ndarray,
  open_: Callable[[Any], Any],
  augment: Callable[[Any, np.random.Generator], np.ndarray],
  seed: int,
) -> Batch:
  of_classes, (others, of_others) = batch_rows(step).ravel(), recoloured(step)
  wanted = np.concatenate([of_classes, others])[rows].astype(np.int32)
  # -1: in its own colours.
  every_version = np.concatenate([np.full(len(of_classes), -1), of_others])
  version = every_version[rows]
  pixels, used = [], wanted.copy()

  def show(row: int, place: int) -> np.ndarray:
    img = images.source_of_dataset(dataset, row, open_)
    shown = augment(img, np.random.default_rng([seed, int(step), place]))
    which = int(every_version[place])
    return colours.recoloured(shown, row, which) if which >= 0 else shown

  for k, place in enumerate(rows):
    shown, used[k] = _show_or_next(
      dataset, int(wanted[k]), functools.partial(show, place=int(place))
    )
    pixels.append(shown)
  return {
    "image": np.stack(pixels),
    "label": np.where(version < 0, labels[wanted], -1).astype(np.int32),
    "index": np.where(version < 0, used, used * versions + version).astype(np.int32),
    "unreadable": np.where(used == wanted, np.int32(-1), wanted),
  }


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
) -> Batch:
  batch: Batch = {
    "image": np.zeros((batch_size, size, size, 3), np.uint8),
    "index": np.full(batch_size, -1, np.int32),
    "unreadable": np.full(batch_size, -1, np.int32),
  }
  start = (first + int(number) * every) * batch_size
  for k, row in enumerate(range(start, min(start + batch_size, len(dataset.labels)))):
    try:
      batch["image"][k] = crop(images.source_of_dataset(dataset, row, open_))
      batch["index"][k] = row
    except images.UnreadableImage:
      batch["unreadable"][k] = row
  return batch


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
) -> Batch:
  batch: Batch = {
    "image": np.zeros((batch_size, size, size, 3), np.uint8),
    "index": np.full(batch_size, -1, np.int32),
  }

  def show(row: int, place: int, view: int) -> np.ndarray:
    img = images.source_of_dataset(dataset, row, open_)
    return crop(img, np.random.default_rng([seed, view, place, _VIEW_STREAM]))

  for k, wanted in enumerate(range(*ranges[int(number)])):
    row, view = divmod(wanted, views)
    shown = functools.partial(show, place=row, view=view)
    batch["image"][k], batch["index"][k] = _show_or_next(dataset, row, shown)
  return batch


def _iterate(start: int, stop: int, make: Callable[..., Batch], data: Any) -> Iterator[Batch]:
  """make(start), ..., make(stop - 1), read ahead as data.num_workers and data.prefetch say."""
  if data.num_workers < 0 or data.prefetch < 0:
    raise UserError(
      f"data.num_workers={data.num_workers} and data.prefetch={data.prefetch}: must be 0 or more"
    )
  if data.num_workers:
    ahead = max(1, -(-data.prefetch // data.num_workers))
    return _opened(workers.batches(make, range(start, stop), data.num_workers, ahead))
  # Here, because worker processes import this module, and grain would bring jax into each of them.
  import grain

  batches = grain.MapDataset.range(start, stop).map(make)
  threads = min(data.prefetch, os.cpu_count() or 1)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=data.prefetch)
  return _opened(batches.to_iter_dataset(options))


_open_readers: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _close_readers() -> None:
  """Ends workers while the modules that this takes are still there."""
  for reader in list(_open_readers):
    if not reader.gi_running:
      reader.close()


def _opened(batches: Iterable[Batch]) -> Iterator[Batch]:
  reader = _read(batches)
  _open_readers.add(reader)
  return reader


def _read(batches: Iterable[Batch]) -> Iterator[Batch]:
  """Goes over an iterator: close() and garbage collection stop what runs behind it."""
  iterator: Any = iter(batches)
  try:
    yield from iterator
  finally:
    iterator.close()
