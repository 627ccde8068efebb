"""A map of embeddings: their places in a plane, in bounded time."""

from importlib import util

import numpy as np

# t-SNE of so many images; the others are put between the ones they are nearest to.
LANDMARKS, STEPS, WIDTH, NEAREST = 2500, 500, 50, 3
_CHUNK = 1024


def plane(vectors: np.ndarray) -> tuple[np.ndarray, str]:
  """Places [n, 2], within [-1, 1], of embeddings [n, D], n >= 3, and how they were made, in words.

  t-SNE (van der Maaten and Hinton, 2008) by scikit-learn on the first `WIDTH` principal axes of at
  most `LANDMARKS` evenly spaced images, which bounds the time. Any other image stands at the mean
  of its nearest landmarks, the nearer ones weighing more. Without scikit-learn, or of few images,
  the first two principal axes.
  """
  axes, shares = _principal(vectors)
  if len(vectors) < 12 or util.find_spec("sklearn") is None:
    return _scaled(axes[:, :2]), (
      f"The plane in which the embeddings differ most (PCA); it shows {shares[:2].sum():.0%} of "
      "their variance."
    )
  from sklearn.manifold import TSNE

  chosen = np.unique(np.linspace(0, len(vectors) - 1, min(LANDMARKS, len(vectors))).astype(int))
  perplexity = min(30.0, (len(chosen) - 1) / 4)
  tsne = TSNE(init="pca", max_iter=STEPS, perplexity=perplexity, random_state=0)
  places = tsne.fit_transform(axes[chosen].astype(np.float32))
  how = f"By t-SNE (perplexity {perplexity:.0f}) of the first {axes.shape[1]} principal axes."
  if len(chosen) < len(vectors):
    places = _between(axes, axes[chosen], places)
    how += f" Of {len(chosen):,} images; the others stand between those that they are nearest to."
  return _scaled(places), how


def _principal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The first principal axes [n, w] and their shares [w] of the variance."""
  centred = vectors - vectors.mean(axis=0, dtype=np.float64)
  values, directions = np.linalg.eigh(centred.T @ centred)
  width = min(WIDTH, vectors.shape[1], len(vectors))
  values, directions = values[::-1][:width], directions[:, ::-1][:, :width]
  # An eigenvector's sign is arbitrary: the same input gives the same picture.
  largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0)
  total = max(float(np.sum(centred**2)), 1e-12)
  return centred @ (directions * np.where(largest < 0, -1, 1)), values / total


def _between(points: np.ndarray, landmarks: np.ndarray, places: np.ndarray) -> np.ndarray:
  """[n, 2] places of all points [n, w] by those [m, 2] of landmarks [m, w]; these keep theirs."""
  found = np.zeros((len(points), 2))
  squares = np.sum(landmarks**2, axis=1)
  for start in range(0, len(points), _CHUNK):
    part = points[start : start + _CHUNK]
    distance = np.sum(part**2, axis=1)[:, None] + squares - 2 * part @ landmarks.T
    nearest = np.argpartition(distance, NEAREST, axis=1)[:, :NEAREST]
    weight = 1 / np.maximum(np.take_along_axis(distance, nearest, axis=1), 1e-9)
    mean = (places[nearest] * weight[..., None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
    found[start : start + _CHUNK] = mean
  return found


def _scaled(places: np.ndarray) -> np.ndarray:
  """Centred, and the larger side from -1 to 1."""
  places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
  low, high = places.min(axis=0), places.max(axis=0)
  return (places - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-12)
