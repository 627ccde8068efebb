"""From pixels as a file has them to 8 bits of red, green and blue, upright.

The rules depend on the file alone; docs/guide/data.md has them for users.

Deep pixels (more than 8 bits, or floats). Zero stays black. White is the smallest of ... 1/16, 1/4,
1, and, for larger values, of 3, 15, 63, 255, 1023, 4095, 16383, 65535 (2, 4, ... 16 bits) that no
value exceeds. So [0, 1], 8 bits in 32, 12 bits in 16 and full 16 bits are all seen as they are
meant, and none is black. Values below 0, above 65535 or that are no numbers are refused.

Transparency. Colours are mixed with the ground by their alpha. Where alpha hides all of the image
it is taken for an unused channel.
"""

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from lafg_jax.data import listing

Ground = tuple[int, int, int]

_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# How Pillow names pixels of 16 bits a channel, of which it keeps the upper 8.
_DEEP = re.compile(r"(RGB|RGBA|RGBX|LA);16[BLN]")
# What greys of 2 and 4 bits are multiplied by.
_FEW_BITS = {"L;2": 85, "L;4": 17}
_PHOTOMETRIC = 262  # of TIFF; 0: zero is white


def turn_of(img: Image.Image) -> int:
  """The orientation, 1 to 8, of an image's EXIF or XMP; 1 where there is none, or it is no such."""
  try:
    value: Any = img.getexif().get(ExifTags.Base.Orientation, 1)
    # Written as a list, a byte or a text by some programs.
    value = value[0] if isinstance(value, tuple) else value
    value = value[0] if isinstance(value, bytes) and len(value) == 1 else value
    turn = int(value)
  except Exception:  # noqa: BLE001
    # Whatever is wrong in a block of metadata, it is no reason to refuse the pixels.
    return 1
  return turn if turn in _TURNS else 1


def turn_of_exif(block: bytes) -> int:
  """`turn_of` of a block 'Exif\\0\\0...'."""
  img = Image.new("1", (1, 1))
  img.info["exif"] = block
  return turn_of(img)


def exif_of_turn(turn: int) -> bytes:
  """A block 'Exif\\0\\0...' of an orientation alone."""
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = turn
  return exif.tobytes()


def upright(img: Image.Image, turn: int) -> Image.Image:
  """The image, turned as its orientation says."""
  return img.transpose(_TURNS[turn]) if turn in _TURNS else img


def read(opened: Callable[[], Image.Image], ground: Ground) -> Image.Image:
  """The first picture of a file in mode RGB, upright.

  opened() opens the file once more, without decoding it. Raises ValueError where its values are
  no brightness, for a format that Pillow hands to another program, and what Pillow raises for
  damaged files.
  """
  with opened() as img:
    if img.format in listing.NO_DECODER:
      # A file is what its content says: PostScript called x.jpg would be run by Ghostscript.
      raise ValueError(f"{img.format} is read by other software alone: make a JPEG or PNG of it")
    raw = _raw_mode(img)
    img.load()
    if raw in _FEW_BITS and isinstance(key := img.info.get("transparency"), int):
      # Pillow scales the pixels of a PNG, but not the one that is transparent.
      img.info["transparency"] = key * _FEW_BITS[raw]
    shown = _of_deep(img, opened, raw, ground) if _DEEP.fullmatch(raw) else _rgb(img, ground)
    return upright(shown, turn_of(img))


def _rgb(img: Image.Image, ground: Ground) -> Image.Image:
  # The usual case first: a copy takes a tenth of the decoding time.
  if img.mode == "RGB" and "transparency" not in img.info:
    return img
  if img.mode in ("I", "F") or img.mode.startswith("I;16"):
    return _of_numbers(img, ground)
  if img.mode == "LAB":
    return _of_lab(img)
  return _on_ground(img, ground) if img.has_transparency_data else img.convert("RGB")


