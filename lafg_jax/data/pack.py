"""Training images that are decoded and resized once, and then mapped into memory.

A pack is a folder of two files: `pixels`, the uint8 RGB of all images one after the other, and
`index`, a record for each image: its start in `pixels`, its height and width, and those before it
was resized. An image that cannot be read has height 0. Processes of a machine share the mapped
pages. The name of a pack depends on the content of the dataset and on the size. It is built under a
temporary name, so that a folder of the final name is complete.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from lafg_jax.data import datasets, images
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils import files, locks
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.progress import Progress

FORMAT = 2
_SIZES = ("height", "width", "height_before", "width_before")
_RECORD = np.dtype([("start", "<i8"), *((name, "<i4") for name in _SIZES)])
# Images that are written together: at most so many are made again after a stop.
_CHUNK = 64


def side(data: Any) -> int:
  """Pixels of the shorter side in a pack; smaller images keep their size.

  'resize_crop' resizes to data.resize_size. Random resized crops show a part of the image: for them
  a quarter more pixels keep some of its detail.
  """
  return data.resize_size if data.train_crop == "resize_crop" else data.resize_size * 5 // 4


def packed(dataset: Dataset, data: Any) -> Dataset:
  """The dataset with its images, cut to their boxes, in a pack below data.pack; built if missing.

  Of the section `config.data` it reads pack, train_crop, resize_size and num_workers (threads that
  build; 0 takes one a core).

  Raises:
    UserError: the pack is damaged.
    OSError: the folder cannot be written.
  """
  content = f"{FORMAT} {side(data)} {datasets.content_of(dataset)}"
  name = f"{dataset.name}-{dataset.split}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
  root = Path(os.path.expanduser(data.pack))
  folder = root / name
  root.mkdir(parents=True, exist_ok=True)
  # Other processes wait for the one that builds the pack.
  with locks.locked(root / f".{name}.lock"):
    if not folder.is_dir():
      with files.naming(root / f"{name}.partial"):
        _build(dataset, root / f"{name}.partial", data)
      os.replace(root / f"{name}.partial", folder)
  count = len(_opened(str(folder))[1])
  if count != len(dataset):
    raise UserError(f"{folder} has {count} images, not {len(dataset)}: delete it")
  return dataclasses.replace(dataset, images=Packed(str(folder)), boxes=None)


@dataclasses.dataclass(frozen=True)
class Packed:
  """The images of a pack; [row] is an images.Shrunk with read-only pixels in mapped memory."""

  folder: str

  def __len__(self) -> int:
    return len(_opened(self.folder)[1])

  def __getitem__(self, row: int) -> images.Shrunk:
    pixels, index = _opened(self.folder)
    start, height, width, *before = index[row].tolist()
    if not height:
      raise images.UnreadableImage(f"image {row} could not be read when {self.folder} was made")
    image = pixels[start : start + 3 * height * width].reshape(height, width, 3)
    return images.Shrunk(image, width=before[1], height=before[0])


@functools.cache
def _opened(folder: str) -> tuple[np.ndarray, np.ndarray]:
  """Pixels and index, opened once a process."""
  index = np.fromfile(os.path.join(folder, "index"), _RECORD)
  path = os.path.join(folder, "pixels")
  if _end(index) != os.path.getsize(path):
    raise UserError(f"{path} is damaged: delete {folder}, and it is made again")
  # An empty file cannot be mapped.
  pixels = np.memmap(path, np.uint8, "r") if _end(index) else np.empty(0, np.uint8)
  return np.asarray(pixels), index


def _end(index: np.ndarray) -> int:
  """Where the pixels of the last image end."""
  start, height, width, *_ = index[-1].tolist() if len(index) else (0, 0, 0)
  return start + 3 * height * width


def _build(dataset: Dataset, folder: Path, data: Any) -> None:
  """Fills the folder, from where an earlier attempt stopped."""
  folder.mkdir(exist_ok=True)
  make = functools.partial(_resized, dataset, side(data))
  with (
    open(folder / "pixels", "ab") as pixels,
    open(folder / "index", "ab") as index,
    concurrent.futures.ThreadPoolExecutor(data.num_workers or os.cpu_count()) as pool,
  ):
    done, end = _resume(folder, pixels, index)
    logging.info("pack: %s, shorter side %d px, from image %d", folder, side(data), done)
    with Progress("pack", len(dataset) - done, "images") as progress:
      for first in range(done, len(dataset), _CHUNK):
        rows = range(first, min(first + _CHUNK, len(dataset)))
        records = np.zeros(len(rows), _RECORD)
        for k, (image, width, height) in enumerate(pool.map(make, rows)):
          records[k] = end, *image.shape[:2], height, width
          pixels.write(image.data)
          end += image.size
        # In this order: pixels that the index names are on disk.
        _to_disk(pixels)
        index.write(records.tobytes())
        _to_disk(index)
        progress.add(len(rows))


def _resized(dataset: Dataset, side: int, row: int) -> images.Shrunk:
  """The image, made smaller; pixels [0, 0, 3] for one that cannot be read."""
  try:
    img = images.of_dataset(dataset, row)
    pixels = np.ascontiguousarray(images.resize_shorter(img, side))
    return images.Shrunk(pixels, *images.size_of(img))
  except images.UnreadableImage as error:
    logging.warning("pack: left out: %s", error)
    return images.Shrunk(np.empty((0, 0, 3), np.uint8), 0, 0)


def _resume(folder: Path, pixels: BinaryIO, index: BinaryIO) -> tuple[int, int]:
  """Cuts both files to the images that are complete in both; their number, and where they end."""
  size = os.path.getsize(folder / "pixels")
  # A record that was written in part is left out.
  records = np.fromfile(folder / "index", _RECORD)
  while _end(records) > size:
    records = records[:-1]
  index.truncate(records.nbytes)
  pixels.truncate(_end(records))
  return len(records), _end(records)


def _to_disk(file: BinaryIO) -> None:
  file.flush()
  os.fsync(file.fileno())
