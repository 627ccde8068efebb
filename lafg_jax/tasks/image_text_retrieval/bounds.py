"""What stands beside each figure of image-text retrieval: its ceiling, class oracle and chance.

They follow from the captions and the classes alone; no embedding enters.

- Ceiling: no model can score more. Equal strings have one embedding, so their order is left to
  luck.
- Class oracle: a perfect classifier that guesses within the class. What it scores takes no word
  that tells images of one class apart.
- Chance: all orders of the gallery alike.

The three are the project's own; the published tables have none of them. The formulas are those of
draws without replacement (hypergeometric).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DIRECTIONS = ("image_to_text", "text_to_image")
PROTOCOLS = ("instance", "merged", "class")
Recalls = dict[str, float]


class Pairing(NamedTuple):
  """Which of n images and m texts belong together.

  owner: [m] the image of each text. strings: [m] 0 to S - 1, equal where the texts are equal.
  labels: [n] class of each image, 0 to C - 1. distractors: how many more strings are in the
  gallery of texts, which belong to no image.
  """

  owner: np.ndarray
  strings: np.ndarray
  labels: np.ndarray
  distractors: int = 0


class Shared(NamedTuple):
  """How the texts of each string are spread over labels (an image or a class each).

  label, string, number: [P] one entry a pair that occurs. size: [P] the texts of the string, of all
  labels.
  """

  label: np.ndarray
  string: np.ndarray
  number: np.ndarray
  size: np.ndarray


def shares(labels_of_texts: np.ndarray, strings: np.ndarray) -> Shared:
  """Counts the texts [m] of each label and string."""
  pairs, count = np.unique(np.stack([labels_of_texts, strings]), axis=1, return_counts=True)
  return Shared(pairs[0], pairs[1], count, np.bincount(strings)[pairs[1]])


def hit(matches, total, drawn) -> np.ndarray:
  """1 - C(total - matches, drawn) / C(total, drawn): a match is among so many of the total.

  Arrays that broadcast; `drawn` is cut to 0..total, and `matches` is at most `total`.
  """
  matches, total, drawn = np.broadcast_arrays(matches, total, drawn)
  drawn = np.clip(drawn, 0, total)
  miss = np.ones(total.shape)
  for number in range(int(drawn.max(initial=0))):
    left = np.maximum(total - number, 1)
    miss *= np.where(number < drawn, np.clip((left - matches) / left, 0, None), 1)
  return 1 - miss


def beside(pairing: Pairing, ks: Sequence[int]) -> dict[str, dict[str, dict[str, Recalls]]]:
  """{direction: {protocol: {'ceiling', 'class_oracle', 'chance': {'recall@<k>': fraction}}}}."""
  both = zip(DIRECTIONS, (_image_to_text(pairing), _text_to_image(pairing)), strict=True)
  return {
    direction: {
      protocol: {
        name: {f"recall@{k}": float(np.mean(of(k))) for k in ks} for name, of in bounds.items()
      }
      for protocol, bounds in protocols.items()
    }
    for direction, protocols in both
  }


def _image_to_text(pairing: Pairing):
  """{protocol: {bound: k -> [n] or a number}}: each image ranks the texts."""
  owner, strings, labels, distractors = pairing
  count, of_class = len(labels), labels[owner]
  own = np.bincount(owner, minlength=count)
  in_class = np.bincount(of_class)[labels]
  of_image, by_class = shares(owner, strings), shares(of_class, strings)
  own_strings = np.bincount(of_image.label, minlength=count)
  class_strings = np.bincount(by_class.label)[labels]
  texts, items = len(owner) + distractors, int(strings.max()) + 1 + distractors

  def ceiling(shared):
    # K texts of the string in front are all that count: where it has fewer, one of them is right.
    def of(k):
      best = np.zeros(int(shared.label.max()) + 1)
      np.maximum.at(best, shared.label, hit(shared.number, shared.size, k))
      return best

    return of

  of_classes = ceiling(by_class)
  return {
    "instance": {
      "ceiling": ceiling(of_image),
      "class_oracle": lambda k: hit(own, in_class, k),
      "chance": lambda k: hit(own, texts, k),
    },
    "merged": {
      "ceiling": lambda k: 1.0,
      "class_oracle": lambda k: hit(own_strings, class_strings, k),
      "chance": lambda k: hit(own_strings, items, k),
    },
    "class": {
      "ceiling": lambda k: of_classes(k)[labels],
      "class_oracle": lambda k: of_classes(k)[labels],
      "chance": lambda k: hit(in_class, texts, k),
    },
  }


def _text_to_image(pairing: Pairing):
  """{protocol: {bound: k -> [m], [S] or a number}}: each text ranks the images."""
  owner, strings, labels, _ = pairing
  count, of_class = len(labels), labels[owner]
  sizes = np.bincount(labels)
  of_image, by_class = shares(owner, strings), shares(of_class, strings)
  images_of = np.bincount(of_image.string)
  candidates = np.bincount(by_class.string, weights=sizes[by_class.label]).astype(int)

  def ceiling(shared):
    # All texts of a string rank the images alike, best one image each of the K largest labels.
    order = np.lexsort((-shared.number, shared.string))
    string, number = shared.string[order], shared.number[order]
    place = np.arange(len(string)) - np.searchsorted(string, string)
    return lambda k: number[place < k].sum() / len(owner)

  return {
    "instance": {
      "ceiling": ceiling(of_image),
      "class_oracle": lambda k: hit(1, sizes[of_class], k),
      "chance": lambda k: hit(1, count, k),
    },
    "merged": {
      "ceiling": lambda k: 1.0,
      # It cannot tell the classes of one string apart.
      "class_oracle": lambda k: hit(images_of, candidates, k),
      "chance": lambda k: hit(images_of, count, k),
    },
    "class": {
      "ceiling": ceiling(by_class),
      "class_oracle": ceiling(by_class),
      "chance": lambda k: hit(sizes[of_class], count, k),
    },
  }
