"""Sentences that change one or two attributes: 'the same, but red', 'formal instead of casual'.

The name of a column chooses the form of its phrases. A column of any other name has the general
form, 'with short as sleeve length', and one of yes and no has 'with' and 'without'.
"""

from collections.abc import Sequence
from typing import NamedTuple

_KIND = ("usage", "style", "fit", "pattern", "condition", "finish", "look", "size", "shape")
_COLOUR = ("colour", "color", "base_colour", "base_color", "basecolour", "main_colour")
_MATERIAL = ("material", "fabric")
_WHOM = ("gender", "sex", "audience", "age_group", "target_group", "made_for")
_WHEN = ("season", "occasion")
# In a sentence of two changes they stand in this order: 'formal and red', 'red and for women'.
_ORDER = (_KIND, _COLOUR, _MATERIAL, (*_WHOM, *_WHEN))
_YES = ("yes", "true", "1", "y")
_NO = ("no", "false", "0", "n")
_ALIKE = {"unisex": "everyone", "male": "men", "female": "women", "man": "men", "woman": "women"}


class Change(NamedTuple):
  """One column of the table, and the cells before and after."""

  column: str
  old: str
  new: str


class Phrase(NamedTuple):
  """Three ways to tell a change: 'red', 'in red' and 'red instead of blue'."""

  short: str
  alone: str
  instead: str


def sentence(changes: Sequence[Change], number: int) -> str:
  """The sentence of one or more changes; `number` chooses among its forms, round after round."""
  phrases = [phrase(change) for change in sorted(changes, key=_place)]
  short, alone, instead = (" and ".join(x) for x in zip(*phrases, strict=True))
  forms = (f"the same, but {short}", alone, instead, f"{short}, else the same")
  return forms[number % len(forms)]


def phrase(change: Change) -> Phrase:
  """What tells one change, by the name of its column."""
  column = _plain(change.column)
  words = column.replace("_", " ")
  old, new = change.old.lower(), change.new.lower()
  if column in _KIND:
    return Phrase(new, f"make it {new}", f"{new} instead of {old}")
  if column in _COLOUR:
    return Phrase(new, f"in {new}", f"{new} instead of {old}")
  if column in _MATERIAL:
    return Phrase(f"made of {new}", f"made of {new}", f"made of {new} instead of {old}")
  if column in (*_WHOM, *_WHEN):
    old, new = _ALIKE.get(old, old), _ALIKE.get(new, new)
    return Phrase(f"for {new}", f"for {new}", f"for {new} instead of {old}")
  if new in (*_YES, *_NO) and old in (*_YES, *_NO):
    said = f"with {words}" if new in _YES else f"without {words}"
    return Phrase(said, said, said)
  # Of any other column case may matter: it may be a brand.
  said = f"with {change.new} as {words}"
  return Phrase(said, said, f"with {change.new} instead of {change.old} as {words}")


def spoken(column: str, value: str, of_type: bool = False) -> str:
  """What tells a value in a caption: 'red', 'for women'; of the column of types its own word."""
  return value.lower() if of_type else phrase(Change(column, "", value)).short


def _place(change: Change) -> int:
  column = _plain(change.column)
  return next((k for k, names in enumerate(_ORDER) if column in names), len(_ORDER))


def _plain(column: str) -> str:
  return "_".join(column.strip().lower().replace("-", " ").split())
