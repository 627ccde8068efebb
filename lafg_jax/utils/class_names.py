"""Class names: their order in a file, a few of them in a message, and whether they say anything."""

import os
import re
from collections.abc import Sequence

import numpy as np

from lafg_jax.utils.errors import UserError

_GENERIC = re.compile(
  r"(class|category|cluster|group|id|item|label|object|product)?[ ._-]*\d+", re.I
)


def is_generic(name: str) -> bool:
  """Whether a name only counts classes ('class 01', '7'): others may bear it, and it others'."""
  return _GENERIC.fullmatch(name) is not None


def class_order(
  path: str | os.PathLike, found: np.ndarray, wanted: Sequence[str], *, stage: str
) -> np.ndarray:
  """Positions [C] of the classes `wanted` in `found`, which must hold these and no other.

  Raises:
    UserError: a class is missing, foreign or repeated; names it.
  """
  positions = {str(name): i for i, name in enumerate(found)}
  again = f"run --stage={stage} again"
  if len(positions) != len(found):
    raise UserError(f"{path} holds a class twice: {again}")
  foreign = [name for name in positions if name not in set(wanted)]
  if foreign:
    raise UserError(
      f"{path} holds {len(foreign)} classes that are not training classes ({shorten(foreign)}), "
      f"whose words would leak into training: {again}"
    )
  missing = [name for name in wanted if name not in positions]
  if missing:
    raise UserError(
      f"{path} lacks {len(missing)} of {len(wanted)} training classes ({shorten(missing)}): {again}"
    )
  return np.array([positions[name] for name in wanted], np.int64)


def shorten(names: Sequence[str], most: int = 3) -> str:
  """The first few names, quoted, for a message of one line."""
  return ", ".join(repr(name) for name in names[:most]) + (", ..." if len(names) > most else "")
