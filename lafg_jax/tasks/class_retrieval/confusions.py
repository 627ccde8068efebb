"""Which classes are hard, and which pairs of them are taken for each other."""

from collections import Counter
from typing import Any

import numpy as np

from lafg_jax.report.run_page import ClassRow, Pair
from lafg_jax.tasks.class_retrieval import shown_attributes
from lafg_jax.tasks.class_retrieval.queries import Evaluated, Scored
from lafg_jax.tasks.class_retrieval.shown_attributes import Read

NUM_PAIRS, NUM_CONFUSED = 10, 3


def first_found(evaluated: Evaluated, scored: Scored) -> tuple[np.ndarray, np.ndarray]:
  """The class of each query that has a match, and that of its nearest image, [q] each."""
  asked = evaluated.labels[evaluated.queries]
  return asked[scored.counts], evaluated.labels[scored.found[:, 0]][scored.counts]


def classes(evaluated: Evaluated, scored: Scored) -> list[ClassRow]:
  """The classes with queries, the lowest MAP@R first."""
  asked, found = first_found(evaluated, scored)
  precision, recall = scored.precision[scored.counts], scored.recall[scored.counts]
  rows = []
  for label in np.unique(asked).tolist():
    own = asked == label
    wrong = Counter(found[own & (found != label)].tolist())
    confused = tuple(sorted(wrong.items(), key=lambda of: (-of[1], of[0]))[:NUM_CONFUSED])
    means = float(recall[own].mean()), float(precision[own].mean())
    rows.append(ClassRow(label, int(own.sum()), *means, confused))
  return sorted(rows, key=lambda row: (row.precision, row.recall, row.label))


def pairs(evaluated: Evaluated, scored: Scored, reading: Read | None) -> list[Pair]:
  """The pairs with the highest share of queries of both whose nearest image is of the other."""
  asked, found = first_found(evaluated, scored)
  numbers = Counter(asked.tolist())
  errors = Counter(zip(asked[asked != found].tolist(), found[asked != found].tolist(), strict=True))
  both = {(min(pair), max(pair)) for pair in errors}

  def share(pair: tuple[int, int]) -> float:
    return (errors[pair] + errors[pair[::-1]]) / (numbers[pair[0]] + numbers[pair[1]])

  ordered = sorted(both, key=lambda pair: (-share(pair), pair))[:NUM_PAIRS]
  return [_pair(evaluated, scored, reading, of, errors, numbers) for of in ordered]


def _pair(
  evaluated: Evaluated, scored: Scored, reading: Read | None, pair: Any, errors: Any, numbers: Any
) -> Pair:
  a, b = pair if errors[pair] >= errors[pair[::-1]] else pair[::-1]
  asked = evaluated.labels[evaluated.queries]
  wrong = scored.counts & (asked == a) & (evaluated.labels[scored.found[:, 0]] == b)
  # The error that the model was surest of.
  query = int(np.argmax(np.where(wrong, scored.similarity[:, 0], -np.inf)))
  rows = tuple(np.flatnonzero(evaluated.labels == label) for label in (a, b))
  return Pair(
    labels=(a, b),
    errors=(errors[a, b], errors[b, a]),
    queries=(numbers[a], numbers[b]),
    example=(int(evaluated.queries[query]), int(scored.found[query, 0])),
    apart=shown_attributes.apart(reading, *rows) if reading else (),
  )