def _on_ground(img: Image.Image, ground: Ground) -> Image.Image:
  if img.mode == "La":
    img = img.convert("LA")
  if img.mode != "RGBA":
    try:
      img = img.convert("RGBA")
    except (TypeError, ValueError, OverflowError):
      # The colour that is said to be transparent is none: there is no transparency.
      img.info.pop("transparency", None)
      return img.convert("RGB")
  return _mixed(img.convert("RGB"), img.getchannel("A"), ground)


def _mixed(colours: Image.Image, alpha: Image.Image, ground: Ground) -> Image.Image:
  low, high = alpha.getextrema()
  if low == 255 or high == 0:
    return colours
  shown = Image.new("RGB", colours.size, ground)
  shown.paste(colours, mask=alpha)
  return shown


def _of_numbers(img: Image.Image, ground: Ground) -> Image.Image:
  """One channel of 16 or 32 bits, or of floats."""
  values = np.asarray(img)
  grey = scaled(values)
  if getattr(img, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
    grey = 255 - grey
  shown, key = Image.fromarray(grey).convert("RGB"), img.info.get("transparency")
  if not isinstance(key, int):
    return shown
  return _mixed(shown, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)), ground)


def scaled(values: np.ndarray) -> np.ndarray:
  """Deep values of any shape as uint8, by the rule above. Raises ValueError where it refuses."""
  low, high = float(values.min()), float(values.max())
  if not (np.isfinite(low) and np.isfinite(high)):
    raise ValueError("it holds values that are no numbers (NaN or infinite): write it as 8 bits")
  if low < 0 or high > 65535:
    raise ValueError(
      f"its values go from {low:g} to {high:g}, and only 0 to 65535 are read as brightness: "
      "write it as 8 bits"
    )
  white = 1.0
  while 0 < high <= white / 4:
    white /= 4
  while high > white:
    white = 4 * white + 3 if white > 1 else 3.0
  if white >= 255:
    # The upper 8 bits.
    return (values // ((white + 1) / 256)).astype(np.uint8)
  return np.rint(values * (255 / white)).astype(np.uint8)


def _of_lab(img: Image.Image) -> Image.Image:
  from PIL import ImageCms

  shown = ImageCms.applyTransform(img, _lab_to_rgb())
  assert shown is not None
  return shown


@functools.cache
def _lab_to_rgb() -> Any:
  from PIL import ImageCms

  spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
  return ImageCms.buildTransform(*spaces, "LAB", "RGB")


def _raw_mode(img: Any) -> str:
  """How the pixels lie in the file, in Pillow's words; '' where it does not say."""
  for tile in getattr(img, "tile", ()):
    first = tile.args[0] if isinstance(tile.args, tuple) else tile.args
    return first if isinstance(first, str) else ""
  return ""


def _of_deep(
  img: Image.Image, opened: Callable[[], Image.Image], raw: str, ground: Ground
) -> Image.Image:
  """Several channels of 16 bits; Pillow has no mode for them, so each byte is decoded by itself."""
  if raw.startswith("LA"):
    # The bytes of one pixel are as many as those of RGBA: grey, its lower byte, alpha, its lower.
    upper = _decoded_as(opened, "RGBA")
    both = upper[..., ::2] << 8 | upper[..., 1::2]
    both = both[..., [0, 0, 0, 1]]
  else:
    swapped = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[raw[-1]]
    both = np.asarray(img).astype(np.uint16) << 8 | _decoded_as(opened, raw[:-1] + swapped)
  shown, key = Image.fromarray(scaled(both[..., :3])), img.info.get("transparency")
  if both.shape[2] == 4:
    return _mixed(shown, Image.fromarray(scaled(both[..., 3])), ground)
  if isinstance(key, tuple):
    visible = (both != np.array(key)).any(axis=-1)
    return _mixed(shown, Image.fromarray(np.where(visible, 255, 0).astype(np.uint8)), ground)
  return shown


def _decoded_as(opened: Callable[[], Any], raw: str) -> np.ndarray:
  """[H, W, C] uint16: the file decoded as if its pixels lay in another way."""
  with opened() as img:
    img.tile = [
      tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
      for tile in img.tile
    ]
    img.load()
    return np.asarray(img).astype(np.uint16)
