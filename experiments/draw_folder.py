"""Draws the picture of docs/start/photographs.md: a folder of photographs, a row a class.

python -m lafg_jax.finches.files --out=finches
python experiments/draw_folder.py --folder=finches --out=docs/images/folder.png
"""

import os
from pathlib import Path

from absl import app, flags
from PIL import Image, ImageDraw, ImageFont

from lafg_jax.data import images

_FOLDER = flags.DEFINE_string("folder", "finches", "With a folder a class.")
_OUT = flags.DEFINE_string("out", "docs/images/folder.png", "PNG to write.")
_CLASSES = flags.DEFINE_integer("classes", 4, "How many classes, evenly spaced.", 1)
_IMAGES = flags.DEFINE_integer("images", 6, "How many images of each.", 1)
_SIDE, _GAP, _LABEL = 96, 8, 260


def main(unused: list[str]) -> None:
  del unused
  folders = sorted(path for path in Path(_FOLDER.value).iterdir() if path.is_dir())
  chosen = folders[:: max(1, len(folders) // _CLASSES.value)][: _CLASSES.value]
  cell = _SIDE + _GAP
  sheet = Image.new("RGB", (_LABEL + _IMAGES.value * cell, _GAP + len(chosen) * cell), "white")
  draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
  for line, folder in enumerate(chosen):
    top = _GAP + line * cell
    name = f"{folder.parent.name}/{folder.name}/"
    draw.text((_GAP, top + _SIDE // 2 - 8), name, fill="black", font=font)
    for place, path in enumerate(sorted(folder.iterdir())[: _IMAGES.value]):
      tile = Image.fromarray(images.resize_centre_crop(images.open_image(path), _SIDE, _SIDE))
      sheet.paste(tile, (_LABEL + place * cell, top))
  sheet.quantize(128).save(_OUT.value, optimize=True)
  print(f"{_OUT.value}: {os.path.getsize(_OUT.value) / 1000:.0f} KB")


if __name__ == "__main__":
  app.run(main)
