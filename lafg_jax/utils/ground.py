"""The colour that shows through where an image is transparent."""

import re
from typing import Any

# Light grey: near the white grounds of shop photographs, and yet black, white and middle-grey
# things stand out from it. On white a white thing would vanish, on black a dark one.
DEFAULT = "#c0c0c0"


def of(data: Any) -> tuple[int, int, int]:
  """`rgb` of data.ground, of a section `config.data`; one made by hand need not have the key."""
  return rgb(data.get("ground", DEFAULT))


def rgb(text: str) -> tuple[int, int, int]:
  """Red, green and blue, 0 to 255, of a colour's name, '#rrggbb', or a grey from '0' to '255'.

  Raises ValueError where it is none of them.
  """
  if text.isdecimal():
    if int(text) > 255:
      raise ValueError(f"{text} is above 255")
    return (int(text),) * 3
  if re.fullmatch("#[0-9a-fA-F]{6}", text):
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue
  # Imported here: the table of keys is read by --help, and the default needs no Pillow.
  from PIL import ImageColor

  colour = ImageColor.getrgb(text)
  if len(colour) != 3:
    raise ValueError(f"{text} is not opaque")
  return colour
