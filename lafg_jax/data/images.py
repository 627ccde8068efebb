"""Reading and cropping photographs: files or arrays in, uint8 RGB arrays out.

Crops take a Pillow image or a uint8 array [H, W, 3], and give uint8 [size, size, 3] by Pillow's
bicubic filter, which widens its kernel when it shrinks an image (antialiasing). Each crop and its
resize are one call of `Image.resize(box=...)`: at the edge of a crop the filter sees the
pixels just outside it, as it does where a resized image is cropped afterwards.
"""

import io
import math
import os
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# What Pillow's decoders raise for damaged files, beside OSError: SyntaxError for broken PNG chunks,
# struct.error, IndexError and friends for headers and EXIF blocks that end early.
_DECODER_ERRORS = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  IndexError,
  KeyError,
  TypeError,
  ZeroDivisionError,
  OverflowError,
  struct.error,
  zlib.error,
  Image.DecompressionBombError,
)


class UnreadableImage(OSError):
  """A file that is missing, or that Pillow cannot decode to its last pixel."""


def of_dataset(dataset: Any, row: int) -> Image.Image:
  """Image `row` of a `datasets.Dataset`, cut to its box where the dataset has boxes.

  Raises:
    UnreadableImage: it cannot be read, or the box has no pixel of it.
  """
  try:
    return open_any(dataset.images[row], None if dataset.boxes is None else dataset.boxes[row])
  except UnreadableImage as error:
    raise UnreadableImage(f"{dataset.ids[row]}: {error}") from error


def open_any(image: Any, box: Sequence[float] | np.ndarray | None = None) -> Image.Image:
  """A path, the bytes of an image file, or uint8 [H, W, 3], as a Pillow image in mode RGB.

  Args:
    image: what is opened.
    box: left, top, right and bottom in pixels: what of it is wanted, None for all. A right or
      bottom of 0 or less counts from the far edge.

  Raises:
    UnreadableImage: it cannot be read, or the box has no pixel of it.
  """
  if isinstance(image, np.ndarray):
    img = Image.fromarray(image)
  else:
    img = open_image(image if isinstance(image, bytes) else str(image))
  if box is None:
    return img
  left, top, right, bottom = (int(x) for x in box)
  right, bottom = right + img.width * (right <= 0), bottom + img.height * (bottom <= 0)
  inside = max(left, 0), max(top, 0), min(right, img.width), min(bottom, img.height)
  if inside[0] >= inside[2] or inside[1] >= inside[3]:
    raise UnreadableImage(f"the box {(left, top, right, bottom)} lies outside {img.size} pixels")
  return img.crop(inside)


def open_image(path: str | os.PathLike | bytes) -> Image.Image:
  """Decodes a file, or its bytes, to a Pillow image in mode RGB, turned upright by its EXIF tag.

  Greyscale, CMYK and palette images are converted; 16-bit greyscale keeps its upper 8 bits; an
  alpha channel is dropped; of an animation the first frame is taken.

  Raises:
    UnreadableImage: the file is missing, empty, truncated, not an image, or larger than Pillow's
      limit against decompression bombs.
  """
  try:
    with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path) as img:
      img.load()
      return _to_rgb(ImageOps.exif_transpose(img))
  except _DECODER_ERRORS as error:
    where = f"of {len(path):,} bytes" if isinstance(path, bytes) else os.fspath(path)
    raise UnreadableImage(f"cannot read image {where}: {error}") from error


def _to_rgb(img: Image.Image) -> Image.Image:
  if img.mode == "I" or img.mode.startswith("I;16"):
    # Pillow's own conversion clips 16-bit values to 255 instead of scaling them.
    grey = np.clip(np.asarray(img).astype(np.int64), 0, 65535) >> 8
    img = Image.fromarray(grey.astype(np.uint8))
  if img.mode == "P" and "transparency" in img.info:
    img = img.convert("RGBA")
  return img.convert("RGB")


def read_image(path: str | os.PathLike) -> np.ndarray:
  """`open_image` as an array: uint8 [H, W, 3]. Raises UnreadableImage."""
  return np.array(open_image(path))


