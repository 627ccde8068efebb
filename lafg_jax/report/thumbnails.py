"""Small pictures of many images: sheets in the page, or beside it where they are many."""

import base64
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lafg_jax.utils import files

FOLDER = "report_files"
SIDE, COLUMNS = 48, 16
# Bytes of sheets that lie in the page itself.
INLINE = 2_000_000


def written(
  workdir: str, rows: Sequence[int], picture: Callable[[int], np.ndarray], inline: int = INLINE
) -> dict[str, Any]:
  """What the script of the page needs to show thumbnail k, that of `rows[k]`.

  Args:
    picture: row -> uint8 [SIDE, SIDE, 3].
    inline: most bytes in the page; with more, sheets lie in `report_files` of the workdir, by names
      that follow from their content, and those of an earlier page are removed.
  """
  each = COLUMNS * COLUMNS
  with ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as pool:
    sheets = [
      _sheet(list(pool.map(picture, rows[start : start + each])))
      for start in range(0, len(rows), each)
    ]
  names = []
  if sum(map(len, sheets)) > inline:
    for sheet in sheets:
      names.append(f"{hashlib.sha256(sheet).hexdigest()[:16]}.jpg")
      with files.replacing(os.path.join(workdir, FOLDER, names[-1])) as temporary:
        temporary.write_bytes(sheet)
  for path in Path(workdir, FOLDER).glob("*.jpg"):
    if path.name not in names:
      path.unlink()
  places = [f"{FOLDER}/{name}" for name in names] or [
    f"data:image/jpeg;base64,{base64.b64encode(sheet).decode()}" for sheet in sheets
  ]
  return {"side": SIDE, "columns": COLUMNS, "per_sheet": each, "sheets": places}


def _sheet(tiles: Sequence[np.ndarray]) -> bytes:
  """A JPEG of tiles, row by row; its width is the same however few there are."""
  lines = -(-len(tiles) // COLUMNS)
  sheet = np.zeros((lines * SIDE, COLUMNS * SIDE, 3), np.uint8)
  for k, tile in enumerate(tiles):
    y, x = k // COLUMNS * SIDE, k % COLUMNS * SIDE
    sheet[y : y + SIDE, x : x + SIDE] = tile
  buffer = io.BytesIO()
  Image.fromarray(sheet).save(buffer, "JPEG", quality=80)
  return buffer.getvalue()
