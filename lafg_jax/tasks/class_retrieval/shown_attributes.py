"""Which attributes the report names: of an image, of two images that match, of two classes."""

import os
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.explain import names
from lafg_jax.report.run_page import Apart, Entry
from lafg_jax.tasks.class_retrieval import attribute_floors, attributes, finishing, restore
from lafg_jax.training import checkpoints
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import read_npz

NUM_SHARED, NUM_APART, NUM_CLASSES, NUM_EXAMPLES = 3, 4, 4, 3
# Two classes are told apart by an attribute whose means lie so many standard deviations apart.
LEAST_APART = 0.5
_CHUNK = 4096


class Read(NamedTuple):
  """What a model reads in the evaluated images.

  scores: [n, N] cosines with the entries. floors: [N], below which none is named. spread: [N] the
  standard deviations over images, mean: [N]. names: [N], short. sentences, classes: of each entry.
  """

  scores: np.ndarray
  floors: np.ndarray
  mean: np.ndarray
  spread: np.ndarray
  names: list[str]
  sentences: list[tuple[str, ...]]
  classes: list[tuple[tuple[str, float], ...]]


def read(
  config: ConfigDict, workdir: str, result: dict[str, Any], vectors: np.ndarray
) -> tuple[Read | None, str]:
  """The readings of a checkpoint, or None; and what is said about them.

  Args:
    result: evaluation.json, which has the floors where they were measured.
    vectors: [n, D] embeddings.
  """
  if config.evaluate.source not in ("checkpoint", "best"):
    return None, "The evaluated model was not trained with words: it has no attributes to read."
  try:
    # A workdir may have been copied without them.
    arrays, meta = checkpoints.require(workdir, finishing.where(config))
    # Run by itself, the report has a config in which 'auto' is left.
    trained = config_keys.nested(meta["config"])
    found, sentences = restore.trees(trained, arrays)["readout"], meta.get("sentences", [])
    attributes.check(config, found, sentences)
  except UserError as error:
    return None, f"No attributes: {error}."
  parts = [
    attributes.scores(vectors[start : start + _CHUNK], found).astype(np.float32)
    for start in range(0, len(vectors), _CHUNK)
  ]
  scores = np.concatenate(parts)
  said = [tuple(text for text in row if text) for row in sentences]
  floors = attribute_floors.of({"evaluation": result}, found)
  assert floors is not None
  of = Read(
    *(scores, floors, scores.mean(axis=0), np.maximum(scores.std(axis=0), 1e-6)),
    *(names.short_names(said), said, _attending(workdir, len(said))),
  )
  about = (
    f"An attribute is an entry of the vocabulary of {len(said):,} that was mined from the "
    "descriptions of training classes. It is named where the image's score is above the "
    f"{attributes.QUANTILE:.0%} quantile of an untrained model, and above the mean over the "
    "evaluated images. It is the model's reading, and may be wrong."
  )
  return of, about


def shared(reading: Read, a: int, b: int) -> tuple[str, ...]:
  """Names of the attributes that both images show, those that set both apart most first."""
  scores = reading.scores[[a, b]]
  both = np.min((scores - reading.mean) / reading.spread, axis=0)
  named = (scores > reading.floors).all(axis=0) & (both > 0)
  order = np.argsort(-np.where(named, both, -np.inf), kind="stable")[: min(NUM_SHARED, named.sum())]
  return tuple(dict.fromkeys(reading.names[n] for n in order))


def apart(reading: Read, a: np.ndarray, b: np.ndarray) -> tuple[Apart, ...]:
  """The attributes that tell two classes, rows [n_a] and [n_b], apart, the best first.

  By the difference of the means over the root of the mean variance within the classes (Cohen's d);
  of those that one of them has above its floor.
  """
  means = [reading.scores[rows].mean(axis=0) for rows in (a, b)]
  variances = [reading.scores[rows].var(axis=0) for rows in (a, b)]
  distance = (means[0] - means[1]) / np.sqrt(np.maximum(np.mean(variances, axis=0), 1e-12))
  named = (np.max(means, axis=0) > reading.floors) & (np.abs(distance) >= LEAST_APART)
  order = np.argsort(-np.where(named, np.abs(distance), -1), kind="stable")
  return tuple(
    Apart(reading.names[n], (float(means[0][n]), float(means[1][n])), float(distance[n]))
    for n in order[: min(NUM_APART, named.sum())]
  )


def entries(reading: Read | None) -> list[Entry]:
  """The vocabulary, what is read in most images first."""
  if reading is None:
    return []
  above = (reading.scores > np.maximum(reading.floors, reading.mean)).sum(axis=0)
  found = []
  for n in np.argsort(-above, kind="stable").tolist():
    top = np.argsort(-reading.scores[:, n], kind="stable")[: min(NUM_EXAMPLES, above[n])]
    said = reading.sentences[n], reading.classes[n]
    found.append(Entry(reading.names[n], *said, int(above[n]), tuple(top.tolist())))
  return found


def _attending(workdir: str, count: int) -> list[tuple[tuple[str, float], ...]]:
  """For each entry the training classes that attend to it most, with their weights.

  Nothing where prototypes.npz is gone, or of another vocabulary than the checkpoint.
  """
  path = os.path.join(workdir, "prototypes.npz")
  if not os.path.exists(path):
    return [()] * count
  arrays = read_npz(path, ("class_names", "topk_indices", "topk_weights"), stage="prototypes")
  of: list[list[tuple[str, float]]] = [[] for _ in range(count)]
  for name, *row in zip(
    arrays["class_names"].tolist(), arrays["topk_indices"], arrays["topk_weights"], strict=True
  ):
    for n, weight in zip(*row, strict=True):
      if n < count:
        of[n].append((str(name), float(weight)))
  return [tuple(sorted(x, key=lambda pair: (-pair[1], pair[0]))[:NUM_CLASSES]) for x in of]
