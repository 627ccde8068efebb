"""Captions of finches: what the renderer drew, told in a sentence with the name of the class.

Two kinds of birds. 'classes': the 100 classes of `classes`; all birds of a class look alike but for
pose and scenery, and so say the captions, so that only the class of an image can be found by words.
'individuals': 16 classes, a bill and a tail each, whose birds have plumages of their own; each bird
of a class differs from all others of it in something that its caption says. Half of the classes are
seen, half unseen, and each bill and each tail is in both halves.

All is a pure function of the class and the number of the bird.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lafg_jax.finches import classes
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.drawing import render
from lafg_jax.finches.text import ATTRIBUTES, Attributes, Span
from lafg_jax.utils import random_streams

KINDS = ("individuals", "classes")
PER_CLASS = {
  "individuals": {"seen": 60, "unseen": 40},
  "classes": classes.IMAGES_PER_CLASS,
}
_SHAPE = ("bill", "tail")
_PLUMAGE = tuple(name for name in ATTRIBUTES if name not in _SHAPE)


class Bird(NamedTuple):
  """One bird: its class, the number of the class, and what the renderer draws."""

  name: str
  label: int
  attributes: Attributes


def class_names(kind: str, half: str) -> tuple[str, ...]:
  """Names of the 'seen' or the 'unseen' classes of a kind of birds."""
  if kind == "classes":
    return classes.class_names(half)
  return tuple(name for name, (_, seen) in _shapes().items() if seen == (half == "seen"))


def bird(kind: str, name: str, number: int) -> Bird:
  """Bird `number` of a class, from 0 on."""
  if kind == "classes":
    every = classes.SEEN + classes.UNSEEN
    label = next(k for k, finch in enumerate(every) if finch.name == name)
    return Bird(name, label, every[label].attributes)
  shapes = _shapes()
  label = list(shapes).index(name)
  plumage = _plumages()[_order(label)[number]]
  told = dict(zip(_PLUMAGE, plumage, strict=True)) | dict(zip(_SHAPE, shapes[name][0], strict=True))
  return Bird(name, label, tuple(told[attribute] for attribute in ATTRIBUTES))


def most_per_class(kind: str) -> int | None:
  """How many birds a class can have; None where they are without end."""
  return len(_plumages()) if kind == "individuals" else None


def caption(kind: str, name: str, number: int) -> tuple[str, list[Span]]:
  """A true caption of a bird, that tells all it is drawn by, and where it tells what.

  The name tells the bill and the tail of individuals; its words say 'class'.
  """
  one = bird(kind, name, number)
  claims = finch_text.claims_of(one.attributes)
  if kind == "individuals":
    claims = [claim for claim in claims if claim[0] in _PLUMAGE]
  sentence, spans = finch_text.told(claims, random_streams.wording_of_finch(one.label, number))
  prefix = "This is a photo of "
  start = f"{prefix}{name}. "
  moved = [Span(a + len(start), b + len(start), says) for a, b, says in spans]
  return start + sentence, finch_text.words_of(name, "class", len(prefix)) + moved


@functools.cache
def image(kind: str, name: str, number: int) -> np.ndarray:
  """The picture of a bird: uint8 [48, 48, 3], read-only, drawn at the first call and then kept."""
  if kind == "classes":
    return classes.image(name, number)
  one = bird(kind, name, number)
  picture = render(one.attributes, random_streams.picture_of_finch(one.label, number))
  picture.flags.writeable = False
  return picture


@functools.cache
def _shapes() -> dict[str, tuple[Attributes, bool]]:
  """{class name: its bill and tail, and whether it is seen in training}."""
  found: dict[str, tuple[Attributes, bool]] = {}
  pairs = itertools.product(*(enumerate(ATTRIBUTES[part]) for part in _SHAPE))
  for (i, bill), (j, tail) in pairs:
    name = f"{_genus('tail', tail)} {_genus('bill', bill)}"
    found[name] = ((bill, tail), (i + j) % 2 == 0)
  return found


def _genus(attribute: str, value: str) -> str:
  """The word in names that tells a bill or a tail."""
  values = tuple(value if name == attribute else options[0] for name, options in ATTRIBUTES.items())
  parts = finch_text.parts_of_names("genera", values)
  return next(word for word, said in parts if said == ((attribute, value),))


@functools.cache
def _plumages() -> Sequence[Attributes]:
  """All plumages without a crown or wings of the body's colour, which would not stand out."""
  every = itertools.product(*(ATTRIBUTES[name] for name in _PLUMAGE))
  body, crown, wing = (_PLUMAGE.index(part) for part in ("body", "crown", "wing"))
  return [x for x in every if x[body] not in (x[crown], x[wing])]


@functools.cache
def _order(label: int) -> np.ndarray:
  return random_streams.plumages(label).permutation(len(_plumages()))
