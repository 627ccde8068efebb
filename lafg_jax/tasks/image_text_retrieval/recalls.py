"""Recall@K of images and texts, both ways, by three protocols.

- `instance` (the headline): an image's match is its own caption, a caption's its own image.
- `merged`: equal strings are one item. It matches all its images, and a query hits where any match
  is among its K.
- `class`: any caption, or image, of the query's class matches.

The published tables do not say which they use; `instance` is what they must be, by what a perfect
classifier would score (docs/tasks/image_text_retrieval.md).

Equal strings stand at one place of a ranking, in an order left to luck: `instance` and `class` give
the expectation. Strings are compared, not floats, since equal captions of different batches may
differ in the last bit: every text takes the embedding of the first with its string. Other ties are
the house's: what is wrong stands before what is right.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lafg_jax.evaluate import knn
from lafg_jax.tasks.image_text_retrieval.bounds import PROTOCOLS, Pairing, shares
from lafg_jax.tasks.image_text_retrieval.bounds import hit as hit_by_luck
from lafg_jax.utils.errors import UserError

_AT_ONCE = 1 << 16  # queries that are ranked at once
_NEVER = np.iinfo(np.int32).max  # how many stand before what is not there


class Embedded(NamedTuple):
  """A split in the common space: unit-norm float32 embeddings, and what belongs together.

  images: [n, D]. texts: [m, D]. owner: [m] the image of each text. strings: [m] equal numbers where
  the texts are equal. labels: [n] class of each image. distractors: [r, D] of texts that belong to
  no image, each another string than all others, or None.
  """

  images: np.ndarray
  texts: np.ndarray
  owner: np.ndarray
  strings: np.ndarray
  labels: np.ndarray
  distractors: np.ndarray | None = None


def checked(embedded: Embedded) -> Embedded:
  """The same with strings 0 to S - 1, classes 0 to C - 1 and one embedding a string.

  Raises:
    UserError: the lengths do not fit, or an image has no text.
  """
  images, texts, owner, strings, labels, distractors = embedded
  owner = np.asarray(owner)
  if not len(images) == len(labels) or not len(texts) == len(owner) == len(strings):
    raise UserError(
      f"{len(images)} images with {len(labels)} classes, and {len(texts)} texts with {len(owner)} "
      f"images and {len(strings)} strings: these must be as many"
    )
  named = np.unique(owner)
  if not np.array_equal(named, np.arange(len(images))):
    raise UserError(f"{len(named)} of {len(images)} images have a text: each must have one or more")
  _, first, strings = np.unique(strings, return_index=True, return_inverse=True)
  labels = np.unique(labels, return_inverse=True)[1]
  return Embedded(images, texts[first][strings], owner, strings, labels, distractors)


def pairing(embedded: Embedded) -> Pairing:
  """What of it `bounds.beside` reads."""
  _, _, owner, strings, labels, distractors = checked(embedded)
  return Pairing(owner, strings, labels, 0 if distractors is None else len(distractors))


def measure(
  embedded: Embedded, ks: Sequence[int], protocols: Sequence[str] = PROTOCOLS
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
  """Recall@K of each query.

  Returns:
    {'image_to_text' and 'text_to_image': {protocol: {'recall@<k>': [q]}}}, chances in [0, 1]. The
    queries are the n images, or the m texts; under `merged` the S strings.

  Raises:
    UserError: see `checked`; or embeddings are empty, mismatched or not finite.
  """
  e = checked(embedded)
  of_image, of_class = (np.arange(len(e.images)), e.owner), (e.labels, e.labels[e.owner])
  one_each = e.strings.max() + 1 == len(e.texts)
  found: dict[str, dict[str, dict[str, np.ndarray]]] = {"image_to_text": {}, "text_to_image": {}}
  for protocol in protocols:
    if protocol == "merged" and one_each and "instance" in protocols:
      # The queries of texts are in the order of their strings.
      alike = np.argsort(e.strings)
      to_text, to_image = found["image_to_text"]["instance"], found["text_to_image"]["instance"]
      to_image = {name: x[alike] for name, x in to_image.items()}
    elif protocol == "merged":
      to_text, to_image = _merged(e, ks)
    else:
      matched = of_image if protocol == "instance" else of_class
      to_text = _image_to_text(e, matched[0], matched[1], ks)
      before = _before(e.texts, matched[1], e.images, matched[0])
      to_image = {f"recall@{k}": (before < k).astype(float) for k in ks}
    found["image_to_text"][protocol], found["text_to_image"][protocol] = to_text, to_image
  return found


def _image_to_text(e: Embedded, of_images, of_texts, ks) -> dict[str, np.ndarray]:
  """{'recall@<k>': [n]} where image i and text j match if their labels are equal."""
  shared = shares(of_texts, e.strings)
  whole = shared.number == shared.size
  pure = np.isin(e.strings, shared.string[whole])
  gallery = e.texts if e.distractors is None else np.concatenate([e.texts, e.distractors])
  # Whichever text of a string that is theirs alone comes first, it is right.
  sure = _before(e.images, of_images, gallery, _pad(np.where(pure, of_texts, -1), len(gallery)))
  image, pair = _images_of(of_images, shared.label[~whole])
  count, size, string = (x[~whole][pair] for x in (shared.number, shared.size, shared.string))
  before = _before(e.images, string, gallery, _pad(e.strings, len(gallery)), image)
  found = {}
  for k in ks:
    miss = np.ones(len(e.images))
    np.multiply.at(miss, image, 1 - hit_by_luck(count, size, k - before))
    found[f"recall@{k}"] = np.where(sure < k, 1, 1 - miss)
  return found


def _images_of(of_images: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """All pairs of an image and an entry of wanted [w] with its label: rows of each, [P] and [P]."""
  order = np.argsort(of_images, kind="stable")
  start, stop = (np.searchsorted(of_images[order], wanted, side) for side in ("left", "right"))
  number = stop - start
  entry = np.repeat(np.arange(len(wanted)), number)
  place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
  return order[start[entry] + place], entry


def _merged(e: Embedded, ks) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """{'recall@<k>': [n]} of images, and [S] of strings, where each string is one item."""
  items = e.texts[np.unique(e.strings, return_index=True)[1]]
  gallery = items if e.distractors is None else np.concatenate([items, e.distractors])
  shared = shares(e.owner, e.strings)
  image, string = shared.label, shared.string
  ranked = (
    (image, _before(e.images, string, gallery, _pad(np.arange(len(items)), len(gallery)), image)),
    (string, _before(items, image, e.images, np.arange(len(e.images)), string)),
  )
  found = []
  for (query, before), count in zip(ranked, (len(e.images), len(items)), strict=True):
    # Each match counted the others that tie with it, which are right as well.
    pair, tied = np.unique(np.stack([query, before]), axis=1, return_counts=True)
    best = np.full(count, _NEVER)
    np.minimum.at(best, pair[0], pair[1] + 1 - tied)
    found.append({f"recall@{k}": (best < k).astype(float) for k in ks})
  return found[0], found[1]


def _pad(labels: np.ndarray, length: int) -> np.ndarray:
  """The labels, and -1, which matches nothing, for the distractors behind them."""
  return np.pad(labels, (0, length - len(labels)), constant_values=-1)


def _before(queries, query_labels, gallery, gallery_labels, rows=None) -> np.ndarray:
  """[q] how many wrong rows of the gallery stand before a query's first match.

  rows: [q] the row of `queries` of each query; all of them, where it is None.
  """
  found = []
  for start in range(0, len(query_labels), _AT_ONCE):
    part = slice(start, start + _AT_ONCE)
    vectors = queries[part] if rows is None else queries[rows[part]]
    ranks, number = knn.match_ranks(vectors, query_labels[part], gallery, gallery_labels)
    first = ranks[:, 0] if ranks.shape[1] else number
    found.append(np.where(number > 0, first - 1, _NEVER))
  return np.concatenate(found) if found else np.zeros(0, int)
