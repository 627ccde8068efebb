"""Composed queries on finches: "this bird, but with a red crown and no wing bar".

A part, 'val' or 'test', has families of birds. The birds of a family vary in four attributes, two
values each, so that a gallery has near misses of every query: the right change on the wrong bird,
and the right bird without the change. Each combination of attributes has several pictures: these
are a query's several right answers. No combination is in both parts, and none is shown in training,
neither to Phi (`training_bird`) nor to the tiny CLIP.

All is a pure function of the part and a number. The queries' sentences stand in wordings.json, by
`modifications`.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from lafg_jax.finches import classes, modifications, train_tiny_clip
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.drawing import render
from lafg_jax.finches.modifications import Change
from lafg_jax.finches.text import ATTRIBUTES, Attributes, choose, shuffled
from lafg_jax.utils import random_streams

PARTS = ("val", "test")
NUM_FAMILIES = 48  # of a part
NUM_QUERIES = 500  # of a part, unless another number is asked for
NUM_TRAINING = 8_000  # birds of training, for Phi
_VARIED = 4  # attributes of a family
_FEWEST = 8  # combinations of a family
_PICTURES = (2, 3, 4, 5)  # of a combination
# Pairs of values that a family may have; the first pairs are those of comparisons.
_PATTERNS = (
  ("plain", "barred"), ("barred", "double-barred"), ("plain", "double-barred"),
  ("plain", "spotted"), ("plain", "fringed"), ("spotted", "fringed"), ("barred", "spotted"),
)  # fmt: skip
_TAILS = (("short", "long"), ("short", "long"), ("forked", "fan"), ("long", "fan"))


class Asked(NamedTuple):
  """One query.

  reference: number of a bird. change: what is asked. target: the attributes of a right answer.
  targets: numbers of all birds that look so. text: the sentence. edited: a caption of the target.
  """

  reference: int
  changes: tuple[Change, ...]
  target: Attributes
  targets: tuple[int, ...]
  text: str
  edited: str


@functools.cache
def birds(part: str) -> tuple[Attributes, ...]:
  """The attributes of all birds of a part, by number."""
  found: list[Attributes] = []
  for number, family in _own_families(part):
    rng = random_streams.family_of_finches(number, 1)
    for combination in family:
      found += [combination] * choose(rng, _PICTURES)
  return tuple(found)


@functools.cache
def image(part: str, number: int) -> np.ndarray:
  """The picture of a bird: uint8 [48, 48, 3], read-only, drawn at the first call and then kept."""
  attributes = training_bird(number) if part == "train" else birds(part)[number]
  return _drawn(attributes, part, number)


def training_bird(number: int) -> Attributes:
  """The attributes of bird `number` of training: none that a query, or a gallery, shows."""
  rng = random_streams.training_finch(number, 0)
  while True:
    one = tuple(choose(rng, values) for values in ATTRIBUTES.values())
    if _stands_out(one) and one not in held_out():
      return one


def training_caption(number: int) -> str:
  """A true caption of bird `number` of training, as those of `Asked.edited`."""
  return finch_text.full_sentence(training_bird(number), random_streams.training_finch(number, 1))


@functools.cache
def held_out() -> frozenset[Attributes]:
  """All combinations of both parts, which no training shows."""
  return frozenset(one for family in _families() for one in family)


@functools.cache
def queries(part: str, count: int = 0, wordings: str = "held_out") -> tuple[Asked, ...]:
  """`count` queries (0: `NUM_QUERIES`), evenly over kinds of sentences; fewer where there are none.

  Args:
    part: one of `PARTS`.
    count: a smaller number gives the first of the larger one.
    wordings: 'held_out', or 'known' to the grammar.
  """
  of: dict[Attributes, list[int]] = {}
  for number, attributes in enumerate(birds(part)):
    of.setdefault(attributes, []).append(number)
  found = []
  for row, (source, target, changes) in enumerate(_chosen(part)[: count or NUM_QUERIES]):
    rng = random_streams.composed_query(PARTS.index(part), row + 1)
    reference = choose(rng, of[source])
    edited = finch_text.full_sentence(target, rng)
    text = modifications.sentence(changes, wordings, rng)
    found.append(Asked(reference, changes, target, tuple(of[target]), text, edited))
  return tuple(found)


def near_misses(part: str, asked: Asked) -> dict[str, int]:
  """How many birds of the gallery nearly answer a query.

  'wrong_bird': all changes, and one attribute more is not the target's. 'unchanged': the birds that
  look as the reference, without it. 'half_changed': one of two changes.
  """
  table, index = np.array(birds(part)), list(ATTRIBUTES)
  changed = [index.index(change.attribute) for change in asked.changes]
  wrong = table != np.array(asked.target)  # [birds, attributes]
  unchanged = (table == table[asked.reference]).all(1)
  missing = wrong[:, changed].sum(1)
  return {
    "wrong_bird": int(((wrong.sum(1) == 1) & (missing == 0)).sum()),
    "unchanged": int(unchanged.sum()) - 1,
    "half_changed": int(((wrong.sum(1) == 1) & (missing == 1)).sum()) if len(changed) == 2 else 0,
  }


def _drawn(attributes: Attributes, part: str, number: int) -> np.ndarray:
  stream = ("train", *PARTS).index(part)
  picture = render(attributes, random_streams.composed_finch(stream, number))
  picture.flags.writeable = False
  return picture


def _own_families(part: str) -> list[tuple[int, tuple[Attributes, ...]]]:
  first = PARTS.index(part) * NUM_FAMILIES
  return list(enumerate(_families()))[first : first + NUM_FAMILIES]


@functools.cache
def _families() -> tuple[tuple[Attributes, ...], ...]:
  """The combinations of each family, those of 'val' first; none is in two, and none was trained."""
  seen = train_tiny_clip.seen_by_the_shipped()
  taken = seen | {finch.attributes for finch in classes.SEEN + classes.UNSEEN}
  found = []
  for number in range(len(PARTS) * NUM_FAMILIES):
    rng = random_streams.family_of_finches(number, 0)
    family: list[Attributes] = []
    while len(family) < _FEWEST:
      family = [one for one in _grid(rng) if _stands_out(one) and one not in taken]
    taken |= set(family)
    found.append(tuple(family))
  return tuple(found)


def _grid(rng: np.random.Generator) -> list[Attributes]:
  """All combinations of two values each of four attributes; the others are the same."""
  base: dict[str, tuple[str, ...]] = {
    name: (choose(rng, values),) for name, values in ATTRIBUTES.items()
  }
  # Patterns and rings are what can be added and taken away.
  first = choose(rng, ("pattern", "pattern", "ring"))
  others = [name for name in shuffled(rng, list(ATTRIBUTES)) if name != first]
  for name in (first, *others[: _VARIED - 1]):
    base[name] = _pair(name, rng)
  return list(itertools.product(*base.values()))


def _pair(attribute: str, rng: np.random.Generator) -> tuple[str, ...]:
  if attribute in ("pattern", "tail"):
    return choose(rng, _PATTERNS if attribute == "pattern" else _TAILS)
  return tuple(shuffled(rng, ATTRIBUTES[attribute])[:2])


def _stands_out(attributes: Attributes) -> bool:
  """Whether neither crown nor wings have the body's colour."""
  body, crown, wing = attributes[:3]
  return body not in (crown, wing)


