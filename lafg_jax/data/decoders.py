"""Decoding a JPEG at the size that its crop needs.

A crop that is shrunk by 2 or more may be decoded at 1/2, 1/4 or 1/8 of its size: libjpeg computes
fewer pixels from the same coefficients, but never fewer than the crop will have. Pillow with its
libjpeg-turbo decodes on all machines, so that batches are the same on all. Other libraries were not
faster (benchmarks/RESULTS.md).
"""

import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import Image

from lafg_jax.data import images, pixels

FACTORS = (8, 4, 2)


def opener(scaled: bool) -> Callable[..., Any]:
  """open(path or bytes, ground) -> a Jpeg that its crop decodes, or a Pillow image.

  With `scaled`, crops of a Jpeg that shrink by 2 or more are decoded at a part of their size.
  Without it images.open_image decodes everything at once. Opening an image and the crop of a Jpeg
  raise images.UnreadableImage.
  """
  return _open_scaled if scaled else images.open_image


def _open_scaled(
  path: str | os.PathLike | bytes, colour: pixels.Ground = images.GROUND
) -> "Jpeg | Image.Image":
  try:
    content = images.read_bytes(path)
    with Image.open(io.BytesIO(content)) as header:
      # images.open_image takes files of several pictures or of four colours.
      if header.format == "JPEG" and header.mode in ("RGB", "L"):
        return Jpeg(path, content, header.size, pixels.turn_of(header))
  except images.DECODER_ERRORS:
    # images.open_image tries again, and has the message if it fails too.
    pass
  return images.open_image(path, colour)


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

    Raises images.UnreadableImage where the file is damaged.
    """
    size = tuple(-(-side // factor) for side in self.stored)
    try:
      img: Image.Image = Image.open(io.BytesIO(self.content))
      if factor > 1:
        img.draft(None, (self.stored[0] // factor, self.stored[1] // factor))
      img.load()
      if img.size != size:
        raise ValueError(f"libjpeg decodes it to {img.size}, not {size}")
      # After the conversion, as pixels.read: `turn` is that of the header.
      return pixels.upright(img if img.mode == "RGB" else img.convert("RGB"), self.turn)
    except images.DECODER_ERRORS as error:
      where = images.named(self.path)
      raise images.UnreadableImage(f"cannot read image {where}: {error}") from error

  def factor(self, width: float, height: float, size: int) -> int:
    """1, 2, 4 or 8: how far a crop of width x height may be reduced to become size x size."""
    for factor in FACTORS:
      # The rounded side of a mirrored image comes first: the image would be shifted.
      whole = self.turn not in range(2, 9) or not any(side % factor for side in self.stored)
      if min(width, height) >= factor * size and whole:
        return factor
    return 1
