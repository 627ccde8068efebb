"""An editor of captions by a small grammar, without a language model: it knows what stands here.

It finds the phrases of a caption that tell an attribute, reads in a sentence which attributes are
to change, and puts other phrases in their place. It reads the phrases of captions, words for
colours, shapes and parts of the bird, negation, and comparison of bars and tails. It was written
for the wordings that wordings.json calls known, and must not be tuned on those held out. What is
said otherwise may be read wrongly, or not at all.
"""

import functools
import re
from typing import NamedTuple

from lafg_jax.finches import text as finch_text
from lafg_jax.finches.modifications import NOTHING, STEPS
from lafg_jax.finches.text import ATTRIBUTES, COLOURS, Claim

# Words beside the shades of captions.
_MORE_COLOURS = {"red": "crimson", "brown": "rufous", "grey": "slate", "gray": "slate"}
_COLOURED = {
  "body": "body|breast|belly|underparts|plumage",
  "crown": "crown|cap|head",
  "wing": "wings?|flight feathers|wing feathers",
  "ring": "eye-?rings?|rings?",
}
# Words of a value, and the part that they are said of.
_SHAPES = {
  ("bill", "cone"): "conical|cone-shaped|cone|stout|thick|seed-eater's",
  ("bill", "thin"): "thin|slender|needle-like|pointed",
  ("bill", "hooked"): "hooked|hooks?",
  ("bill", "crossed"): "crossed|cross|crossing",
  ("tail", "short"): "short|stubby|stub",
  ("tail", "forked"): "forked|fork",
  ("tail", "long"): "long|slim",
  ("tail", "fan"): "fan-shaped|fan|fanned|broad|wide",
}
_PARTS = {"bill": "bill|beak|mandibles", "tail": "tail"}
_BARS = r"(?:wing-?)?bars?"
# Words that tell a pattern of the wing by themselves; the first that is found counts.
# Words that tell a pattern of the wing by themselves; what is found first counts.
_PATTERNS = {
  "double-barred": rf"(?:two|double|pair of)(?: \S+)?? {_BARS}|double-barred",
  "barred": rf"(?:a|one|single)(?: \S+)?? {_BARS}|barred",
  "spotted": "spots|spotted",
  "fringed": "fringed?|edged",
  "plain": "plain|unmarked",
}
_FEATURES = {"pattern": rf"{_BARS}|spots?|fringes?", "ring": "eye-?rings?|rings?"}
_NOT, _REMOVED = "no|without|none of|lacks|lacking", "removed|missing|gone"
_COMPARED = {
  ("pattern", 1): rf"(?:(?:one|a) more|an additional|another|an? extra) {_BARS}",
  ("pattern", -1): rf"one {_BARS} (?:fewer|less)|one (?:fewer|less) {_BARS}",
  ("tail", 1): r"longer(?: \S+)?? tail|tail(?: \S+){0,3}? longer",
  ("tail", -1): r"shorter(?: \S+)?? tail|tail(?: \S+){0,3}? shorter",
}
_INSTEAD = re.compile(r"\b(?:instead of|in place of|rather than)\b.*")
_NEXT = re.compile(r"[,;.]|\b(?:and|but)\b")


class Step(NamedTuple):
  """A change by one step of `modifications.STEPS`: 1 is more, -1 is less."""

  by: int


class Rule(NamedTuple):
  """What a sentence asks where a pattern is found in it: `attribute` is to be `value`."""

  pattern: re.Pattern
  attribute: str
  value: str | Step


def stated(caption: str) -> dict[str, str]:
  """The attributes that a caption of a finch states, {attribute: value}; the last of two counts."""
  return dict(_phrases()[found.group().lower()] for found in _phrase().finditer(caption))


def same(caption: str, truth: str) -> bool:
  """Whether a caption states all that another one states, and the same of it."""
  return stated(caption) == stated(truth)


