"""Attribute vocabulary: K-means centres of all description features (method.md, stage 2)."""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from lafg_jax.utils import packages
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise, unit_or_zero

_ROUNDS = 300
_TILE = 8192
# The most attributes that `sizes` chooses: the paper's vocabulary.
_MOST = 256


def sizes(language: Any, num_sentences: int, num_classes: int) -> tuple[int, int]:
  """(N, K): `language.num_attributes` and `language.top_k`, where N = 0 stands for 'auto'.

  'auto' leaves two sentences to an attribute, and two classes that attend to it, on average, so
  that attributes can be shared: the power of two that is nearest (by ratio) to the smaller of S / 2
  and K C / 2, at most 256. K is then at most half of N, as a class that attends to all attributes
  is told from no other by them.
  """
  count, top_k = language.num_attributes, language.top_k
  if count:
    return count, top_k
  wanted = min(num_sentences, top_k * num_classes) / 2
  count = min(_MOST, 2 ** max(0, round(math.log2(max(wanted, 1)))))
  return count, min(top_k, max(1, count // 2))


def distinct(features: np.ndarray) -> int:
  """How many different rows `features` [S, d] have."""
  return len({row.tobytes() for row in features})


def check_size(num_attributes: int, available: int) -> None:
  """Raises UserError where there are fewer different descriptions than attributes."""
  if not 1 <= num_attributes <= available:
    raise UserError(
      f"--config.language.num_attributes={num_attributes}: it takes a number in 1..{available}, "
      "that of the distinct descriptions, or 0, which chooses it by the sentences and classes"
    )


class Vocabulary(NamedTuple):
  """What `mine` found in S features."""

  centres: np.ndarray  # [N, d] float32 a_n, L2-normalised
  labels: np.ndarray  # [S] the cluster of each feature
  inertia: float  # sum over S of the squared distance to the cluster's mean (not normalised)


def mine(
  features: np.ndarray,
  num_attributes: int,
  seed: int,
  restarts: int,
  *,
  minibatch_above: int = 2**31,
  spherical: bool = False,
) -> Vocabulary:
  """K-means over description features; the centres are the vocabulary a_1..a_N.

  The centres are L2-normalised again, since a mean of unit vectors is shorter than 1.

  Args:
    features: [S, d] L2-normalised features of all descriptions.
    num_attributes: N, at most the number of distinct features.
    seed: of the initial centres.
    restarts: how many initialisations to try; the one of least inertia is kept.
    minibatch_above: S above which mini-batches are clustered, faster and a little worse.
    spherical: normalise the centres in every round (which maximises the cosine; all features at
      once), not only at the end.

  Raises:
    UserError: num_attributes or restarts does not fit.
  """
  packages.require("language", "sklearn", "threadpoolctl")
  from sklearn.cluster import KMeans, MiniBatchKMeans
  from threadpoolctl import threadpool_limits

  if restarts < 1:
    raise UserError(f"language.kmeans_restarts must be at least 1, not {restarts}")
  check_size(num_attributes, distinct(features))
  # Several threads add partial sums in a varying order; one thread gives the same bits each time.
  with threadpool_limits(limits=1):
    if spherical:
      centres = _spherical(features, num_attributes, seed, restarts)
      labels = nearest_centres(features, centres)[0]
    else:
      kind = MiniBatchKMeans if len(features) > minibatch_above else KMeans
      found = kind(num_attributes, n_init=restarts, random_state=seed).fit(features)
      centres, labels = l2_normalise(found.cluster_centers_, "K-means centres"), found.labels_
  return Vocabulary(centres, labels, _inertia(features, labels, num_attributes))


def nearest_sentences(
  centres: np.ndarray, features: np.ndarray, sentences: np.ndarray, count: int = 5
) -> np.ndarray:
  """[N, count] str: for each centre the different sentences nearest to it, nearest first.

  Rows are filled up with '' where there are fewer. The centres [N, d] and the features [S, d] of
  the sentences [S] are L2-normalised; several classes may have the same sentence.
  """
  texts, first = np.unique(sentences, return_index=True)
  ranks = np.argsort(-(centres @ features[first].T), axis=1, kind="stable")[:, :count]
  nearest = np.full((len(centres), count), "", texts.dtype)
  nearest[:, : ranks.shape[1]] = texts[ranks]
  return nearest


def specificity(features: np.ndarray, owners: np.ndarray) -> np.ndarray:
  """How much nearer each sentence is to its own class than to classes on average.

  margin(s) = cos(s, m_c without s) - mean over the other classes k of cos(s, m_k), with m_k the
  mean feature of class k. A sentence that fits every class equally has a margin near 0. Ours, not
  in the paper.

  Args:
    features: [S, d], L2-normalised.
    owners: [S] int, the class of each.

  Returns:
    [S] float64 in [-2, 2]; inf where there is nothing to compare with: for the only sentence of a
    class, and for all if there is one class.
  """
  _, owners = np.unique(owners, return_inverse=True)
  features = features.astype(np.float64)
  count = np.bincount(owners)
  sums = _sums(features, owners, len(count))
  without = sums[owners] - features
  own = np.einsum("sd,sd->s", features, unit_or_zero(without))
  means = unit_or_zero(sums)
  # One product with the sum over all classes, less the own class: S x C similarities would not fit.
  others = features @ means.sum(axis=0) - np.einsum("sd,sd->s", features, means[owners])
  margin = own - others / max(len(count) - 1, 1)
  margin[(count[owners] < 2) | (len(count) < 2)] = np.inf
  return margin


def generic(features: np.ndarray, owners: np.ndarray, fraction: float) -> np.ndarray:
  """Rows of the `fraction` of sentences with the least `specificity`, most generic first.

  A class keeps its most specific sentence, so that fewer rows may be found. Arguments as
  `specificity`; raises UserError if the fraction is not in [0, 1).
  """
  if not 0 <= fraction < 1:
    raise UserError(f"language.drop_generic must be at least 0 and below 1, not {fraction}")
  margin = specificity(features, owners)
  order = np.argsort(margin, kind="stable")
  # A class keeps the first of its sentences, from the most specific on.
  _, first = np.unique(owners[order[::-1]], return_index=True)
  others = order[~np.isin(order, order[::-1][first])]
  return others[: int(fraction * len(order))]


def _sums(features: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
  """[count, d] float64 sums of the features of each label."""
  rows = np.arange(len(labels))
  members = scipy.sparse.csr_array((np.ones(len(rows)), (labels, rows)), (count, len(rows)))
  return members @ features


def _inertia(features: np.ndarray, labels: np.ndarray, count: int) -> float:
  """The sum of squares, less the part that the means explain."""
  sums = _sums(features, labels, count)
  sizes = np.maximum(np.bincount(labels, minlength=count), 1)
  total = float(np.sum(features.astype(np.float64) ** 2))
  return max(total - float(np.sum((sums**2).sum(axis=1) / sizes)), 0.0)


def nearest_centres(features: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(label, cosine), both [S], of the nearest of `centres` [N, d] to each of `features` [S, d].

  Both are L2-normalised.
  """
  labels, best = [], []
  for start in range(0, len(features), _TILE):
    similarity = features[start : start + _TILE] @ centres.T
    labels.append(similarity.argmax(axis=1))
    best.append(similarity.max(axis=1))
  return np.concatenate(labels), np.concatenate(best)


def _spherical(features: np.ndarray, count: int, seed: int, restarts: int) -> np.ndarray:
  """Spherical K-means [count, d]: assign to the most similar centre, take the mean's direction."""
  from sklearn.cluster import kmeans_plusplus

  best, best_cosine = np.empty(0), -np.inf
  for restart in range(restarts):
    rng = np.random.RandomState((seed, restart))
    centres = kmeans_plusplus(features, count, random_state=rng)[0]
    before = np.empty(0)
    for _ in range(_ROUNDS):
      labels, cosine = nearest_centres(features, centres)
      if np.array_equal(labels, before):
        break
      before = labels
      sums = _sums(features, labels, count)
      # A centre that lost all its features, or whose features cancel, starts again where the
      # vocabulary fits worst.
      lost = np.flatnonzero(np.linalg.norm(sums, axis=1) < 1e-6)
      sums[lost] = features[np.argsort(cosine, kind="stable")[: len(lost)]]
      centres = unit_or_zero(sums).astype(np.float32)
    total = float(nearest_centres(features, centres)[1].sum(dtype=np.float64))
    if total > best_cosine:
      best, best_cosine = centres, total
  return l2_normalise(best, "K-means centres")
