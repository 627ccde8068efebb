"""Sentences longer than an encoder's context: parts that fit."""

import re
from collections.abc import Callable

# Where a text may be parted, the best place first: between sentences, at semicolons and dashes,
# at commas, before the words that join clauses.
_PLACES = (
  r"(?<=[.!?…])\s+|(?<=[。！？])\s*",
  r"(?<=[;:])\s+|\s+(?=[–—-]\s)",
  r"(?<=,)\s+|(?<=[，、])\s*",
  r"\s+(?=(?:and|but|or|while|with|which|whereas|although|because)\b)",
)


def split(text: str, fits: Callable[[str], bool], places: tuple[str, ...] = _PLACES) -> list[str]:
  """Parts of `text`, in order, each as long as fits; together they hold all of its words.

  Sentences are kept together where they fit, then clauses. A part without any place to split at is
  returned whole, though it does not fit: whoever encodes it must cut it.
  """
  if fits(text) or not places:
    return [text]
  parts: list[str] = []
  for piece in re.split(places[0], text):
    joined = f"{parts[-1]} {piece}" if parts else piece
    if parts and fits(joined):
      parts[-1] = joined
    elif piece.strip():
      parts.append(piece.strip())
  return [small for part in parts for small in split(part, fits, places[1:])]
