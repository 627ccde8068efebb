"""What a language model is asked about a composed query (prompts.toml), and how it is read."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lafg_jax.language.describers import one_line
from lafg_jax.language.describers.chat import Answer

_PROMPTS = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
# Part of what decides edits.
PROMPT_VERSION: str = _PROMPTS["version"]
_LABELS: dict[str, str] = _PROMPTS["labels"]
_OTHERS = (_LABELS["content"], _LABELS["instruction"])
# The prompt of a data set under editor.prompt=auto.
_OF_SOURCE = {"cirr": "contextual", "fashioniq": "fashion"}
_NOTHING = re.compile(
  r"\W*(?:nothing|none|no (?:new |additional )?objects?|n/?a)"
  r"(?: (?:(?:is|are|was|were) )?(?:added|new|needed))?\W*",
  re.IGNORECASE,
)


def kind_of(asked: str, source: str) -> str:
  """The prompt of `editor.prompt`, where 'auto' is resolved by `composed.source`."""
  return _OF_SOURCE.get(source, "structural") if asked == "auto" else asked


def edit_question(kind: str, captions: Sequence[str], text: str, reason: str = "") -> str:
  """The message that asks for the description of the edited image.

  kind: 'contextual', 'structural' or 'fashion'. captions: of the reference image. text: the
  modification. reason: why the last answer could not be used; '' in the first attempt.
  """
  return _message(_PROMPTS[kind], "edited", captions, text, reason)


def added_question(captions: Sequence[str], text: str, reason: str = "") -> str:
  """The message that asks for the objects most likely added. Arguments as `edit_question`."""
  return _message(_PROMPTS["added"], "added", captions, text, reason)


def _message(
  prompt: dict[str, Any], label: str, captions: Sequence[str], text: str, reason: str
) -> str:
  parts = [prompt["rules"]]
  for name, *example in prompt.get("aspects", ()):
    parts.append(f"{name}:\n{_lines(label, *example)}")
  parts += [_lines(label, *example) for example in prompt["examples"]]
  if reason:
    parts.append(_PROMPTS["again"]["text"].replace("{reason}", reason))
  parts.append(_lines(label, ", ".join(_joined(caption) for caption in captions), text, ""))
  return "\n\n".join(parts)


def _lines(label: str, content: str, text: str, answer: str) -> str:
  """The three labelled lines of a request, or of a worked example."""
  said = {"content": content, "instruction": _joined(text), label: answer}
  return "\n".join(f"{_LABELS[name]}: {value}".rstrip() for name, value in said.items())


def _joined(text: str) -> str:
  return " ".join(text.split())


def edited(answer: Answer) -> str:
  """The description in an answer; raises Unusable where there is none."""
  return one_line.read(answer, _LABELS["edited"], "editor", _OTHERS)


def added(answer: Answer) -> str:
  """The objects in an answer, '' where it says that nothing is added; raises Unusable."""
  text = one_line.read(answer, _LABELS["added"], "editor", _OTHERS)
  return "" if _NOTHING.fullmatch(text) else text.rstrip(". ")
