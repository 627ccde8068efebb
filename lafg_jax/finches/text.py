"""Words for the synthetic finches: attributes, class names and written descriptions.

A finch is a tuple of attribute values in the order of `ATTRIBUTES`; a claim is a pair (attribute,
value) that a sentence or a name makes about a finch. The words stand in words.json. In its forms,
{c} is a shade, {a} a shade with its article, {C} the colour's own word, capitalised, {S} and {s}
are the subject, and {list} is what the sentence lists.
"""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

Attributes = tuple[str, ...]
Claim = tuple[str, str]
# Words, such as a part of a name, and the claims they make.
Text = tuple[str, tuple[Claim, ...]]


class Span(NamedTuple):
  """Characters `start` to `end` - 1 of a text, and the attribute that they tell, or 'class'."""

  start: int
  end: int
  says: str


COLOURS = ("black", "blue", "crimson", "olive", "rufous", "slate", "white", "yellow")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
  "body": COLOURS,
  "crown": COLOURS,
  "wing": COLOURS,
  "pattern": ("plain", "barred", "double-barred", "spotted", "fringed"),
  "bill": ("cone", "thin", "hooked", "crossed"),
  "tail": ("short", "forked", "long", "fan"),
  "ring": ("none", "white", "yellow"),
}

# Words of a phrase that say nothing of a bird by themselves.
_FUNCTION_WORDS = frozenset("a an and any at by has into of on that the to whose with".split())
_WORD = re.compile(r"[\w'-]+")

# How an LLM's descriptions fall short of the truth. Frozen with the dataset.
SENTENCES_PER_CLASS = 10
MISSING_RATE = 0.15  # share of (class, attribute) pairs that the class's text never mentions
WRONG_RATE = 0.10  # share of claims that state another value than the true one
CHATTER_RATE = 0.15  # share of sentences that say nothing of how the bird looks

_WORDS = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
CHATTER = tuple(_WORDS["chatter"])
NEUTRAL_EPITHETS = tuple(_WORDS["neutral_epithets"])
NEUTRAL_GENERA = tuple(_WORDS["neutral_genera"])


def choose(rng: np.random.Generator, options: Sequence):
  """One of `options`, by a single uniform draw (whose stream NumPy keeps stable)."""
  return options[int(rng.random() * len(options))]


def shuffled(rng: np.random.Generator, items: Sequence) -> list:
  """`items` in random order, by uniform draws."""
  return [items[i] for i in np.argsort(rng.random(len(items)), kind="stable")]


def claims_of(attributes: Attributes) -> list[Claim]:
  """Every claim that is true of a finch, in the order of `ATTRIBUTES`."""
  return list(zip(ATTRIBUTES, attributes, strict=True))


def _forms(kind: str, claim: Claim) -> list[str]:
  """The forms of `kind` for a claim; the colours of a part share theirs."""
  attribute, value = claim
  forms = _WORDS[kind].get(attribute, [])
  return forms.get(value, []) if isinstance(forms, dict) else forms


def parts_of_names(kind: str, attributes: Attributes) -> list[Text]:
  """The first ('epithets') or last ('genera') parts of names true of a finch, with their claims."""
  return [
    (form.format(C=claim[1].capitalize()), (claim,))
    for claim in claims_of(attributes)
    for form in _forms(kind, claim)
  ]


def random_name(attributes: Attributes, rng: np.random.Generator) -> Text:
  """A name from the same grammar as the classes' names, and the claims (0-2) it makes."""
  telling = functools.partial(parts_of_names, attributes=attributes)
  neutral_first = [(word, ()) for word in NEUTRAL_EPITHETS]
  neutral_last = [(word, ()) for word in NEUTRAL_GENERA]
  first, said = choose(rng, telling("epithets") if rng.random() < 0.75 else neutral_first)
  last, more = choose(rng, telling("genera") if rng.random() < 0.5 else neutral_last)
  return f"{first} {last}", said + more


def phrases(claim: Claim) -> list[str]:
  """Every phrase of a sentence that lists things, by which it makes a claim: 'a crimson crown'."""
  attribute, value = claim
  shades = (
    list(dict.fromkeys(_WORDS["shades"][value])) if ATTRIBUTES[attribute] is COLOURS else [""]
  )
  return [
    form.format(c=shade, a=f"{'an' if shade[:1] in 'aeiou' else 'a'} {shade}")
    for form in _forms("nouns", claim)
    for shade in shades
  ]


