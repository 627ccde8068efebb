"""Reading and cropping photographs: files or arrays in, uint8 RGB arrays out.

Crops take a Pillow image, a uint8 array [H, W, 3], a `Shrunk`, or a `decoders.Jpeg`, of which they
decode what they need. They return uint8 [size, size, 3] by Pillow's bicubic filter, which widens
its kernel when it shrinks an image (antialiasing). A crop and its resize are one call of
`Image.resize(box=...)`: at the edge of a crop the filter sees the pixels just outside of it, as it
does where a resized image is cropped afterwards.
"""

import io
import math
import os
import stat
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lafg_jax.data import bare, pixels
from lafg_jax.utils import ground

GROUND = ground.rgb(ground.DEFAULT)

# What Pillow's decoders raise for damaged files: SyntaxError for broken PNG chunks, struct.error,
# IndexError, AssertionError and others for headers that end early; ImportError where it was built
# without a format's library.
DECODER_ERRORS = (
  *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError),
  *(struct.error, zlib.error, AssertionError, RuntimeError, AttributeError, ImportError),
  Image.DecompressionBombError,
)


Box = tuple[float, float, float, float]


class Shrunk(NamedTuple):
  """An image that was resized before; its crops are drawn in the sizes of the original."""

  pixels: np.ndarray  # uint8 [H, W, 3]
  width: int  # of the original
  height: int


class UnreadableImage(OSError):
  """A file that is missing, or that Pillow cannot decode to its last pixel."""


def of_dataset(dataset: Any, row: int) -> Image.Image:
  """Image `row` of a `datasets.Dataset`, cut to its box where the dataset has boxes.

  Raises UnreadableImage where it cannot be read, or its box has no pixel.
  """
  return _decoded(source_of_dataset(dataset, row, open_image))


def source_of_dataset(dataset: Any, row: int, open_: Callable[..., Any]) -> Any:
  """Image `row` in a form that crops take: as `of_dataset`, but arrays stay arrays.

  open_(path or bytes of a file, ground) returns a Pillow image or a `decoders.Jpeg`. Raises
  UnreadableImage as `of_dataset`, but damage inside of a Jpeg is found by its crop.
  """
  img = dataset.images[row]
  if isinstance(img, np.ndarray) and img.ndim == 1:
    raise UnreadableImage(f"{dataset.ids[row]}: the data set holds features, and no image")
  try:
    if not isinstance(img, np.ndarray | Shrunk):
      img = open_(img, dataset.ground)
    return img if dataset.boxes is None else cut(_decoded(img), dataset.boxes[row])
  except UnreadableImage as error:
    raise UnreadableImage(f"{dataset.ids[row]}: {error}") from error


def cut(img: Image.Image, box: Sequence[float] | np.ndarray) -> Image.Image:
  """The part of an image in a box of left, top, right and bottom, in pixels.

  A right or bottom of 0 or less counts from the far edge; pixels outside of the image are left out.
  Raises UnreadableImage where no pixel of the image is in the box, or it is given in fractions.
  """
  if any(0 < far < 1 for far in box[2:]):
    # As a whole number it would be 0, which is the far edge: all of the image.
    shown = tuple(float(f"{x:g}") for x in box)
    raise UnreadableImage(f"the box {shown} is a fraction of the image, not in pixels")
  left, top, right, bottom = (int(x) for x in box)
  right, bottom = right + img.width * (right <= 0), bottom + img.height * (bottom <= 0)
  inside = max(left, 0), max(top, 0), min(right, img.width), min(bottom, img.height)
  if inside[0] >= inside[2] or inside[1] >= inside[3]:
    raise UnreadableImage(f"the box {(left, top, right, bottom)} lies outside {img.size} pixels")
  return img.crop(inside)


def open_any(
  image: Any,
  box: Sequence[float] | np.ndarray | None = None,
  colour: pixels.Ground = GROUND,
) -> Image.Image:
  """A path, the bytes of an image file, a Pillow image, or uint8 [H, W, 3], in mode RGB.

  Only the part in `box` is returned, as `cut` takes it; None takes all. `colour` is the ground of
  `open_image`. Raises UnreadableImage where the image cannot be read, or the box has no pixel of
  it.
  """
  if isinstance(image, Image.Image):
    img = _of_file(image, lambda: image.copy(), colour)
  else:
    img = _decoded(image) if isinstance(image, np.ndarray) else open_image(image, colour)
  return img if box is None else cut(img, box)


