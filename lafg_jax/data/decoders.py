"""Decoding of a JPEG no more than its crop needs.

A crop that is shrunk by 2 or more may be decoded at 1/2, 1/4 or 1/8 of its size: libjpeg computes
fewer pixels from the same coefficients, but never fewer than the crop will have. One library
decodes for everybody, Pillow with the libjpeg-turbo inside it: up to the crop others were no faster
(benchmarks/RESULTS.md), and batches are the same wherever a run goes on.
"""

import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from lafg_jax.data import images

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


def opener(scaled: bool) -> Callable[[Any], Any]:
  """open(path or bytes) -> a Jpeg whose pixels wait for the crop, or a Pillow image.

  Args:
    scaled: whether crops that shrink by 2 or more are decoded at a part of their size. Without it
      everything is decoded at once, by images.open_image.

  The open raises images.UnreadableImage, and so does the crop of a Jpeg.
  """
  return _open_scaled if scaled else images.open_image


def _open_scaled(path: str | os.PathLike | bytes) -> "Jpeg | Image.Image":
  try:
    if isinstance(path, bytes):
      content = path
    else:
      with open(path, "rb") as file:
        content = file.read()
    with Image.open(io.BytesIO(content)) as header:
      # Of several pictures in one file, or with four colours, images.open_image knows more.
      if header.format == "JPEG" and header.mode in ("RGB", "L"):
        turn = header.getexif().get(ExifTags.Base.Orientation, 1)
        return Jpeg(path, content, header.size, turn)
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
    size = tuple(-(-side // factor) for side in self.stored)
    try:
      img: Image.Image = Image.open(io.BytesIO(self.content))
      if factor > 1:
        img.draft(None, (self.stored[0] // factor, self.stored[1] // factor))
      img.load()
      if img.size != size:
        raise ValueError(f"libjpeg decodes it to {img.size}, not {size}")
      img = img if img.mode == "RGB" else img.convert("RGB")
    except images.DECODER_ERRORS as error:
      where = images.named(self.path)
      raise images.UnreadableImage(f"cannot read image {where}: {error}") from error
    return img.transpose(_UPRIGHT[self.turn]) if self.turn in _UPRIGHT else img

  def factor(self, width: float, height: float, size: int) -> int:
    """1, 2, 4 or 8: how far a crop of that many pixels may be reduced, to be `size` squared."""
    for factor in FACTORS:
      # A rounded side would come first in a mirrored image: the whole would be off by a part.
      whole = self.turn not in _UPRIGHT or not any(side % factor for side in self.stored)
      if min(width, height) >= factor * size and whole:
        return factor
    return 1
