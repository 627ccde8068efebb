"""The record of a config key, and rules for its value."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

# What a key decides (`Key.decides`). A stage depends on the keys of its own kinds, and on the files
# of earlier stages, by their content.
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
  """accepts: value -> whether it is valid; an error means no. wanted: the same in words."""

  accepts: Callable[[Any], bool]
  wanted: str


class ReadBy(NamedTuple):
  """Makes a key readable only with some values of another key.

  key: the other key, such as 'loss.auxiliary'. values: its values that read this key. unset: the
  value that this key needs with all others; None where it may have any.
  """

  key: str
  values: tuple[str, ...]
  unset: Any = None


class Key(NamedTuple):
  """One row of the table.

  name: dotted. default: a cell of the study (`ablation/plan.py`) is identified by the values that
  differ from it, so a new default takes a new `plan._VERSION`. rule: the valid values. decides: one
  of `KINDS`. comment: its documentation. read_by: see `ReadBy`. secret: errors hide its value.
  path: its value may be a path, in which ~ is a home folder.
  auto: what --config.KEY=auto sets, where the key takes no such word.
  """

  name: str
  default: Any
  rule: Rule
  decides: str
  comment: str
  read_by: ReadBy | None = None
  secret: bool = False
  path: bool = False
  auto: Any = None


def one_of(*names: str) -> Rule:
  """One of some texts."""
  return Rule(lambda x: x in names, "one of " + ", ".join(name or "''" for name in names))


def at_least(low: float) -> Rule:
  """A finite number from `low` on."""
  return Rule(lambda x: math.isfinite(x) and x >= low, f"a number of at least {low}")


def auto_or(low: int) -> Rule:
  """0, which means auto, or a whole number from `low` on."""
  return Rule(
    lambda x: isinstance(x, int) and (x == 0 or x >= low), f"auto, or a number of at least {low}"
  )


def within(low: float, high: float) -> Rule:
  """A number in [low, high)."""
  return Rule(lambda x: low <= x < high, f"a number of at least {low} and below {high}")


def numbers(x: Any, count: int | None = None) -> bool:
  """Whether x is a tuple of finite numbers, `count` of them where it is given."""
  finite = isinstance(x, tuple) and all(isinstance(v, int | float) and math.isfinite(v) for v in x)
  return finite and count in (None, len(x))


BOOL = Rule(lambda x: isinstance(x, bool), "True or False")
TEXT = Rule(lambda x: isinstance(x, str), "a text, or nothing")
NAMED = Rule(lambda x: isinstance(x, str) and x != "", "a name")
REGEX = Rule(lambda x: bool(re.compile(x)), "a regular expression")
POSITIVE = Rule(lambda x: math.isfinite(x) and x > 0, "above 0")
