"""Synthetic finches: a small fine-grained data set that is drawn, not downloaded.

100 classes, 40 seen and 60 unseen in training; a class is a tuple of attribute values (see
`text.ATTRIBUTES`), and species of the same genus differ in few of them. Pose, scale, place, light,
background and leaves in front vary by image. Image j of a class is a pure function of
`DATASET_SEED`, the class and j. The data set is frozen: the tests compare its hash.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lafg_jax.finches import text as finch_text
from lafg_jax.finches.drawing import render
from lafg_jax.finches.text import ATTRIBUTES, Attributes, choose
from lafg_jax.utils.errors import UserError

DATASET_SEED = 20260
IMAGES_PER_CLASS = {"seen": 30, "unseen": 20}
NUM_GENERA = {"seen": 8, "unseen": 12}
SPECIES_PER_GENUS = 5
_NUM_SEEN = NUM_GENERA["seen"] * SPECIES_PER_GENUS
_GENUS_SHAPE = ("bill", "tail")  # shared by all species of a genus


class Finch(NamedTuple):
  """A class: its name and its attribute values in the order of `ATTRIBUTES`."""

  name: str
  attributes: Attributes


def _balanced_column(values: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
  """n values, each as often as any other (to within one), in random order."""
  column = (finch_text.shuffled(rng, values) * -(-n // len(values)))[:n]
  return finch_text.shuffled(rng, column)


def _badness(table: np.ndarray, row: int) -> float:
  """How far a class is from the target, in a table of value indices [C, A]; 0 is best.

  The target: members of a genus (consecutive rows) differ in 2 or 3 attributes, any other two
  classes in 2 or more, and no bird has a crown or a wing of its body's colour.
  """
  distance = (table != table[row]).sum(-1)
  distance[row] = 3
  first = row - row % SPECIES_PER_GENUS
  far = np.maximum(distance[first : first + SPECIES_PER_GENUS] - 3, 0).sum()
  body, crown, wing = table[row, :3]
  return float(20 * (distance < 2).sum() + far + (body == crown) + 0.5 * (body == wing))


def _choose_combinations(rng: np.random.Generator) -> list[Attributes]:
  """The attribute values of 100 classes, seen classes first, balanced in both halves.

  Each column starts balanced. Two values of a column are swapped inside one half, which keeps the
  balance, and swapped back where that makes `_badness` worse. Bill and tail belong to the genus.
  """
  columns = []
  for attribute, values in ATTRIBUTES.items():
    column = []
    for count in NUM_GENERA.values():
      if attribute in _GENUS_SHAPE:
        column += np.repeat(_balanced_column(values, count, rng), SPECIES_PER_GENUS).tolist()
      else:
        # The search starts with equal colours in the same genus.
        part = sorted(_balanced_column(values, count * SPECIES_PER_GENUS, rng))
        offset = int(rng.random() * len(part))
        column += part[offset:] + part[:offset]
    columns.append([values.index(value) for value in column])
  table = np.array(columns).T
  plumage = [a for a, attribute in enumerate(ATTRIBUTES) if attribute not in _GENUS_SHAPE]
  for _ in range(6000):
    start, stop = choose(rng, ((0, _NUM_SEEN), (_NUM_SEEN, len(table))))
    i, j = (start + int(rng.random() * (stop - start)) for _ in range(2))
    a = choose(rng, plumage)
    before = _badness(table, i) + _badness(table, j)
    table[[i, j], a] = table[[j, i], a]
    if _badness(table, i) + _badness(table, j) > before:
      table[[i, j], a] = table[[j, i], a]
  value_lists = list(ATTRIBUTES.values())
  return [tuple(v[k] for v, k in zip(value_lists, row, strict=True)) for row in table]


def _choose_classes() -> tuple[tuple[Finch, ...], tuple[Finch, ...]]:
  """The seen and the unseen classes. A name is true of its class and tells 0-2 attributes."""
  rng = np.random.default_rng(DATASET_SEED)
  combinations = _choose_combinations(rng)
  last_words: set[str] = set()
  finches = []
  for first in range(0, len(combinations), SPECIES_PER_GENUS):
    members = combinations[first : first + SPECIES_PER_GENUS]
    free = [word for word, _ in finch_text.parts_of_names("genera", members[0])]
    free = [w for w in (*free, *finch_text.NEUTRAL_GENERA) if w not in last_words]
    genus = free[0] if rng.random() < 0.5 else choose(rng, free)
    last_words.add(genus)
    taken: set = set()
    for attributes in members:
      # Two species of a genus never bear the same claim, such as a white crown, in their names.
      telling = finch_text.parts_of_names("epithets", attributes)
      claims = [(word, said) for word, said in telling if said not in taken]
      neutral = [(word, word) for word in finch_text.NEUTRAL_EPITHETS if word not in taken]
      word, mark = choose(rng, claims if claims and rng.random() < 0.75 else neutral)
      taken.add(mark)
      finches.append(Finch(f"{word} {genus}", attributes))
  return tuple(finches[:_NUM_SEEN]), tuple(finches[_NUM_SEEN:])


SEEN, UNSEEN = _choose_classes()
_INDEX = {finch.name: i for i, finch in enumerate(SEEN + UNSEEN)}


def _find(name: str) -> tuple[int, Attributes]:
  if name not in _INDEX:
    raise UserError(f"class {name!r} is not a synthetic finch: see synthetic.class_names()")
  return _INDEX[name], (SEEN + UNSEEN)[_INDEX[name]].attributes


def class_names(split: str) -> tuple[str, ...]:
  """Names of the 40 'seen' or the 60 'unseen' classes."""
  if split not in IMAGES_PER_CLASS:
    raise UserError(f"split {split!r} of the synthetic finches is unknown: 'seen' or 'unseen'")
  return tuple(finch.name for finch in (SEEN if split == "seen" else UNSEEN))


@functools.cache
def image(name: str, j: int) -> np.ndarray:
  """Image j of a class: uint8 [48, 48, 3] RGB, drawn at the first call and then kept.

  The array is read-only, since every call returns the same one.

  Raises:
    UserError: the name is not a class of the data set.
  """
  picture = render(*drawn_from(name, j))
  picture.flags.writeable = False
  return picture


def drawn_from(name: str, j: int) -> tuple[Attributes, np.random.Generator]:
  """What image j of a class is drawn from; raises as `image`."""
  index, attributes = _find(name)
  return attributes, np.random.default_rng((DATASET_SEED, 1, index, j))


def image_id(name: str, j: int) -> str:
  """'synthetic/CLASS/NUMBER' of image j of a class."""
  slug = re.sub(r"[^a-z]+", "-", name.lower().replace("'", ""))
  return f"synthetic/{slug}/{j:03d}"


def statements(name: str) -> list[finch_text.Text]:
  """A class's written sentences, each with the (attribute, value) claims it makes."""
  index, attributes = _find(name)
  rng = np.random.default_rng((DATASET_SEED, 2, index))
  return finch_text.noisy_description(name, attributes, rng)


def describe(names: Sequence[str]) -> dict[str, list[str]]:
  """Written descriptions, noisy and incomplete as an LLM's: 10 sentences for each class.

  Raises:
    UserError: a name is not a class of the data set.
  """
  return {name: [text for text, _ in statements(name)] for name in names}
