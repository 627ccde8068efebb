"""Wrong captions of each image, from two views, as numbers in a table of all strings.

Category view: the image's own caption, with one of the classes of the nearest names in place of its
own. Attribute view: another image's caption of the same class. DCAR has both views; which classes
and captions are taken, how many and how often, is ours. The table is made once, so that the text
features of all strings can be stored, and a batch carries numbers alone.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lafg_jax.data.captions import Captioned, equal_captions
from lafg_jax.utils import random_streams

# What may part the words of a class name in a caption.
_GAP = r"[\s_/-]+"
UNKNOWN = -2  # the class of a given negative that names none


class Table(NamedTuple):
  """All strings of a training set of n rows, and which of them are wrong captions of which row.

  `own` says which rows have equal captions: their images are positives of each other's captions.
  """

  strings: tuple[str, ...]  # distinct
  own: np.ndarray  # [n] int32, the string that is the caption of a row
  labels: np.ndarray  # [n] int32 the class of a row; without classes, the number of its image
  swaps: np.ndarray  # [n, m] int32, its caption with the name of a near class; -1: there is none
  swapped_to: np.ndarray  # [n, m] int32, that class
  given: np.ndarray  # [n, G] int32, the wrong captions that come with the data; -1: no more
  given_to: np.ndarray  # [n, G] int32, the class that each names, or UNKNOWN
  image_of: np.ndarray  # [n] int32
  # The rows of each class and of each image; without classes there are none of a class.
  of_class: tuple[np.ndarray, ...]
  of_image: tuple[np.ndarray, ...]


class Drawn(NamedTuple):
  """The positive (column 0) and K wrong captions of b rows."""

  string: np.ndarray  # [b, 1 + K] int32, of `Table.strings`; that of column 0 where there is none
  mask: np.ndarray  # [b, 1 + K] bool, False where there is none
  category: np.ndarray  # [b, 1 + K] int32, the class of the caption; column 0: that of the image


def nearest(features: np.ndarray, m: int) -> np.ndarray:
  """[C, min(m, C - 1)] int32: the classes whose names are nearest, by cosine, the nearest first.

  `features` [C, d] are those of the class names. Equal cosines keep the order of the classes.
  """
  unit = features.astype(np.float64)
  unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
  # Rounding must not order names whose features are equal.
  cosine = np.round(unit @ unit.T, 6)
  np.fill_diagonal(cosine, -np.inf)
  return np.argsort(-cosine, axis=1, kind="stable")[:, : min(m, len(unit) - 1)].astype(np.int32)


def build(captioned: Captioned, near: np.ndarray | None = None, given: bool = False) -> Table:
  """The table of a training set.

  Args:
    captioned: its pairs.
    near: int [C, m], the classes to name in place of each class (`nearest`); None makes no string
      of the category view.
    given: with the wrong captions that come with the data.
  """
  own, distinct = equal_captions(captioned.captions)
  number = {text: k for k, text in enumerate(distinct)}
  num = len(own)
  if near is None or not captioned.class_names:
    near = np.zeros((max(1, len(captioned.class_names)), 0), np.int32)
  swaps = np.full((num, near.shape[1]), -1, np.int32)
  named = [_Named(captioned.class_names, k) for k in range(len(captioned.class_names))]
  for row in range(num if swaps.shape[1] else 0):
    label, text = int(captioned.labels[row]), captioned.captions[row]
    others = [captioned.class_names[k] for k in near[label].tolist()]
    for k, wrong in enumerate(named[label].swapped(text, others)):
      # A caption that does not name its class has no wrong one of this view.
      if wrong != text:
        swaps[row, k] = number.setdefault(wrong, len(number))
  lists = captioned.negatives if given and captioned.negatives else [[]] * num
  pairs = zip(captioned.captions, lists, strict=True)
  numbers = [_given(text, wrong, number) for text, wrong in pairs]
  has = bool(captioned.class_names)
  return Table(
    own=own,
    labels=captioned.labels if has else captioned.image_of,
    swaps=swaps,
    swapped_to=near[captioned.labels] if has else np.zeros((num, 0), np.int32),
    given=_padded(numbers, -1),
    given_to=_classes_of(numbers, captioned, list(number)),
    image_of=captioned.image_of,
    of_class=_groups(captioned.labels) if has else (),
    of_image=_groups(captioned.image_of),
    strings=tuple(number),
  )


def distractors(table: Table) -> tuple[str, ...]:
  """The wrong captions that may join a gallery: those of the data, or else those of near classes.

  None of them equals a caption of any row.
  """
  wrong = table.given if table.given.size else table.swaps
  numbers = np.setdiff1d(wrong[wrong >= 0], table.own)
  return tuple(table.strings[k] for k in numbers.tolist())


def _groups(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
  """The places of 0, of 1 and so on in `numbers`."""
  ends = np.cumsum(np.bincount(numbers))[:-1]
  return tuple(np.split(np.argsort(numbers, kind="stable"), ends))


class _Named:
  """Finds the name of one class in captions, in any spelling of its gaps and case."""

  def __init__(self, names: Sequence[str], label: int) -> None:
    own = _pattern(names[label])
    inside = re.compile(own, re.IGNORECASE)
    # The longest name first: '737-200' must not be found in a longer name that contains it.
    longer = sorted(
      (name for k, name in enumerate(names) if k != label and inside.search(name)),
      key=len,
      reverse=True,
    )
    every = "|".join([*(f"(?:{_pattern(name)})" for name in longer), f"(?P<own>{own})"])
    self.pattern = re.compile(rf"(?<!\w)(?:{every})(?=(?:'?s)?(?!\w))", re.IGNORECASE)

  def swapped(self, text: str, names: Sequence[str]) -> list[str]:
    """The text with each of `names` wherever it names this class, in lower case where it was."""
    found = [match for match in self.pattern.finditer(text) if match["own"] is not None]
    return [self._put(text, found, name) for name in names]

  def _put(self, text: str, found: Sequence[re.Match], name: str) -> str:
    parts, end = [], 0
    for match in found:
      new = name.replace(" ", "_") if "_" in match[0] else name
      parts += [text[end : match.start()], new.lower() if match[0].islower() else new]
      end = match.end()
    return "".join([*parts, text[end:]])


def _pattern(name: str) -> str:
  return _GAP.join(re.escape(part) for part in re.split(_GAP, name) if part)


def _given(text: str, wrong: Sequence[str], number: dict[str, int]) -> list[int]:
  """The numbers of the wrong captions, without those equal to the caption or to each other."""
  kept = dict.fromkeys(x for x in wrong if x != text)
  return [number.setdefault(x, len(number)) for x in kept]


def _padded(lists: Sequence[Sequence[int]], value: int) -> np.ndarray:
  width = max(map(len, lists), default=0)
  cells = [[*x, *[value] * (width - len(x))] for x in lists]
  return np.array(cells, np.int32).reshape(len(lists), width)


def _classes_of(
  lists: Sequence[Sequence[int]], captioned: Captioned, strings: Sequence[str]
) -> np.ndarray:
  """[n, G]: the class that each given caption names first; of two that begin there, the longer."""
  names = sorted(enumerate(captioned.class_names), key=lambda pair: -len(pair[1]))
  folded = [(k, f" {_folded(name)}") for k, name in names]
  known: dict[int, int] = {}

  def of(number: int) -> int:
    if number not in known:
      text = f" {_folded(strings[number])} "
      at = [(text.find(name), k) for k, name in folded if f"{name} " in text or f"{name}s " in text]
      known[number] = min(at, key=lambda pair: pair[0], default=(0, UNKNOWN))[1]
    return known[number]

  return _padded([[of(number) for number in numbers] for numbers in lists], UNKNOWN)


def _folded(text: str) -> str:
  return " ".join(re.findall(r"\w+", text.lower().replace("_", " ")))


class Drawing(NamedTuple):
  """How wrong captions are drawn: `kind` as captions.negatives has it, K = `number`."""

  table: Table
  kind: str
  number: int
  seed: int


def draw(how: Drawing, epoch: int, rows: Sequence[int] | np.ndarray) -> Drawn:
  """The positives and the wrong captions of some rows: a pure function of (seed, epoch, row).

  No wrong caption equals one of the image's own, and none is there twice. Of 'views' half are of
  the category view, one more where K is odd. Where a row has fewer, the mask says so.
  """
  width = 1 + (0 if how.kind == "none" else how.number)
  rows = np.asarray(rows, np.int64)
  drawn = Drawn(
    np.repeat(how.table.own[rows, None], width, 1),
    np.zeros((len(rows), width), bool),
    np.full((len(rows), width), UNKNOWN, np.int32),
  )
  drawn.mask[:, 0], drawn.category[:, 0] = True, how.table.labels[rows]
  for k, row in enumerate(rows.tolist() if width > 1 else ()):
    found = _of_row(how, epoch, row)
    for place, (string, category) in enumerate(found, 1):
      drawn.string[k, place], drawn.category[k, place] = string, category
      drawn.mask[k, place] = True
  return drawn


def _of_row(how: Drawing, epoch: int, row: int) -> list[tuple[int, int]]:
  """At most K pairs of a string and its class."""
  table, kind = how.table, how.kind
  rng = random_streams.negatives(how.seed, epoch, row)
  of_image = table.of_image[int(table.image_of[row])]
  taken = set(table.own[of_image].tolist())
  found: list[tuple[int, int]] = []

  def add(strings: Sequence[int], categories: Sequence[int], most: int) -> None:
    for string, category in zip(strings, categories, strict=True):
      if most <= 0:
        return
      if string >= 0 and string not in taken:
        taken.add(string)
        found.append((string, category))
        most -= 1

  of_category = how.number - how.number // 2 if kind == "views" else how.number
  if kind in ("views", "category"):
    order = rng.permutation(table.swaps.shape[1])
    add(table.swaps[row, order].tolist(), table.swapped_to[row, order].tolist(), of_category)
  if kind in ("views", "attribute") and table.of_class:
    label = int(table.labels[row])
    order = rng.permutation(table.of_class[label])
    most = how.number // 2 if kind == "views" else how.number
    add(table.own[order].tolist(), [label] * len(order), most)
  if kind == "given":
    order = rng.permutation(table.given.shape[1])
    add(table.given[row, order].tolist(), table.given_to[row, order].tolist(), how.number)
  if kind == "random":
    # Enough for captions that are drawn twice or are the image's own.
    others = rng.integers(len(table.own), size=8 * how.number + 8)
    add(table.own[others].tolist(), table.labels[others].tolist(), how.number)
  return found
