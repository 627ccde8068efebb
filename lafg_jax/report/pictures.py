"""What the pages that the stages write share: their frame, tables, small plots and pictures."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image, ImageDraw

from lafg_jax.data import images, vectors

RIGHT, WRONG, QUERY = (46, 160, 67), (207, 34, 46), (88, 96, 105)
_BORDER, _GAP = 4, 6
_FRAME = Path(__file__).parent / "page" / "static.html"


def page(title: str, body: str) -> str:
  """One HTML file that works offline, of a plain title and the HTML of its body."""
  frame = _FRAME.read_text(encoding="utf-8").replace("{{TITLE}}", html.escape(title))
  return frame.replace("{{BODY}}", body)


def table(rows: Sequence[Sequence[str]]) -> str:
  """A table of plain texts; the first row is its head."""
  text = ""
  for number, row in enumerate(rows):
    tag = "td" if number else "th"
    text += f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"
  return f"<table>{text}</table>"


def plot(drawn: str, texts: Sequence[tuple], size: tuple[int, int]) -> str:
  """Inline SVG: what is `drawn`, and (x, y, anchor, text) of its title and of other texts."""
  written = "".join(
    f'<text x="{x:.0f}" y="{y:.0f}" font-size="11" fill="currentColor" text-anchor="{anchor}" '
    f'font-weight="{400 if k else 700}">{text}</text>'
    for k, (x, y, anchor, text) in enumerate(texts)
  )
  box = f'viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}"'
  return f'<svg {box} role="img" aria-label="{texts[0][3]}">{written}{drawn}</svg>'


def encoded(image: Image.Image, kind: str) -> bytes:
  """The bytes of a 'PNG' or 'JPEG' file."""
  buffer = io.BytesIO()
  image.save(buffer, kind, optimize=True)
  return buffer.getvalue()


def inline(image: Image.Image, about: str, kind: str) -> str:
  """A picture inside the page. For photographs, a JPEG has a fifth of a PNG's size."""
  data = base64.b64encode(encoded(image, kind)).decode()
  return f'<img alt="{html.escape(about)}" src="data:image/{kind.lower()};base64,{data}">'


def tile(dataset: Any, row: int, side: int, unread: dict[str, str] | None = None) -> np.ndarray:
  """The middle of an image, uint8 [side, side, 3]; grey where it cannot be read, or where the data
  set holds features and no images.

  What cannot be read is logged, or kept in `unread`, {id: why}, for a page where many may lack.
  """
  if vectors.held(dataset):
    return np.full((side, side, 3), 128, np.uint8)
  try:
    image = images.of_dataset(dataset, row)
  except images.UnreadableImage as error:
    if unread is None:
      logging.warning("a grey tile stands for an image: %s", error)
    else:
      unread[str(dataset.ids[row])] = str(error)
    return np.full((side, side, 3), 128, np.uint8)
  return images.resize_centre_crop(image, resize=side, size=side)


def retrieval_grid(
  rows: Sequence[Sequence[int]], labels: np.ndarray | None, read: Callable[[int], Any], side: int
) -> Image.Image:
  """One line a query: the query in grey, then its neighbours, green where the class is the same.

  Args:
    rows: for each query its own dataset row, then those of its neighbours, nearest first.
    labels: [n] class of each dataset row; without any, all frames are grey.
    read: dataset row -> uint8 [H, W, 3].
    side: pixels of a tile.
  """
  cell = side + 2 * _BORDER
  width = max(map(len, rows)) * (cell + _GAP) + 3 * _GAP
  sheet = Image.new("RGB", (width, len(rows) * (cell + _GAP) + _GAP), "white")
  draw = ImageDraw.Draw(sheet)
  for y, row in enumerate(rows):
    for x, index in enumerate(row):
      # A wider gap sets the query apart from its answers.
      left, top = _GAP + x * (cell + _GAP) + (2 * _GAP if x else 0), _GAP + y * (cell + _GAP)
      colour = QUERY
      if x and labels is not None:
        colour = RIGHT if labels[index] == labels[row[0]] else WRONG
      draw.rectangle((left, top, left + cell - 1, top + cell - 1), fill=colour)
      tile = Image.fromarray(read(index)).resize((side, side), Image.Resampling.BICUBIC)
      sheet.paste(tile, (left + _BORDER, top + _BORDER))
  return sheet