def edit(caption: str, text: str) -> str | None:
  """A caption of a finch, changed as a sentence asks.

  The phrases that tell a changed attribute give way, and one is added where there is none.

  Returns:
    None where nothing of the sentence is understood, or it asks for what cannot be, such as a bar
    less of a plain wing.
  """
  before, asked = stated(caption), read(text)
  for attribute, change in asked.items():
    value = _stepped(attribute, before.get(attribute), change)
    if value is None:
      return None
    caption = _with_claim(caption, (attribute, value))
  return caption if asked else None


def read(text: str) -> dict[str, str | Step]:
  """{attribute: what it is to be} of a sentence; {} where nothing is understood."""

  def marked(found: re.Match) -> str:
    return f"<{'-'.join(_phrases()[found.group().lower()])}>"

  # Whole phrases first: some have commas, or words of other parts, in them.
  marks = _phrase().sub(marked, " ".join(text.lower().split()))
  asked: dict[str, str | Step] = {}
  for clause in _NEXT.split(marks):
    clause = _INSTEAD.sub("", clause)
    for rule in _rules():
      clause, count = rule.pattern.subn(" ", clause)
      if count:
        asked.setdefault(rule.attribute, rule.value)
  return asked


def _stepped(attribute: str, before: str | None, change: str | Step) -> str | None:
  """The value that an attribute is to have; None where there is no further step."""
  if isinstance(change, str):
    return change
  steps = STEPS[attribute]
  if before not in steps:
    return steps[1] if change.by > 0 else steps[0]
  at = steps.index(before) + change.by
  return steps[at] if 0 <= at < len(steps) else None


def _with_claim(caption: str, claim: Claim) -> str:
  phrase = finch_text.phrases(claim)[0]
  changed = _phrase().sub(
    lambda found: phrase if _phrases()[found.group().lower()][0] == claim[0] else found.group(),
    caption,
  )
  if claim[0] in stated(caption):
    return changed
  return re.sub(r"\.?\s*$", f", with {phrase}.", caption, count=1)


@functools.cache
def _phrases() -> dict[str, Claim]:
  """{phrase of captions: the claim it makes}."""
  claims = [(name, value) for name, values in ATTRIBUTES.items() for value in values]
  return {phrase: claim for claim in claims for phrase in finch_text.phrases(claim)}


@functools.cache
def _phrase() -> re.Pattern:
  longest_first = sorted(_phrases(), key=len, reverse=True)
  return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", re.I)


@functools.cache
def _rules() -> tuple[Rule, ...]:
  """What is looked for in a clause, in this order; what is found is taken out of it."""
  found: list[tuple[str, str, str | Step]] = []
  found += [(pattern, name, Step(by)) for (name, by), pattern in _COMPARED.items()]
  for name, feature in _FEATURES.items():
    feature = rf"(?:{feature}|<{name}-[\w-]+>)"
    pattern = rf"(?:{_NOT})(?: \S+){{0,3}}? {feature}|{feature}(?: \S+){{0,4}}? (?:{_REMOVED})"
    found.append((pattern, name, NOTHING[name]))
  for name, values in ATTRIBUTES.items():
    found += [(f"<{name}-{value}>", name, value) for value in values]
  for name, part in _COLOURED.items():
    for colour in COLOURS if name != "ring" else ("white", "yellow"):
      found.append((_beside(_colour(colour), part), name, colour))
  found += [(_beside(word, _PARTS[name]), name, value) for (name, value), word in _SHAPES.items()]
  found += [(pattern, "pattern", value) for value, pattern in _PATTERNS.items()]
  return tuple(
    Rule(re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])"), name, value)
    for pattern, name, value in found
  )


def _colour(colour: str) -> str:
  more = (word for word, meant in _MORE_COLOURS.items() if meant == colour)
  return "|".join(sorted((*finch_text.shades(colour), *more), key=len, reverse=True))


def _beside(words: str, part: str) -> str:
  """A word before its part, with two words at most between, or after it, with three."""
  return rf"(?:{words})(?: \S+){{0,2}}? (?:{part})|(?:{part})(?: \S+){{0,3}}? (?:{words})"