def open_image(path: str | os.PathLike | bytes, colour: pixels.Ground = GROUND) -> Image.Image:
  """Decodes a file, or its bytes, to a Pillow image in mode RGB, turned upright by its EXIF tag.

  Every mode of Pillow is converted; more than 8 bits and floats are scaled, and what is transparent
  shows `colour`: `pixels` has the rules. Profiles and other metadata are not read, and a fault in
  them is no reason to refuse the pixels. Of several pictures the first is taken.

  Raises:
    UnreadableImage: the file is missing, empty, truncated, no file but a folder or pipe, not an
      image, larger than Pillow's limit against decompression bombs, or its values are no
      brightness.
  """
  if isinstance(path, str):
    path = str(path)  # messages show NumPy's texts as np.str_('...')
  return _of_file(path, lambda: Image.open(_file(path)), colour)


def _of_file(source: Any, opened: Callable[[], Image.Image], colour: pixels.Ground) -> Image.Image:
  try:
    check_file(source)
    return pixels.read(opened, colour)
  except UnreadableImage:
    raise
  except DECODER_ERRORS as error:
    try:
      if content := bare.without_metadata(read_bytes(source)):
        return pixels.read(lambda: Image.open(io.BytesIO(content)), colour)
    except DECODER_ERRORS:
      # The first error says more.
      pass
    raise UnreadableImage(f"cannot read image {named(source)}: {error}") from error


def check_file(path: Any) -> None:
  """UnreadableImage where a path is no file: opening a pipe would wait for ever. Bytes pass."""
  if isinstance(path, str | os.PathLike) and not stat.S_ISREG(os.stat(path).st_mode):
    what = "it is a folder, pipe or device, not a file"
    raise UnreadableImage(f"cannot read image {named(path)}: {what}")


def read_bytes(path: Any) -> bytes:
  """The content of a file, or the bytes that are given, else b''. Raises OSError."""
  if not isinstance(path, str | os.PathLike):
    return path if isinstance(path, bytes) else b""
  check_file(path)
  return Path(path).read_bytes()


def _file(path: str | os.PathLike | bytes) -> Any:
  return io.BytesIO(path) if isinstance(path, bytes) else path


def named(path: Any) -> str:
  """The name of a file, or of bytes, in messages."""
  if isinstance(path, Image.Image):
    return f"of mode {path.mode}"
  return f"of {len(path):,} bytes" if isinstance(path, bytes) else os.fspath(path)


def read_image(path: str | os.PathLike | bytes, colour: pixels.Ground = GROUND) -> np.ndarray:
  """`open_image` as an array: uint8 [H, W, 3]. Raises UnreadableImage."""
  return np.array(open_image(path, colour))


