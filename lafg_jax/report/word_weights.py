"""Which words of captions weigh most: readings of weights that a task gives each word.

Weights come as {row of the split: [(word, weight), ...]}, the words as they stand in the caption
and in its order.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lafg_jax.data.captions import Captioned
from lafg_jax.utils.errors import UserError

Weights = Mapping[int, Sequence[tuple[str, float]]]
# Words that tell the class, and those that tell nothing of the kind that spans name.
CLASS, OTHER = "class", "other words"
ATTRIBUTES = "attributes"
_LEAST = 3  # so often a word must occur to be listed


class Placed(NamedTuple):
  """A word at characters start to end - 1 of a caption, and its weight."""

  start: int
  end: int
  weight: float


def placed(caption: str, words: Sequence[tuple[str, float]]) -> list[Placed]:
  """The words where they stand in the caption.

  The caption may go on behind the last word, where it was cut. Raises UserError for a word that
  does not follow the one before it.
  """
  at, found = 0, []
  for word, weight in words:
    start = caption.find(word, at)
    if start < 0:
      raise UserError(f"the weight of '{word}' is of no word that follows in '{caption}'")
    at = start + len(word)
    found.append(Placed(start, at, float(weight)))
  return found


def by_kind(captioned: Captioned, weights: Weights) -> dict[str, dict[str, float]]:
  """How the weight is spread over kinds of words, where `captioned.spans` tells them; else {}.

  Signs are no words. A word is of the kind of the span that it overlaps.

  Returns:
    {kind: {'words', 'share_of_words', 'share_of_weight', 'mean_weight'}} for 'attributes' (all of
    them), 'class' and 'other words', then each attribute. Words that weigh alike have a share of
    weight that equals their share of words. Fractions of all words with weights.
  """
  if captioned.spans is None or not weights:
    return {}
  found: dict[str, list[float]] = {ATTRIBUTES: [], CLASS: [], OTHER: []}
  for row, words in weights.items():
    spans = captioned.spans[row]
    text = captioned.captions[row]
    for word in placed(text, words):
      if not any(map(str.isalnum, text[word.start : word.end])):
        continue
      over = (span.says for span in spans if span.start < word.end and word.start < span.end)
      kind = next(over, OTHER)
      if kind not in (CLASS, OTHER):
        found[ATTRIBUTES].append(word.weight)
      found.setdefault(kind, []).append(word.weight)
  every = found[ATTRIBUTES] + found[CLASS] + found[OTHER]
  return {
    kind: {
      "words": len(of),
      "share_of_words": len(of) / len(every),
      "share_of_weight": sum(of) / max(sum(every), 1e-12),
      "mean_weight": sum(of) / len(of),
    }
    for kind, of in found.items()
    if of
  }


def heaviest(weights: Weights, count: int = 20) -> list[tuple[str, float, int]]:
  """The words with the highest mean weight, that mean, and how often each occurs (3 times on)."""
  found: dict[str, list[float]] = {}
  for words in weights.values():
    for word, weight in words:
      if any(map(str.isalnum, word)):
        found.setdefault(word.lower(), []).append(weight)
  means = [(word, sum(of) / len(of), len(of)) for word, of in found.items() if len(of) >= _LEAST]
  return sorted(means, key=lambda of: (-of[1], of[0]))[:count]


def summary(captioned: Captioned, weights: Weights) -> dict[str, Any]:
  """Both readings, for a JSON."""
  listed = [
    {"word": word, "mean_weight": mean, "times": times} for word, mean, times in heaviest(weights)
  ]
  return {"captions": len(weights), "kinds": by_kind(captioned, weights), "heaviest": listed}
