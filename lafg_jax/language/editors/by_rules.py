"""Edits by a few rules, without a language model: of finches, or of captions that list phrases.

Captions that `captioners.attributes` writes list a phrase for each attribute. Where a sentence
names a value ('the same, but red', 'for women', 'formal instead of casual'), by its phrase or by
its own word, the phrase of that value stands in place of the attribute's former one.
"""

import re
from collections.abc import Callable
from typing import Any

from lafg_jax.finches import grammar
from lafg_jax.language.captioners import attributes
from lafg_jax.language.captioners.attributes import Phrases
from lafg_jax.utils.errors import UserError

Edit = Callable[[str, str], str | None]

# What follows is what there was, up to the next clause.
_FORMER = re.compile(r"\b(?:instead of|in place of|rather than)\b.*?(?=,|;|\band\b|$)")


def of(config: Any) -> Edit:
  """The editor `editor.kind=grammar` of a config: (caption, text) -> edited caption, or None.

  Raises UserError where neither the finches' grammar nor phrases of one's own apply.
  """
  found = phrases(config)
  return by_phrases(found) if found else grammar.edit


def phrases(config: Any) -> Phrases:
  """The phrases by which captions are edited; {} of finches, which have a grammar of their own.

  Raises UserError as `of` does.
  """
  if config.composed.source == "finches":
    return {}
  source = config.composed.source
  if config.captioner.kind != "attributes":
    file = "" if source == "attributes" else " and --config.captioner.file"
    raise UserError(
      f"--config.editor.kind=grammar with composed.source={source} edits captions that list "
      f"attributes: pass --config.captioner.kind=attributes{file}, or another editor"
    )
  return attributes.of(config).phrases


def by_phrases(phrases: Phrases) -> Edit:
  """The editor of captions that list phrases; None where a text names no value.

  A word that two attributes have as a value is read by their phrases alone.
  """
  told = _told(phrases)
  in_text = _longest_first(list(told))
  of_phrase = {
    said.lower(): name for name, of in phrases.items() for these in of.values() for said in these
  }
  in_caption = _longest_first(list(of_phrase))

  def edit(caption: str, text: str) -> str | None:
    wanted: dict[str, str] = {}
    for found in in_text.finditer(_FORMER.sub(" ", text.lower())):
      name, value = told[found.group()]
      wanted.setdefault(name, value)
    for name, value in wanted.items():
      caption = _with_phrase(caption, in_caption, of_phrase, name, phrases[name][value][0])
    return caption if wanted else None

  return edit


def stated(phrases: Phrases) -> Callable[[str], set[tuple[str, str]]]:
  """The function caption -> {(attribute, value)}: all that it states, by a phrase or own word."""
  told = _told(phrases)
  in_text = _longest_first(list(told))
  return lambda caption: {told[found.group()] for found in in_text.finditer(caption.lower())}


def _told(phrases: Phrases) -> dict[str, tuple[str, str]]:
  """{phrase, or word of a value, in lower case: (attribute, value)}; none that two have."""
  found: dict[str, set[tuple[str, str]]] = {}
  for name, of in phrases.items():
    for value, these in of.items():
      for said in {value.lower(), *(said.lower() for said in these)}:
        found.setdefault(said, set()).add((name, value))
  return {said: next(iter(claims)) for said, claims in found.items() if len(claims) == 1}


def _with_phrase(
  caption: str, in_caption: re.Pattern, of_phrase: dict[str, str], attribute: str, phrase: str
) -> str:
  """A caption whose phrases of an attribute are another one; it is added where there is none."""
  count = 0

  def new(found: re.Match) -> str:
    nonlocal count
    if of_phrase[found.group().lower()] != attribute:
      return found.group()
    count += 1
    return phrase

  changed = in_caption.sub(new, caption)
  return changed if count else re.sub(r"\.?\s*$", f", {phrase}.", caption, count=1)


def _longest_first(words: list[str]) -> re.Pattern:
  longest = sorted(words, key=len, reverse=True)
  return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest))})(?![\w-])", re.IGNORECASE)