def random_resized_crop(
  img: Any,
  rng: np.random.Generator,
  size: int,
  scale: Sequence[float] = (0.2, 1.0),
  ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> np.ndarray:
  """A random part of the image, resized to a square: uint8 [size, size, 3].

  As torchvision's RandomResizedCrop: the area is uniform in `scale` (fractions of the image's),
  width / height log-uniform in `ratio`. After 10 draws that do not fit, it is the largest centred
  crop with an allowed ratio.
  """
  x, y, width, height = _random_box(*size_of(img), rng, scale, ratio)
  return _resize_box(img, (x, y, x + width, y + height), size)


def _random_box(
  img_width: int, img_height: int, rng: Any, scale: Sequence[float], ratio: Sequence[float]
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


def resize_random_crop(img: Any, rng: np.random.Generator, resize: int, size: int) -> np.ndarray:
  """Shorter side resized to `resize` >= `size`, then a random crop: uint8 [size, size, 3]."""
  width, height = resized(*size_of(img), resize)
  x, y = (int(rng.integers(0, side - size + 1)) for side in (width, height))
  return _crop_of_resized(img, (width, height), (x, y), size)


def resize_centre_crop(img: Any, resize: int, size: int, pad: str = "none") -> np.ndarray:
  """Shorter side resized to `resize` >= `size`, then the centre: uint8 [size, size, 3].

  With pad='target' the image is `padded` before.
  """
  img = padded(img) if pad == "target" else img
  width, height = resized(*size_of(img), resize)
  offset = (width - size) // 2, (height - size) // 2
  return _crop_of_resized(img, (width, height), offset, size)


def padded(img: Any, ratio: float = 1.25) -> Any:
  """The image between black bars where its long side is `ratio` times the short one or more.

  The short side becomes the long one divided by `ratio`, so that of 400 x 200 pixels 400 x 320 are
  left and a square crop cuts a fifth of the long side ("targetpad" of CLIP4Cir and SEARLE, Baldrati
  et al., ICCV 2023). Any other image is returned as it is.
  """
  width, height = size_of(img)
  if max(width, height) < ratio * min(width, height):
    return img
  side = max(width, height) / ratio
  across, down = (max(int((side - x) / 2), 0) for x in (width, height))
  if not isinstance(img, Shrunk):
    return ImageOps.expand(_decoded(img), (across, down))
  # Its crops are drawn in the pixels of the original.
  small = Image.fromarray(img.pixels)
  bars = round(across * small.width / width), round(down * small.height / height)
  pixels = np.asarray(ImageOps.expand(small, bars))
  return Shrunk(pixels, width + 2 * across, height + 2 * down)


def flip(img: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The image [H, W, 3], mirrored left to right with probability 1/2."""
  if rng.random() >= 0.5:
    return img
  # One colour at a time: NumPy copies a mirrored view by groups of 3 bytes, 5 times as slowly.
  mirrored = np.empty_like(img)
  for colour in range(img.shape[2]):
    mirrored[..., colour] = img[:, ::-1, colour]
  return mirrored


def resize_shorter(img: Any, side: int) -> np.ndarray:
  """Shorter side resized to `side` where it is longer: uint8 [H, W, 3]."""
  width, height = size_of(img)
  if min(width, height) <= side:
    return np.asarray(_decoded(img))
  img, box = reduced(img, (0, 0, width, height), side)
  size = resized(width, height, side)
  return np.asarray(img.resize(size, Image.Resampling.BICUBIC, box=box))


def resized(width: int, height: int, resize: int) -> tuple[int, int]:
  """Width and height once the shorter side is `resize`; the longer side is rounded down."""
  short = min(width, height)
  return resize * width // short, resize * height // short


def size_of(img: Any) -> tuple[int, int]:
  """Width and height of anything that crops take."""
  return (img.shape[1], img.shape[0]) if isinstance(img, np.ndarray) else (img.width, img.height)


def _decoded(img: Any) -> Image.Image:
  if isinstance(img, np.ndarray):
    return Image.fromarray(img)
  return img if isinstance(img, Image.Image) else img.decode()


def reduced(img: Any, box: Box, size: int) -> tuple[Image.Image, Box]:
  """A Pillow image, and the box in it: of a Jpeg no more pixels than the box needs."""
  if isinstance(img, np.ndarray | Image.Image):
    return _decoded(img), box
  if isinstance(img, Shrunk):
    small = Image.fromarray(img.pixels)
    per_x, per_y = img.width / small.width, img.height / small.height
  else:
    per_x = per_y = img.factor(box[2] - box[0], box[3] - box[1], size)
    small = img.decode(per_x)
  right, bottom = min(box[2] / per_x, small.width), min(box[3] / per_y, small.height)
  return small, (box[0] / per_x, box[1] / per_y, right, bottom)


def _crop_of_resized(
  img: Any, resized: tuple[int, int], offset: tuple[int, int], size: int
) -> np.ndarray:
  """The square at `offset` of the image as it would be after resizing it to `resized`."""
  width, height = size_of(img)
  x, y = offset
  pixels = img.pixels if isinstance(img, Shrunk) else img
  if isinstance(pixels, np.ndarray) and size_of(pixels) == resized:
    # The filter would return each pixel as it is.
    return pixels[y : y + size, x : x + size]
  per_x, per_y = width / resized[0], height / resized[1]
  # Rounding may put the far edge slightly outside of the image, which Pillow refuses.
  right, bottom = min((x + size) * per_x, width), min((y + size) * per_y, height)
  return _resize_box(img, (x * per_x, y * per_y, right, bottom), size)


def _resize_box(img: Any, box: Box, size: int) -> np.ndarray:
  img, box = reduced(img, box, size)
  return np.asarray(img.resize((size, size), Image.Resampling.BICUBIC, box=box))
