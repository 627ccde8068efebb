"""What a language model is asked about a composed query (prompts.toml), and how it is read."""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lafg_jax.language.describers import answers, thoughts
from lafg_jax.language.describers.chat import Answer
from lafg_jax.language.describers.thoughts import Unusable
from lafg_jax.language.descriptions import clean

_PROMPTS = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
# Part of what decides edits.
PROMPT_VERSION: str = _PROMPTS["version"]
_LABELS: dict[str, str] = _PROMPTS["labels"]
# The prompt of a data set under editor.prompt=auto.
_OF_SOURCE = {"cirr": "contextual", "fashioniq": "fashion"}
# Labels before an answer that nobody asked for, such as '**Caption:**'.
_OTHER_LABEL = (
  r"(?:the )?(?:(?:final|new|edited|modified|updated|target|wanted) )?(?:image )?"
  r"(?:description|caption|answer|output|response|result|objects?(?: added)?)"
)
_NOTHING = re.compile(r"\W*(?:nothing|none|no (?:new )?objects?|n/?a)\b[^,]*", re.IGNORECASE)


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
  parts.append(_lines(label, ", ".join(_one_line(caption) for caption in captions), text, ""))
  return "\n\n".join(parts)


def _lines(label: str, content: str, text: str, answer: str) -> str:
  """The three labelled lines of a request, or of a worked example."""
  said = {"content": content, "instruction": _one_line(text), label: answer}
  return "\n".join(f"{_LABELS[name]}: {value}".rstrip() for name, value in said.items())


def _one_line(text: str) -> str:
  return " ".join(text.split())


def edited(answer: Answer, section: str = "editor") -> str:
  """The description in an answer; raises Unusable where there is none."""
  return line_of(answer, _LABELS["edited"], section)


def added(answer: Answer, section: str = "editor") -> str:
  """The objects in an answer, '' where it says that nothing is added; raises Unusable."""
  text = line_of(answer, _LABELS["added"], section)
  return "" if _NOTHING.fullmatch(text) else text.rstrip(". ")


def line_of(answer: Answer, label: str, section: str) -> str:
  """The first line of an answer that says anything, without thoughts, echoed labels and quotes.

  An answer that repeats the request is read from its line with the `label` on. One that was cut
  off at `<section>.max_tokens` is usable if its line was whole.

  Raises:
    Unusable: it is cut off, empty, a refusal, or stopped by a content filter.
  """
  cut = answer.finish_reason == "length"
  if cut and thoughts.are_open(answer.text):
    raise Unusable(f"it was cut off at {section}.max_tokens, amid its thoughts")
  if answer.finish_reason == "content_filter":
    raise Unusable("the endpoint's content filter stopped it")
  text = _from_json(answers.without_fences(thoughts.answer_in(answer.text)).strip("\ufeff \t\r\n"))
  lines = [line for line in text.split("\n") if line.strip()]
  echoed = [i for i, line in enumerate(lines) if re.match(rf"[\W_]*{label}\W*:", line, re.I)]
  for line in lines[echoed[0] if echoed else 0 :]:
    found = _unlabelled(line, label)
    if not found or (found.endswith((":", "：")) and line != lines[-1]):
      # A label alone, or 'Here is the description:', with the answer below it.
      continue
    if answers.is_refusal(found):
      raise Unusable("it is a refusal")
    if cut and line == lines[-1]:
      raise Unusable(f"it was cut off at {section}.max_tokens")
    return found
  raise Unusable("it is empty")


def _unlabelled(line: str, label: str) -> str:
  text = re.sub(r"\*\*|__|`|^\s*#+\s|</?\w+>", "", line).strip()
  text = re.sub(r"^[-*•>]\s+", "", text)
  label = rf"(?:{re.escape(label)}|{_OTHER_LABEL})\s*[:：]\s*"
  return clean(re.sub(rf"^{label}", "", text, count=1, flags=re.IGNORECASE))


def _from_json(text: str) -> str:
  """What stands in an answer that is JSON: its first text, or the texts of a list.

  Raises Unusable where JSON is broken.
  """
  if text[:1] not in ("{", "[", '"'):
    return text
  try:
    value = json.loads(text, strict=False)
  except (ValueError, RecursionError):
    if text[0] == '"':
      return text
    raise Unusable("it is broken JSON") from None
  while isinstance(value, dict) and value:
    value = next(iter(value.values()))
  if isinstance(value, list) and all(isinstance(item, str) for item in value):
    return ", ".join(value)
  return value if isinstance(value, str) else text
