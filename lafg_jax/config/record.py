"""The record of a config key, and the rules that a value of one can be held to."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

# What a key decides (`Key.decides`). A stage depends on the keys of its own kinds; what earlier
# stages have made it reads as files, whose content it fingerprints.
KINDS = {
  "nothing": "how, where from and how fast: no figure",
  "words": "what is written about the classes (describe)",
  "features": "what the frozen encoder makes of texts and images (encode)",
  "prototypes": "the vocabulary and the prototypes (prototypes)",
  "targets": "what training takes of the prototypes, where it reads words (train)",
  "embedding": "the network before training, and how it sees an image (train and evaluate)",
  "training": "what is learned (train)",
  "evaluation": "what is measured (evaluate)",
}


class Rule(NamedTuple):
  """accepts: whether a value may be; where it raises, it may not. wanted: that, in words."""

  accepts: Callable[[Any], bool]
  wanted: str


class ReadBy(NamedTuple):
  """A key that only some values of another key read.

  key: the other key, such as 'loss.auxiliary'. values: those that read this one. unset: the value
  that asks for nothing, and which others need; None where any value may stand unread.
  """

  key: str
  values: tuple[str, ...]
  unset: Any = None


class Key(NamedTuple):
  """One row of the table.

  name: dotted. default: cells of the study (`ablation/plan.py`) are known by the values that differ
  from it, so whoever changes one raises `plan._VERSION`. rule: what a value may be. decides: of
  `KINDS`. comment: all that the documentation says of it. read_by: where some values of another key
  alone read it. secret: a value that is refused is not printed.
  """

  name: str
  default: Any
  rule: Rule
  decides: str
  comment: str
  read_by: ReadBy | None = None
  secret: bool = False


def one_of(*names: str) -> Rule:
  """One of some texts."""
  return Rule(lambda x: x in names, "one of " + ", ".join(name or "''" for name in names))


def at_least(low: float) -> Rule:
  """A finite number from `low` on."""
  return Rule(lambda x: math.isfinite(x) and x >= low, f"a number of at least {low}")


def between(low: float, high: float) -> Rule:
  """A number in [low, high)."""
  return Rule(lambda x: low <= x < high, f"a number of at least {low} and below {high}")


def numbers(x: Any, count: int | None = None) -> bool:
  """Whether x is a tuple of finite numbers, `count` of them where it is given."""
  return (
    isinstance(x, tuple)
    and (count is None or len(x) == count)
    and all(isinstance(v, int | float) and math.isfinite(v) for v in x)
  )


def _compiles(x: str) -> bool:
  try:
    re.compile(x)
  except re.error:
    return False
  return True


BOOL = Rule(lambda x: isinstance(x, bool), "True or False")
TEXT = Rule(lambda x: isinstance(x, str), "a text, or nothing")
NAMED = Rule(lambda x: isinstance(x, str) and x != "", "a name")
REGEX = Rule(_compiles, "a regular expression")
POSITIVE = Rule(lambda x: math.isfinite(x) and x > 0, "above 0")