@functools.cache
def _chosen(part: str) -> list[tuple[Attributes, Attributes, tuple[Change, ...]]]:
  """All possible queries of a part, in turns of their kinds: one change, two changes, one ..."""
  rng = random_streams.composed_query(PARTS.index(part), 0)
  by_kinds: dict[tuple[str, ...], list] = {}
  gallery = frozenset(birds(part))
  for _, family in _own_families(part):
    for source, target in itertools.permutations(family, 2):
      changes = modifications.changes(source, target, rng)
      clear = len(changes) <= 2 and not gallery & _other_readings(target, changes)
      if clear and _has_near_misses(family, target, changes):
        kinds = tuple(sorted(change.kind for change in changes))
        by_kinds.setdefault(kinds, []).append((source, target, changes))
  ones, twos = (
    _in_turns([shuffled(rng, by_kinds[kinds]) for kinds in sorted(by_kinds) if len(kinds) == size])
    for size in (1, 2)
  )
  return [query for pair in zip(ones, twos, strict=False) for query in pair]


def _has_near_misses(family: tuple[Attributes, ...], target: Attributes, changes) -> bool:
  """Whether the family has the right change on a bird that differs in one thing more."""
  changed = {list(ATTRIBUTES).index(change.attribute) for change in changes}
  for other in family:
    differing = {k for k, (a, b) in enumerate(zip(other, target, strict=True)) if a != b}
    if len(differing) == 1 and not differing & changed:
      return True
  return False


def _other_readings(target: Attributes, changes: tuple[Change, ...]) -> set[Attributes]:
  """Birds that are no right answers, though a sentence that names no new value could mean them.

  Without spots is a barred wing too, and a forked tail is longer than a short one.
  """
  options: list[tuple[str, ...]] = [(value,) for value in target]
  for kind, attribute, old, _ in changes:
    if kind in ("negation", "comparison"):
      others = tuple(value for value in ATTRIBUTES[attribute] if value != old)
      options[list(ATTRIBUTES).index(attribute)] = others
  return set(itertools.product(*options)) - {target}


def _in_turns(lists: list[list]) -> list:
  """The first of each list, the second of each, and so on."""
  return [x for row in itertools.zip_longest(*lists) for x in row if x is not None]
