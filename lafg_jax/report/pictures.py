"""Pictures of what was retrieved: queries with their nearest gallery images, right or wrong."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

RIGHT, WRONG, QUERY = (46, 160, 67), (207, 34, 46), (88, 96, 105)
_BORDER, _GAP = 4, 6


def retrieval_grid(
  rows: Sequence[Sequence[int]],
  labels: np.ndarray | None,
  read: Callable[[int], np.ndarray],
  side: int,
) -> Image.Image:
  """One line a query: the query in grey, then its neighbours, green where the class is the same.

  Args:
    rows: for each query its own dataset row, then those of its neighbours, nearest first.
    labels: [n] class of each dataset row; None where there are none, and all is grey.
    read: dataset row -> uint8 [H, W, 3].
    side: pixels of a tile.
  """
  cell = side + 2 * _BORDER
  num_columns = max(len(row) for row in rows)
  width = num_columns * (cell + _GAP) + 3 * _GAP
  sheet = Image.new("RGB", (width, len(rows) * (cell + _GAP) + _GAP), "white")
  draw = ImageDraw.Draw(sheet)
  for y, row in enumerate(rows):
    for x, index in enumerate(row):
      # A wider gap sets the query apart from its answers.
      left = _GAP + x * (cell + _GAP) + (2 * _GAP if x else 0)
      top = _GAP + y * (cell + _GAP)
      colour = QUERY
      if x and labels is not None:
        colour = RIGHT if labels[index] == labels[row[0]] else WRONG
      draw.rectangle((left, top, left + cell - 1, top + cell - 1), fill=colour)
      tile = Image.fromarray(read(index)).resize((side, side), Image.Resampling.BICUBIC)
      sheet.paste(tile, (left + _BORDER, top + _BORDER))
  return sheet


def curve(points: Sequence[tuple[float, float]], title: str, width=420, height=180) -> str:
  """A line plot as inline SVG, its axes labelled with the extremes."""
  if len(points) < 2:
    return ""
  x, y = (np.array(axis, float) for axis in zip(*points, strict=True))
  low, high = y.min(), y.max()
  u = 48 + (x - x.min()) / max(np.ptp(x), 1e-9) * (width - 60)
  v = height - 24 - (y - low) / max(high - low, 1e-9) * (height - 52)
  path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(u, v, strict=True))
  text = 'font-size="11" fill="currentColor"'
  return (
    f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">'
    f'<text x="48" y="14" {text} font-weight="bold">{title}</text>'
    f'<text x="44" y="{v[y.argmax()] + 4:.0f}" {text} text-anchor="end">{high:.3g}</text>'
    f'<text x="44" y="{v[y.argmin()] + 4:.0f}" {text} text-anchor="end">{low:.3g}</text>'
    f'<text x="48" y="{height - 6}" {text}>step {x.min():.0f}</text>'
    f'<text x="{width - 12}" y="{height - 6}" {text} text-anchor="end">{x.max():.0f}</text>'
    f'<polyline points="{path}" fill="none" stroke="#2563eb" stroke-width="1.6"/></svg>'
  )
