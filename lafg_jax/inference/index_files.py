"""What machines read of an exported index, beside the vectors: whose they are, and of what.

gallery_model.json: {'model': the model's id, 'task', 'dim', 'rows', 'metric', ...}.
gallery_rows.jsonl: a line a row of the vectors, in their order: {'path', 'class', 'metadata': {the
user's columns}}, or {'caption'}.
"""

import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import replacing

INDEX, ABOUT, ROWS = "gallery.faiss", "gallery_model.json", "gallery_rows.jsonl"


def row(path: str, label: str, metadata: dict[str, Any]) -> dict[str, Any]:
  """A line of ROWS, of an image."""
  return {"path": path, "class": label, "metadata": metadata}


def write_faiss(out: str, vectors: np.ndarray) -> None:
  """Writes INDEX of vectors [n, D], an IndexFlatIP: exact inner products. It takes faiss."""
  import faiss

  index = faiss.IndexFlatIP(vectors.shape[1])
  index.add(np.ascontiguousarray(vectors))
  with replacing(os.path.join(out, INDEX)) as temporary:
    faiss.write_index(index, str(temporary))


def write(out: str, rows: Iterable[dict[str, Any]], about: dict[str, Any]) -> list[str]:
  """Writes both into a folder; returns their names. `about` has 'model', 'task' and 'dim'."""
  count = 0
  with replacing(os.path.join(out, ROWS)) as temporary, open(temporary, "w", encoding="utf-8") as f:
    for found in rows:
      # As ASCII, so that no line break of a name is one of the file.
      f.write(json.dumps(found) + "\n")
      count += 1
  facts = about | {"rows": count, "metric": "cosine: the inner product of vectors of unit norm"}
  with replacing(os.path.join(out, ABOUT)) as temporary:
    temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
  return [ROWS, ABOUT]


def check(out: str, model: str) -> None:
  """Raises UserError where a folder has the index of another model."""
  path = os.path.join(out, ABOUT)
  try:
    with open(path, encoding="utf-8") as file:
      found = json.load(file)["model"]
  except (OSError, ValueError, KeyError, TypeError):
    return
  if found != model:
    raise UserError(
      f"{out} has an index of another model ({found}; this one is {model}): pass another --out"
    )