def shades(colour: str) -> tuple[str, ...]:
  """The words for a colour, each once."""
  return tuple(dict.fromkeys(_WORDS["shades"][colour]))


def _noun(claim: Claim, rng: np.random.Generator) -> str:
  attribute, value = claim
  if ATTRIBUTES[attribute] is not COLOURS:
    return choose(rng, _forms("nouns", claim))
  shade = choose(rng, _WORDS["shades"][value])
  article = "an" if shade[0] in "aeiou" else "a"
  return choose(rng, _forms("nouns", claim)).format(c=shade, a=f"{article} {shade}")


def _nouns(claims: Sequence[Claim], rng: np.random.Generator) -> str:
  *others, last = (_noun(claim, rng) for claim in claims)
  return f"{', '.join(others)} and {last}" if others else last


def sentence(claims: Sequence[Claim], rng: np.random.Generator, name: str = "") -> str:
  """A sentence making 1-3 claims, worded at random.

  Args:
    claims: what to say, in order.
    rng: draws the choice of words.
    name: the class's name, used as the subject now and then; '' never uses one.
  """
  if len(claims) == 1 and ATTRIBUTES[claims[0][0]] is COLOURS and rng.random() < 0.6:
    clause = choose(rng, _forms("clauses", claims[0]))
    clause = clause.format(c=choose(rng, _WORDS["shades"][claims[0][1]]))
    return clause[0].upper() + clause[1:] + choose(rng, _WORDS["clause_ends"]) + "."
  named = (name if "'s " in name else f"the {name}",) if name else ()
  subject = choose(rng, (*_WORDS["subjects"], *named))
  form = choose(rng, _WORDS["sentences"])
  if len(claims) == 1:
    form = form.replace("marks are", "mark is")
  return form.format(S=subject[0].upper() + subject[1:], s=subject, list=_nouns(claims, rng))


def full_sentence(attributes: Attributes, rng: np.random.Generator) -> str:
  """One sentence that lists every attribute of a finch, truthfully, in random order."""
  return told(claims_of(attributes), rng)[0]


def told(claims: Sequence[Claim], rng: np.random.Generator) -> tuple[str, list[Span]]:
  """One sentence that makes all claims in random order, and where its attribute words are.

  An attribute word is a word of the phrase for a claim, without articles, prepositions and the
  like: 'crimson' and 'cap' of 'a crimson cap'.
  """
  order = shuffled(rng, claims)
  text, spans = f"{choose(rng, _WORDS['full_starts'])} ", []
  for k, claim in enumerate(order):
    if k:
      text += " and " if k == len(order) - 1 else ", "
    phrase = _noun(claim, rng)
    spans += words_of(phrase, claim[0], len(text))
    text += phrase
  return f"{text}.", spans


def words_of(phrase: str, says: str, start: int = 0) -> list[Span]:
  """The words of a phrase that begins at `start`, without articles, prepositions and the like."""
  return [
    Span(start + word.start(), start + word.end(), says)
    for word in _WORD.finditer(phrase)
    if word.group() not in _FUNCTION_WORDS
  ]


def _maybe_wrong(claim: Claim, rng: np.random.Generator) -> Claim:
  attribute, value = claim
  if rng.random() >= WRONG_RATE:
    return claim
  return attribute, choose(rng, [other for other in ATTRIBUTES[attribute] if other != value])


def noisy_description(name: str, attributes: Attributes, rng: np.random.Generator) -> list[Text]:
  """Text about one class as an LLM would write it: incomplete and partly wrong.

  Returns:
    `SENTENCES_PER_CLASS` distinct sentences, each with the claims it makes (none for chatter).
  """
  known = [claim for claim in claims_of(attributes) if rng.random() >= MISSING_RATE]
  written: dict[str, tuple[Claim, ...]] = {}
  queue: list[Claim] = []
  while len(written) < SENTENCES_PER_CLASS:
    if not known or rng.random() < CHATTER_RATE:
      written.setdefault(choose(rng, CHATTER), ())
      continue
    wanted = min(1 + int(rng.random() * 3), len(known))
    # All known attributes take turns, so that none is left out by chance.
    while len(queue) < wanted:
      queue += [claim for claim in shuffled(rng, known) if claim not in queue]
    taken, queue = queue[:wanted], queue[wanted:]
    claims = tuple(_maybe_wrong(claim, rng) for claim in taken)
    written.setdefault(sentence(claims, rng, name), claims)
  return list(written.items())
