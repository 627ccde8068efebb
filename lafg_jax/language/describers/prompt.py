"""What a language model is asked about a class (prompts.toml)."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

_PROMPTS = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
# Part of what decides descriptions: under a new version every class is asked about again.
PROMPT_VERSION: str = _PROMPTS["version"]


def question(name: str, neighbours: Sequence[str], count: int, reason: str = "") -> str:
  """The message that asks for `count` sentences about a class, unlike its `neighbours`, if any.

  `reason` says why the last answer was unusable; it is '' in the first attempt.
  """
  known = _PROMPTS["named"].format(names="; ".join(neighbours))
  text = _PROMPTS["question"].format(
    name=name, count=count, neighbours=known if neighbours else _PROMPTS["unnamed"]
  )
  return text + _again(count, reason)


def plain_question(name: str, count: int) -> str:
  """The message for a model that did not keep to the form of the other ones."""
  return _PROMPTS["plain"].format(name=name, count=count)


def about_variants(name: str, count: int, reason: str = "") -> str:
  """The message about a super-class: how its items differ. Arguments as `question`."""
  return _PROMPTS["variants"].format(name=name, count=count) + _again(count, reason)


def _again(count: int, reason: str) -> str:
  return _PROMPTS["again"].format(reason=reason, count=count) if reason else ""
