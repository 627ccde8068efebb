"""Features that are kept in a workdir, by what they depend on: `<workdir>/features/`.

Each file has `vectors` [n, D] and `there` [n] bool, whether a row is of anything. A sweep of
weights encodes nothing again. The folder may be deleted at any time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lafg_jax.runtime import distributed
from lafg_jax.utils import files

FOLDER = "features"
# Rows of one file: what a run that is killed has to make again.
SHARD = 4096
_NAMES = ("vectors", "there")
Kept = tuple[np.ndarray, np.ndarray]


def kept(
  workdir: str, name: str, inputs: Sequence[Any], count: int, make: Callable[[int, int], Kept]
) -> Kept:
  """vectors [count, D] and there [count] of rows that `make(first, last)` makes part by part.

  inputs: what they depend on, as `files.fingerprint` takes it. All processes call it together.
  """
  key = files.fingerprint(*inputs)[:16]
  parts = []
  for number, first in enumerate(range(0, count, SHARD)):
    last = min(first + SHARD, count)
    path = Path(workdir, FOLDER, f"{name}-{key}-{number:05d}.npz")
    parts.append(_part(path, last - first, lambda first=first, last=last: make(first, last)))
  vectors, there = zip(*parts, strict=True)
  # One part is not copied.
  return (
    vectors[0] if len(parts) == 1 else np.concatenate(vectors),
    there[0] if len(parts) == 1 else np.concatenate(there),
  )


def _part(path: Path, count: int, make: Callable[[], Kept]) -> Kept:
  def read() -> Kept | None:
    return files.read_cached_npz(path, _NAMES, lambda x, y: len(x) == len(y) == count)

  # All make a part together, or none does.
  if distributed.agree(f"features {path.name}", lambda: read() is not None):
    found = read()
    if found is not None:
      return found
  vectors, there = make()
  if jax.process_index() == 0:
    files.write_npz(path, vectors=vectors, there=there)
  return vectors, there
