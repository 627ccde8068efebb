"""Numbers with their nouns, and lists, for messages: '1 class', '2 classes', 'a, b and c'."""

import re
from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
  """The count with thousands marked, and the noun in its number; the last word is the noun's own.

  counted(1, "class") is '1 class', counted(1200, "near copy") is '1,200 near copies'.
  """
  return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
  """The regular English plural of a noun."""
  if re.search(r"(s|x|sh|ch)$", noun):
    return noun + "es"
  return re.sub(r"(?<=[^aeiou])y$", "ie", noun) + "s"


def listed(names: Iterable[str]) -> str:
  """'a, b and c'."""
  *most, last = names
  return f"{', '.join(most)} and {last}" if most else last
