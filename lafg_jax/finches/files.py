"""Writes finches as files, a folder a class: photographs to try things on that anyone may have.

  python -m lafg_jax.finches.files --out=finches --table=finches/images.csv

Pictures are PNG of 48 x 48 pixels: those of configs/synthetic.py, the same each time.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from PIL import Image

from lafg_jax.config import command_line
from lafg_jax.finches import classes
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import replacing

_OUT = flags.DEFINE(command_line.PATH, "out", None, "Folder to write.", allow_override=True)
_CLASSES = flags.DEFINE_enum(
  "classes",
  "all",
  ["seen", "unseen", "all"],
  "The 40 that configs/synthetic.py trains on, the 60 of its test, or all.",
)
_PER_CLASS = flags.DEFINE_integer("per_class", 20, "Of a class, at most.", 1)
_TABLE = flags.DEFINE(
  command_line.PATH, "table", None, "A CSV to write too: path, class, and each attribute."
)


def write(folder: str, kind: str, most: int) -> list[dict[str, str]]:
  """Writes FOLDER/CLASS/NN.png; a row an image: path (below the folder), class, attributes.

  kind: 'seen', 'unseen' or 'all' classes. most: images of a class. Files that are there already are
  written anew; no others are touched.
  """
  rows = []
  for split in ("seen", "unseen") if kind == "all" else (kind,):
    for name in classes.class_names(split):
      (Path(folder) / name).mkdir(parents=True, exist_ok=True)
      for number in range(min(most, classes.IMAGES_PER_CLASS[split])):
        path = os.path.join(name, f"{number:02}.png")
        with replacing(os.path.join(folder, path)) as temporary:
          Image.fromarray(classes.image(name, number)).save(temporary, "PNG")
        rows.append({"path": path, "class": name} | classes.attributes(name))
  return rows


def main(unused: Sequence[str]) -> None:
  """Checks the flags, and writes."""
  del unused
  if not _OUT.value:
    raise UserError("pass --out=FOLDER")
  command_line.make_folder("out", _OUT.value)
  rows = write(_OUT.value, _CLASSES.value, _PER_CLASS.value)
  if _TABLE.value:
    below = os.path.relpath(_OUT.value, os.path.dirname(os.path.abspath(_TABLE.value)))
    with (
      replacing(_TABLE.value) as temporary,
      open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
      writer = csv.DictWriter(file, ["path", "class", *ATTRIBUTES])
      writer.writeheader()
      writer.writerows(
        row | {"path": os.path.normpath(os.path.join(below, row["path"]))} for row in rows
      )
  print(f"{_OUT.value}: {len(rows):,} images")


if __name__ == "__main__":
  command_line.run(main, __doc__ or "", with_config=False)
