"""What a language model is asked about a class, and how its answer is read.

A change to any text here is a new `PROMPT_VERSION`, under which every class is asked about again.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lafg_jax.language.descriptions import clean

PROMPT_VERSION = "1"

_QUESTION = """\
You describe how things look, so that closely related kinds can be told apart in photographs.

Write {count} sentences about: {name}

They cover, in this order:
1. Global semantics: the kind of thing, its overall shape, proportions, size and main colours.
2. Fine texture and parts: each part that shows in a photograph, with its shape, colour, material, \
pattern and markings.
3. Differences: what tells it from the kinds that look most like it. {neighbours}

Every sentence is true of this kind in general, can be checked by looking at one photograph, makes \
sense without the others, and has at most 30 words. Say nothing about history, price, sound, \
behaviour or how it is used, and do not say the same thing twice.

Answer with a JSON list of {count} strings and nothing else."""

# Numbered items have no words of their own: their super-class is described by how items differ.
_VARIANTS = """\
You describe how things look, so that one item can be told from another in photographs.

Write {count} sentences about: {name}

Each sentence names one visual trait that some items of this kind have and others lack. Together \
they cover:
1. Global semantics: overall shapes, proportions, sizes and main colours.
2. Fine texture and parts: each part that shows in a photograph, with the shapes, colours, \
materials, patterns and finishes in which it comes.
3. Differences: what tells one item from the items that look most like it.

Every sentence can be checked by looking at one photograph, makes sense without the others, says \
what kind of thing it is about, and has at most 30 words. Say nothing about history, price, sound, \
behaviour or how it is used, and do not say the same thing twice.

Answer with a JSON list of {count} strings and nothing else."""

_NAMED = "Those kinds are: {names}. Name no other kind."
_UNNAMED = "Do not name those kinds."

_AGAIN = """

Your last answer could not be used: {reason}. Answer with a JSON list of {count} strings and \
nothing else."""

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
# Keys of an object that hold no sentence.
_NAMES = ("class", "name", "category", "title", "type", "id")
_FEWEST_WORDS = 3


class Unusable(ValueError):
  """An answer without descriptions; the message says why."""


def question(name: str, neighbours: Sequence[str], count: int, reason: str = "") -> str:
  """The message to the model about one class.

  Args:
    name: of the class.
    neighbours: names of the visually closest training classes, maybe none.
    count: sentences wanted.
    reason: why its last answer was unusable; '' for the first attempt.
  """
  listed = _NAMED.format(names="; ".join(neighbours)) if neighbours else _UNNAMED
  text = _QUESTION.format(name=name, count=count, neighbours=listed)
  return text + _again(count, reason)


def about_variants(name: str, count: int, reason: str = "") -> str:
  """The message about a super-class: the ways in which its items differ. As `question`."""
  return _VARIANTS.format(name=name, count=count) + _again(count, reason)


def _again(count: int, reason: str) -> str:
  return _AGAIN.format(reason=reason, count=count) if reason else ""


def parse(text: str, finish_reason: str, name: str, count: int) -> list[str]:
  """The distinct sentences of an answer, at most `count`.

  Reads a JSON list or object (nested, in a code fence or amid prose), or a bulleted or numbered
  list.

  Args:
    text: what the model answered.
    finish_reason: 'length' where it was cut off at the limit of tokens.
    name: the class that was asked about.
    count: sentences that were asked for.

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

  Raises:
    Unusable: the text is meant as JSON, and is broken.
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
  """The items of a list in plain text or Markdown; indented lines go on with their item."""
  items: list[str] = []
  inside = False
  for line in text.split("\n"):
    match = _BULLET.match(line)
    if match:
      items.append(match["text"])
    elif inside and line.strip() and line[0] in " \t":
      items[-1] += " " + line.strip()
    inside = bool(line.strip()) and (match is not None or (inside and line[0] in " \t"))
  # 'Differences:' above a list of its own is no sentence.
  return [item for item in items if not item.rstrip("*_ ").endswith(":")]


def _distinct(candidates: Sequence[str], name: str) -> list[str]:
  found: dict[str, str] = {}
  for candidate in candidates:
    text = (
      _LABEL.sub("", candidate.strip(), count=1) if candidate.strip()[:1] in "*_" else candidate
    )
    text = clean(re.sub(r"\*\*|__|`", "", text))
    key = text.casefold().rstrip(".")
    if len(text.split()) >= _FEWEST_WORDS and key != name.casefold() and not _REFUSAL.match(text):
      found.setdefault(key, text)
  return list(found.values())
