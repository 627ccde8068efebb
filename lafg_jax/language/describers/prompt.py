"""What a language model is asked about a class (prompts.toml), and how its answer is read."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lafg_jax.language.descriptions import clean

_PROMPTS = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
# Part of what decides descriptions: under a new version every class is asked about again.
PROMPT_VERSION: str = _PROMPTS["version"]

_REFUSAL = re.compile(
  r"\W*(i['’]?m (very |really |so |terribly )?sorry|i am (very |really |so )?sorry|sorry\b|"
  r"i apologi[sz]e|my apologies|unfortunately,? i\b|as an? (ai|artificial|large|language|llm)\b|"
  r"i (cannot|can['’]?t|can not|won['’]?t|will not|am unable|am not able|do not have|"
  r"don['’]?t have)\b|i['’]?m (unable|not able|an? (ai|language))\b|i am an? (ai|language)\b)",
  re.IGNORECASE,
)
_BULLET = re.compile(r"\s*(?:[-*+•·◦‣–—]|\(?\d{1,3}[.):]|\(?[A-Za-z][.)])\s+(?P<text>.*)")
_LABEL = re.compile(r"(\*\*|__)[^*_]{1,60}?:?\1\s*[:–—-]?\s*(?=\S)")
_FENCE = re.compile(r"^\s*```[\w-]*\s*$", re.MULTILINE)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
# Keys of a JSON object whose values are no sentences.
_NAMES = ("class", "name", "category", "title", "type", "id")
_FEWEST_WORDS = 3


class Answer(NamedTuple):
  """A language model's answer to one question."""

  text: str
  finish_reason: str = "stop"  # 'length' where it was cut off
  error: str = ""  # why no answer came, after all retries


# Questions -> (position, answer) in any order; the attempt, from 0, varies the random seed.
Ask = Callable[[Sequence[str], int], Iterator[tuple[int, Answer]]]


class Unusable(ValueError):
  """An answer without descriptions; the message says why."""


def question(name: str, neighbours: Sequence[str], count: int, reason: str = "") -> str:
  """The message that asks for `count` sentences about a class, unlike its `neighbours`, if any.

  `reason` says why the last answer was unusable; it is '' in the first attempt.
  """
  known = _PROMPTS["named"].format(names="; ".join(neighbours))
  text = _PROMPTS["question"].format(
    name=name, count=count, neighbours=known if neighbours else _PROMPTS["unnamed"]
  )
  return text + _again(count, reason)


def about_variants(name: str, count: int, reason: str = "") -> str:
  """The message about a super-class: how its items differ. Arguments as `question`."""
  return _PROMPTS["variants"].format(name=name, count=count) + _again(count, reason)


def _again(count: int, reason: str) -> str:
  return _PROMPTS["again"].format(reason=reason, count=count) if reason else ""


def parse(text: str, finish_reason: str, name: str, count: int) -> list[str]:
  """The distinct sentences of an answer about the class `name`, at most `count`.

  Reads a JSON list or object (nested, in a code fence or amid prose), or a bulleted or numbered
  list. `finish_reason` is 'length' where the answer was cut off at the limit of tokens.

  Raises:
    Unusable: the answer is cut off, empty, a refusal or of another form, or has less than half of
      the sentences.
  """
  if finish_reason == "length":
    raise Unusable("it was cut off at language.max_tokens")
  text = _FENCE.sub("", _THOUGHT.sub("", text)).strip()
  if not text:
    raise Unusable("it is empty")
  if "<think>" in text.lower():
    raise Unusable("it ends amid its thoughts")
  candidates = _from_json(text)
  if candidates is None:
    if _REFUSAL.match(text):
      raise Unusable("it is a refusal")
    candidates = _from_bullets(text)
  sentences = _distinct(candidates, name)
  if not sentences:
    refused = any(_REFUSAL.match(candidate) for candidate in candidates)
    raise Unusable("it is a refusal" if refused else "it holds no list of sentences")
  if 2 * len(sentences) < count:
    raise Unusable(f"it holds {len(sentences)} of {count} sentences")
  return sentences[:count]


def _from_json(text: str) -> list[str] | None:
  """The strings in the first JSON list or object of a text; None where there is none.

  Raises Unusable if the whole text is meant as JSON, and is broken.
  """
  decoder = json.JSONDecoder()
  for match in re.finditer(r"[\[{]", text):
    try:
      value, _ = decoder.raw_decode(text, match.start())
    except (ValueError, RecursionError):
      if match.start() == 0:
        raise Unusable("it is broken JSON") from None
      continue
    found = list(_strings(value))
    if found:
      return found
  return None


def _strings(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, list):
    for item in value:
      yield from _strings(item)
  elif isinstance(value, dict):
    for key, item in value.items():
      if key.strip().lower() not in _NAMES:
        yield from _strings(item)


def _from_bullets(text: str) -> list[str]:
  """The items of a list in plain text or Markdown; indented lines continue their item."""
  items: list[str] = []
  inside = False
  for line in text.split("\n"):
    match = _BULLET.match(line)
    if match:
      items.append(match["text"])
    elif inside and line.strip() and line[0] in " \t":
      items[-1] += " " + line.strip()
    inside = bool(line.strip()) and (match is not None or (inside and line[0] in " \t"))
  # A heading such as 'Differences:' above a list is no sentence.
  return [item for item in items if not item.rstrip("*_ ").endswith(":")]


def _distinct(candidates: Sequence[str], name: str) -> list[str]:
  found: dict[str, str] = {}
  for text in candidates:
    if text.strip()[:1] in "*_":
      text = _LABEL.sub("", text.strip(), count=1)
    text = clean(re.sub(r"\*\*|__|`", "", text))
    key = text.casefold().rstrip(".")
    if len(text.split()) >= _FEWEST_WORDS and key != name.casefold() and not _REFUSAL.match(text):
      found.setdefault(key, text)
  return list(found.values())
