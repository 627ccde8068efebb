"""Class names: their order in a file, a few of them in a message, and whether they say anything."""

import os
import re
from collections.abc import Sequence

import numpy as np

from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

_WORDS = "class|category|cluster|group|id|item|label|object|product"
_GENERIC = re.compile(rf"({_WORDS})?[ ._-]*\d+", re.I)


def is_generic(name: str) -> bool:
  """Whether a name only counts classes ('class 01', '7'), so that two data sets may share it."""
  return _GENERIC.fullmatch(name) is not None


def class_order(
  path: str | os.PathLike, found: np.ndarray, wanted: Sequence[str], *, stage: str
) -> np.ndarray:
  """Positions [C] of the classes `wanted` in `found`, which must hold these and no other.

  Raises UserError, which names it, for a missing, foreign or repeated class.
  """
  positions = {str(name): i for i, name in enumerate(found)}
  foreign = [name for name in positions if name not in set(wanted)]
  missing = [name for name in wanted if name not in positions]
  problem = ""
  if len(positions) != len(found):
    problem = "holds a class twice"
  elif foreign:
    problem = (
      f"holds {counted(len(foreign), 'class')} not of the training ({shorten(foreign)}), whose "
    )
    problem += "words would leak into training"
  elif missing:
    problem = (
      f"lacks {len(missing)} of {counted(len(wanted), 'training class')} ({shorten(missing)})"
    )
  if problem:
    raise UserError(f"{path} {problem}: run --stage={stage} again")
  return np.array([positions[name] for name in wanted], np.int64)


def shorten(names: Sequence[str], most: int = 3) -> str:
  """The first few names, quoted, for a message of one line."""
  return ", ".join(repr(name) for name in names[:most]) + (", ..." if len(names) > most else "")
