"""Decoding what a crop needs of a JPEG, by the faster of two libraries.

simplejpeg and Pillow both wrap libjpeg-turbo, with the same settings: a test holds their pixels
equal. What simplejpeg does not take (CMYK, 12 bits, other formats, damaged files) Pillow reads, so
that both settings of `data.decoder` read and refuse the same files. A crop that is shrunk by 2 or
more may be decoded at 1/2, 1/4 or 1/8 of its size, for which libjpeg computes fewer pixels from the
same coefficients: never fewer than the crop will have.
"""

import functools
import importlib.util
import io
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import ExifTags, Image

from lafg_jax.data import images
from lafg_jax.errors import UserError

FACTORS = (8, 4, 2)
# Upright from stored, for each orientation tag of the EXIF standard but 1, which is upright.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# Bytes of pixels that a thread keeps to decode into: memory that is new for each image is cleared
# by the system first, which takes as long as a third of the decoding.
_KEPT = 16 << 20
_thread = threading.local()


def resolve(name: str) -> str:
  """The decoder that `data.decoder` means here: 'pillow' or 'simplejpeg'.

  Checkpoints record it, so that 'auto' does not change decoders in the middle of a run.

  Raises:
    UserError: simplejpeg is asked for by name and is not installed.
  """
  if name == "pillow":
    return name
  if importlib.util.find_spec("simplejpeg") is not None:
    return "simplejpeg"
  if name == "simplejpeg":
    raise UserError(
      "--config.data.decoder=simplejpeg: it is not installed; pip install simplejpeg, or pass "
      "--config.data.decoder=pillow"
    )
  logging.log_first_n(
    logging.INFO, "data.decoder=auto: simplejpeg is not installed, Pillow decodes, slower", 1
  )
  return "pillow"


def opener(name: str, scaled: bool) -> Callable[[Any], Any]:
  """open(path or bytes) -> a Jpeg whose pixels wait for the crop, or a Pillow image.

  Args:
    name: 'pillow' or 'simplejpeg'.
    scaled: whether crops that shrink by 2 or more are decoded at a part of their size.

  The open raises images.UnreadableImage, and so does the crop of a Jpeg.
  """
  return functools.partial(_open, name=name, scaled=scaled)


def _open(path: str | os.PathLike | bytes, *, name: str, scaled: bool) -> "Jpeg | Image.Image":
  try:
    if isinstance(path, bytes):
      content = path
    else:
      with open(path, "rb") as file:
        content = file.read()
    with Image.open(io.BytesIO(content)) as header:
      # Of several pictures in one file, or with four colours, Pillow knows more than libjpeg.
      if header.format == "JPEG" and header.mode in ("RGB", "L"):
        turn = header.getexif().get(ExifTags.Base.Orientation, 1)
        return Jpeg(path, content, header.size, turn, name, scaled)
  except images.DECODER_ERRORS:
    # Whether it can be read at all, and what is said of it if not, is decided in one place.
    pass
  return images.open_image(path)


class Jpeg(NamedTuple):
  """A JPEG that is decoded when its crop is known."""

  path: str | os.PathLike | bytes
  content: bytes
  stored: tuple[int, int]  # width and height before it is turned
  turn: int  # EXIF orientation
  name: str  # of the decoder
  scaled: bool

  @property
  def width(self) -> int:
    return self.stored[1] if self.turn in (5, 6, 7, 8) else self.stored[0]

  @property
  def height(self) -> int:
    return self.stored[0] if self.turn in (5, 6, 7, 8) else self.stored[1]

  def decode(self, factor: int = 1) -> Image.Image:
    """The upright image in mode RGB, its sides divided by `factor` and rounded up.

    Raises:
      images.UnreadableImage: it is damaged.
    """
    try:
      img = self._by_simplejpeg(factor) if self.name == "simplejpeg" else None
      if img is None:
        img = self._by_pillow(factor)
    except images.DECODER_ERRORS as error:
      raise images.UnreadableImage(
        f"cannot read image {images.named(self.path)}: {error}"
      ) from error
    return img.transpose(_UPRIGHT[self.turn]) if self.turn in _UPRIGHT else img

  def factor(self, width: float, height: float, size: int) -> int:
    """1, 2, 4 or 8: how far a crop of that many pixels may be reduced, to be `size` squared."""
    if not self.scaled:
      return 1
    for factor in FACTORS:
      # A rounded side would come first in a mirrored image: the whole would be off by a part.
      whole = self.turn not in _UPRIGHT or not any(side % factor for side in self.stored)
      if min(width, height) >= factor * size and whole:
        return factor
    return 1

  def _reduced(self, factor: int) -> tuple[int, int]:
    return -(-self.stored[0] // factor), -(-self.stored[1] // factor)

  def _by_pillow(self, factor: int) -> Image.Image:
    img = Image.open(io.BytesIO(self.content))
    if factor > 1:
      img.draft(None, (self.stored[0] // factor, self.stored[1] // factor))
    img.load()
    if img.size != self._reduced(factor):
      raise ValueError(f"libjpeg decodes it to {img.size}, not {self._reduced(factor)}")
    return img if img.mode == "RGB" else img.convert("RGB")

  def _by_simplejpeg(self, factor: int) -> Image.Image | None:
    import simplejpeg

    width, height = self._reduced(factor)
    try:
      pixels = simplejpeg.decode_jpeg(
        self.content,
        "RGB",
        min_height=height,
        min_width=width,
        buffer=_buffer(3 * width * height),
      )
    except (ValueError, RuntimeError, MemoryError) as error:
      logging.log_first_n(
        logging.INFO, "simplejpeg refuses %s (%s): Pillow reads such files", 1,
        images.named(self.path), error,
      )  # fmt: skip
      return None
    # fromarray copies: the next image of this thread may overwrite the buffer.
    return Image.fromarray(pixels) if pixels.shape == (height, width, 3) else None


def _buffer(count: int) -> np.ndarray | None:
  if count > _KEPT:
    return None
  kept = getattr(_thread, "kept", None)
  if kept is None or len(kept) < count:
    kept = _thread.kept = np.empty(count, np.uint8)
  return kept