def random_resized_crop(
  img: Image.Image | np.ndarray,
  rng: np.random.Generator,
  size: int,
  scale: Sequence[float] = (0.2, 1.0),
  ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> np.ndarray:
  """A random part of the image, resized to a square: uint8 [size, size, 3].

  As torchvision's RandomResizedCrop: the area is uniform in `scale` (fractions of the image's),
  width / height log-uniform in `ratio`; after 10 draws that do not fit, the largest centred crop
  whose ratio is allowed.
  """
  img = _as_pillow(img)
  x, y, width, height = _random_box(img.width, img.height, rng, scale, ratio)
  return _resize_box(img, (x, y, x + width, y + height), size)


def _random_box(
  img_width: int,
  img_height: int,
  rng: np.random.Generator,
  scale: Sequence[float],
  ratio: Sequence[float],
) -> tuple[int, int, int, int]:
  """Left, top, width and height in pixels of a random-resized-crop."""
  low, high = math.log(ratio[0]), math.log(ratio[1])
  for _ in range(10):
    area = img_width * img_height * rng.uniform(scale[0], scale[1])
    aspect = math.exp(rng.uniform(low, high))
    width = round(math.sqrt(area * aspect))
    height = round(math.sqrt(area / aspect))
    if 0 < width <= img_width and 0 < height <= img_height:
      x = int(rng.integers(0, img_width - width + 1))
      y = int(rng.integers(0, img_height - height + 1))
      return x, y, width, height
  aspect = img_width / img_height
  width, height = img_width, img_height
  if aspect < ratio[0]:
    height = max(1, round(width / ratio[0]))
  elif aspect > ratio[1]:
    width = max(1, round(height * ratio[1]))
  return (img_width - width) // 2, (img_height - height) // 2, width, height


def resize_random_crop(
  img: Image.Image | np.ndarray, rng: np.random.Generator, resize: int, size: int
) -> np.ndarray:
  """Shorter side resized to `resize`, then a random crop: uint8 [size, size, 3].

  `size` must not be larger than `resize`.
  """
  img = _as_pillow(img)
  width, height = _resized(img, resize)
  x = int(rng.integers(0, width - size + 1))
  y = int(rng.integers(0, height - size + 1))
  return _crop_of_resized(img, (width, height), (x, y), size)


def resize_centre_crop(img: Image.Image | np.ndarray, resize: int, size: int) -> np.ndarray:
  """Shorter side resized to `resize`, then the centre: uint8 [size, size, 3].

  `size` must not be larger than `resize`.
  """
  img = _as_pillow(img)
  width, height = _resized(img, resize)
  offset = (width - size) // 2, (height - size) // 2
  return _crop_of_resized(img, (width, height), offset, size)


def flip(img: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The image [H, W, 3], mirrored left to right with probability 1/2."""
  return img[:, ::-1] if rng.random() < 0.5 else img


def _as_pillow(img: Image.Image | np.ndarray) -> Image.Image:
  return img if isinstance(img, Image.Image) else Image.fromarray(img)


def _resized(img: Image.Image, resize: int) -> tuple[int, int]:
  """Width and height once the shorter side is `resize`; the longer side is rounded down."""
  short = min(img.width, img.height)
  return resize * img.width // short, resize * img.height // short


def _crop_of_resized(
  img: Image.Image, resized: tuple[int, int], offset: tuple[int, int], size: int
) -> np.ndarray:
  """The square at `offset` of the image as it would be after resizing it to `resized`."""
  per_x, per_y = img.width / resized[0], img.height / resized[1]
  x, y = offset
  # Rounding may put the far edge a hair outside the image, which Pillow refuses.
  right = min((x + size) * per_x, img.width)
  bottom = min((y + size) * per_y, img.height)
  return _resize_box(img, (x * per_x, y * per_y, right, bottom), size)


def _resize_box(img: Image.Image, box: tuple[float, float, float, float], size: int) -> np.ndarray:
  return np.asarray(img.resize((size, size), Image.Resampling.BICUBIC, box=box))
