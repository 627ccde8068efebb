"""Below which score nothing in a gallery is similar to a query, by the gallery's own images.

An image query: of up to 1,000 images of the gallery, drawn at random, the cosine with the nearest
other one is taken, and the cosines with each other. The floor is the larger of two figures: the 5 %
quantile of the former (19 of 20 images of the gallery would be told similar to something, were they
queries), and the 99 % quantile of the latter (of two images that have nothing to do with each
other, one pair in a hundred is above it).

A text query: sentences and images lie apart, so that cosines between images say nothing, and some
sentences are near to all images, whatever these show. So a text's best score is taken above its
own mean score over the gallery, which is its product with the mean of the images' vectors.
Sentences of everyday life (`EVERYDAY`) are searched for, and the floor is the 75 % quantile of what
they reach: a query is told similar where something stands out for it more than for most of these.
It is a hint, and a weak one: docs/guide/search.md has how often it is right.
"""

from typing import Any

import numpy as np

from lafg_jax.gallery import store
from lafg_jax.gallery.store import Gallery
from lafg_jax.utils import random_streams

SAMPLE, FEWEST = 1000, 20
NEAREST, RANDOM, TEXTS = 0.05, 0.99, 0.75
# Digits of the mean: the facts of a gallery have 65,535 letters at most.
_DIGITS = 4
EVERYDAY = (
  *("a bridge over a river", "a plate of spaghetti", "a dentist with a patient", "a tax form"),
  *("a volcano at night", "a kitchen sink", "people in a meeting", "a goal in a football match"),
  *("a map of a city", "a page of handwriting", "a steam locomotive", "a loaf of bread"),
  *("an x-ray of a hand", "a desert with dunes", "a violin on a chair", "an empty parking lot"),
  *("a screenshot of a table", "a fish tank", "a garden hose", "a wedding cake"),
  *("a cow in a meadow", "an office building", "a pile of bricks", "a chess board"),
  *("a lighthouse in fog", "a bottle of shampoo", "a bus stop", "fireworks above a lake"),
  *("a cup of coffee", "a snow-covered mountain", "a tractor on a field", "a row of books"),
  *("a computer keyboard", "a swimming pool", "a sleeping cat", "a supermarket shelf"),
  *("a traffic light", "a sailing boat", "a blank wall", "a bowl of cherries"),
)


def floors(gallery: Gallery, model: Any, seed: int = 0) -> dict[str, Any]:
  """The floors of a gallery, JSON: {'image': a cosine, 'text': a cosine, ...}; {} of a small one.

  A floor that cannot be told is left out: with fewer than FEWEST images, or, of texts, where the
  model reads none. 'nearest' and 'random' are the two figures of the images. 'text' is above a
  text's product with 'mean', the mean of the images' vectors.
  """
  keys = sorted(store.entries(gallery))
  if len(keys) < FEWEST:
    return {}
  rng = random_streams.of_seed(seed)
  chosen = [keys[k] for k in rng.choice(len(keys), min(SAMPLE, len(keys)), replace=False)]
  vectors = store.vectors_of(gallery, chosen)
  found = of_images(vectors, nearest_others(gallery, vectors, chosen))
  if model.reads_texts:
    said = model.retriever.embed_text(list(EVERYDAY))
    mean = np.round(vectors.mean(axis=0, dtype=np.float64), _DIGITS)
    best = np.array([hits[0].score for hits in store.search(gallery, said, 1)])
    found |= {"text": float(np.quantile(best - said @ mean, TEXTS)), "mean": mean.tolist()}
  return found | {"images": len(keys), "sample": len(chosen)}


def floor_of(found: dict[str, Any], of: str, vector: np.ndarray) -> float | None:
  """The floor of a query's score; None where there is none.

  found: from `floors`. of: what the query is, as `searching.Answer` has it. vector: [1, D].
  """
  floor = found.get(of)
  # A gallery that an earlier version indexed has one floor for all texts.
  if floor is None or of != "text" or "mean" not in found:
    return floor
  return floor + float(vector[0] @ np.array(found["mean"]))


def nearest_others(gallery: Gallery, vectors: np.ndarray, keys: list[str]) -> np.ndarray:
  """The cosine of each image [n] with the nearest one that is not itself."""
  best = []
  for key, hits in zip(keys, store.search(gallery, vectors, 2), strict=True):
    others = [hit.score for hit in hits if store.key_of(hit.path) != key]
    best.append(others[0] if others else -1.0)
  return np.array(best)


def of_images(vectors: np.ndarray, nearest: np.ndarray) -> dict[str, float]:
  """The floor of image queries.

  vectors: [n, D] of unit norm, of a sample. nearest: [n] cosine of each with the nearest other.
  """
  cosines = vectors @ vectors.T
  pairs = cosines[np.triu_indices(len(vectors), 1)]
  near, random = float(np.quantile(nearest, NEAREST)), float(np.quantile(pairs, RANDOM))
  return {"image": max(near, random), "nearest": near, "random": random}
