"""The verdict on an upload: it is an image as the model reads it, or one line says why not."""

import io
from typing import NamedTuple

from PIL import Image

from lafg_jax.data import images
from lafg_jax.utils.errors import UserError


class Limits(NamedTuple):
  """Of an upload: bytes of the file, and pixels, width times height."""

  size: int = 10_000_000
  pixels: int = 50_000_000


def checked(content: bytes, limits: Limits) -> Image.Image:
  """The image of an upload in mode RGB, by the same reader as everywhere (`images.open_image`).

  What its header says is checked before anything is decoded. Raises UserError, one line, where it
  is larger than the limits or cannot be read.
  """
  if len(content) > limits.size:
    raise UserError(
      f"the upload has {len(content):,} bytes, and {limits.size:,} are allowed: make it smaller"
    )
  try:
    with Image.open(io.BytesIO(content)) as header:
      width, height = header.size
  except images.DECODER_ERRORS:
    # `open_image` says what is wrong, or reads it without its broken metadata.
    width = height = 0
  _check_pixels(width, height, limits)
  try:
    found = images.open_image(content)
  except images.UnreadableImage as error:
    raise UserError(f"the upload is no image that can be read{_reason(error)}") from error
  _check_pixels(*found.size, limits)
  return found


def _check_pixels(width: int, height: int, limits: Limits) -> None:
  if width * height > limits.pixels:
    raise UserError(
      f"the upload has {width:,} x {height:,} pixels, and {limits.pixels:,} in all are allowed: "
      "make it smaller"
    )


def _reason(error: images.UnreadableImage) -> str:
  said = " ".join(str(error).split()).partition(" bytes: ")[2]
  # Pillow names the buffer in memory: it says nothing to anyone.
  return f": {said}" if said and "BytesIO" not in said else ""
