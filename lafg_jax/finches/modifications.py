"""What composed queries ask to be changed of a finch, and the sentences that ask it.

The forms of sentences stand in wordings.json, in styles. A style has forms of whole sentences with
'one' or 'two' requests {x} and {y}, and forms of requests by what they do. In these, {new} and
{old} are phrases of captions ("a crimson crown"), {c} and {old_c} shades, {a} a shade with its
article, {part} a part of the bird and {feature} what is to go ("wing-bars").
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.finches import text as finch_text
from lafg_jax.finches.text import ATTRIBUTES, COLOURS, Attributes, choose

# 'colour': a part in another colour; 'form': another bill, tail, pattern or ring.
KINDS = ("colour", "form", "addition", "negation", "comparison")
WORDINGS = ("known", "held_out")
# Values that are told by what is not there.
NOTHING = {"pattern": "plain", "ring": "none"}
# Values in order: what is one more, and what is one less.
STEPS = {"pattern": ("plain", "barred", "double-barred"), "tail": ("short", "long")}
_STEP_NAMES = {"pattern": ("fewer", "more"), "tail": ("shorter", "longer")}
_WORDS = json.loads(Path(__file__).with_name("wordings.json").read_text(encoding="utf-8"))


class Change(NamedTuple):
  """One attribute's change, and how a sentence asks for it: one of `KINDS`."""

  kind: str
  attribute: str
  old: str
  new: str


def changes(source: Attributes, target: Attributes, rng: np.random.Generator) -> tuple[Change, ...]:
  """What makes one bird another, in the order of `ATTRIBUTES`."""
  return tuple(
    Change(choose(rng, _kinds(name, old, new)), name, old, new)
    for name, old, new in zip(ATTRIBUTES, source, target, strict=True)
    if old != new
  )


def sentence(asked: Sequence[Change], wordings: str, rng: np.random.Generator) -> str:
  """A sentence that asks for one or two changes, in random order.

  wordings: which list of wordings.json, one of `WORDINGS`.
  """
  style = choose(rng, _WORDS[wordings])
  first, *others = (_request(style, change, rng) for change in finch_text.shuffled(rng, asked))
  return choose(rng, style["two" if others else "one"]).format(x=first, y="".join(others))


def forms(wordings: str) -> frozenset[str]:
  """All forms of a list of wordings."""
  return frozenset(form for style in _WORDS[wordings] for of in style.values() for form in of)


def _kinds(attribute: str, old: str, new: str) -> list[str]:
  """The kinds of sentences that may ask for a change."""
  if ATTRIBUTES[attribute] is COLOURS:
    return ["colour"]
  steps = STEPS.get(attribute, ())
  nothing = NOTHING.get(attribute)
  if nothing in (old, new):
    found = ["addition" if old == nothing else "negation"]
  else:
    found = ["form"]
  if old in steps and new in steps and abs(steps.index(old) - steps.index(new)) == 1:
    found.append("comparison")
  return found


def _request(style: dict[str, list[str]], change: Change, rng: np.random.Generator) -> str:
  """A part of a sentence, which asks for one change."""
  kind, attribute, old, new = change
  form = choose(rng, style[_form(change)])
  said: dict[str, Any] = {}
  if kind == "colour":
    shade, old_shade = (choose(rng, finch_text.shades(colour)) for colour in (new, old))
    article = "an" if shade[0] in "aeiou" else "a"
    said = {"c": shade, "old_c": old_shade, "a": f"{article} {shade}"}
    said["part"] = choose(rng, _WORDS["parts"][attribute])
  if kind == "negation":
    said["feature"] = choose(rng, _WORDS["features"][old])
  phrases = {
    name: choose(rng, finch_text.phrases((attribute, value)))
    for name, value in (("new", new), ("old", old))
  }
  return form.format(**said, **phrases)


def _form(change: Change) -> str:
  """Which forms of a style ask for a change."""
  if change.kind == "comparison":
    steps = STEPS[change.attribute]
    return _STEP_NAMES[change.attribute][steps.index(change.new) > steps.index(change.old)]
  return change.kind
