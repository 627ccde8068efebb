"""Text features -> linguistic prototypes T_c: `<workdir>/prototypes.npz` (method.md, stage 2)."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.language import statistics
from lafg_jax.language import vocabulary as mining
from lafg_jax.utils import files, random_streams
from lafg_jax.utils.class_names import class_order, shorten
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise, unit_or_zero

STATS = "prototypes_stats.json"


def attend(
  queries: np.ndarray, vocabulary: np.ndarray, top_k: int, tau_k: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Top-K attention of class queries over the attribute vocabulary.

  T_c = t_c + sum_k softmax_k(t_c . a_k / tau_k) a_k over the K centres most similar to t_c (LaFG,
  arXiv 2512.06255). The paper's text has tau_k = 1, at which the weights are nearly uniform.

  Args:
    queries: [C, d] t_c, L2-normalised.
    vocabulary: [N, d] a_n, L2-normalised.
    top_k: K in 1..N.
    tau_k: softmax temperature, > 0.

  Returns:
    (prototypes [C, d] float32, not normalised; indices [C, K] int32 into the vocabulary, most
    similar first, the lower index first among equals; weights [C, K] float32, rows sum to 1).

  Raises:
    UserError: top_k or tau_k out of range.
  """
  if not 1 <= top_k <= len(vocabulary):
    raise UserError(f"language.top_k must lie in 1..{len(vocabulary)}, not {top_k}")
  if not 0 < tau_k < np.inf:
    raise UserError(f"language.tau_k must be positive, not {tau_k}")
  queries, vocabulary = queries.astype(np.float64), vocabulary.astype(np.float64)
  similarity = queries @ vocabulary.T
  indices = np.argsort(-similarity, axis=1, kind="stable")[:, :top_k]
  chosen = np.take_along_axis(similarity, indices, axis=1)
  # The largest comes first; subtracting it keeps exp() in range at small tau_k.
  weights = np.exp((chosen - chosen[:, :1]) / tau_k)
  weights /= weights.sum(axis=1, keepdims=True)
  prototypes = queries + np.einsum("ck,ckd->cd", weights, vocabulary[indices])
  return prototypes.astype(np.float32), indices.astype(np.int32), weights.astype(np.float32)


def profiles(
  features: np.ndarray, owners: np.ndarray, vocabulary: np.ndarray, tau: float
) -> np.ndarray:
  """Attribute profiles: the square roots of how much a class's sentences say of each attribute.

  p_c = mean over the class's sentences s of softmax_n(cos(b_s - mean b, a_n - mean b) / tau), and
  its root has unit length, so that cosines are Bhattacharyya coefficients of two classes' shares.
  Ours, not in the paper, whose T_c stays in the encoder's space: there a sentence is one point,
  whatever number of attributes it names, and a sum of points is near to what they have in common.

  Args:
    features: [S, d] b_s, L2-normalised.
    owners: [S] int in 0..C-1, the class that each describes; every class has one.
    vocabulary: [N, d] a_n, L2-normalised.
    tau: > 0; the smaller, the fewer attributes share a sentence.

  Returns:
    [C, N] float32, rows of unit length, >= 0.

  Raises:
    UserError: tau is out of range.
  """
  if not 0 < tau < np.inf:
    raise UserError(f"language.tau_profile must be positive, not {tau}")
  features = features.astype(np.float64)
  mean = features.mean(axis=0)
  # A sentence at the mean itself is as near to all attributes.
  cosine = unit_or_zero(features - mean) @ unit_or_zero(vocabulary - mean).T  # [S, N]
  shares = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / tau)
  shares /= shares.sum(axis=1, keepdims=True)
  sums = np.zeros((int(owners.max()) + 1, len(vocabulary)))
  np.add.at(sums, owners, shares)
  return np.sqrt(sums / np.bincount(owners)[:, None]).astype(np.float32)


def class_queries(
  prompts: np.ndarray, means: np.ndarray, query: str, image_means: np.ndarray | None = None
) -> np.ndarray:
  """t_c [C, d], L2-normalised, from prompt features and description means (both [C, d]).

  query 'name' is the paper's: the prompt alone. The others are ours, not in the paper:
  'descriptions' is normalise(prompt + mean of the class's own description features), and 'image'
  is normalise(prompt + image_means), with the mean image feature of the class's training images,
  [C, d] L2-normalised, in the same space: for classes that have no names of their own (SOP).

  Raises:
    UserError: any other query, or no image features for 'image'.
  """
  if query == "image":
    if image_means is None:
      raise UserError("text_features.npz has no image features: run --stage=encode again")
    return l2_normalise(prompts + image_means, "class queries")
  if query == "name":
    return prompts
  if query == "descriptions":
    return l2_normalise(prompts + means, "class queries")
  raise UserError(f"language.query is name, descriptions or image, not {query!r}")


def run(language: Any, workdir: str | os.PathLike, class_names: Sequence[str]) -> Path:
  """Writes `<workdir>/prototypes.npz` from `<workdir>/text_features.npz`.

  It holds the arrays of `compute`, the classes in the order of `class_names`; its statistics are
  written to `<workdir>/prototypes_stats.json`. Raises UserError as `compute`, and if the features
  are missing, damaged or of other classes.
  """
  path = Path(workdir) / "text_features.npz"
  keys = (
    "class_names class_described sentences sentence_described sentence_features queries encoder"
  )
  found = files.read_npz(path, keys.split(), stage="encode", optional=("image_means",))
  order = class_order(path, found["class_names"], class_names, stage="encode")
  arrays, stats = compute(language, found, order)
  written = files.write_npz(Path(workdir) / "prototypes.npz", **arrays)
  with files.replacing(Path(workdir) / STATS) as temporary:
    temporary.write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
  return written


def compute(
  language: Any, found: dict[str, np.ndarray], order: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The vocabulary and the prototypes of text features; writes nothing, logs the statistics.

  Args:
    language: the config section.
    found: the arrays of `encoders.texts.compute`.
    order: [C] positions in `found["class_names"]` of the result's classes.

  Returns:
    (arrays, `statistics.compute` with tau_k, dropped_sentences and the lines of
    `statistics.warnings`, which are logged). The arrays, with N attributes
    and width d: class_names [C], queries [C, d] t_c, vocabulary [N, d], prototypes [C, d] (raw
    T_c), topk_indices and topk_weights [C, K], nearest_sentences [N, 5] (they show a person which
    attribute an entry is), description_means [C, d] (not normalised), attribute_profiles [C, N] (of
    `profiles`), encoder (its id). No array uses a sentence that `language.drop_generic` drops.

  Raises:
    UserError: a key is out of range.
  """
  kept = _kept(found, language.drop_generic)
  features, owners = found["sentence_features"][kept], found["sentence_described"][kept]
  owners = deal_out(owners, language.wrong_sentences, language.kmeans_seed)
  class_described = found["class_described"][order]
  described = [features[owners == k].mean(axis=0) for k in range(int(owners.max()) + 1)]
  means = np.stack(described)[class_described]
  images = found["image_means"][order] if "image_means" in found else None
  queries = class_queries(found["queries"][order], means, language.query, images)
  count, top_k = mining.sizes(language, mining.distinct(features), len(order))
  if not language.num_attributes:
    logging.info(
      "language.num_attributes: auto is %d, and language.top_k %d, for %d sentences and %d classes",
      *(count, top_k, len(features), len(order)),
    )
  vocabulary = mining.mine(
    *(features, count, language.kmeans_seed, language.kmeans_restarts),
    minibatch_above=language.minibatch_above,
    spherical=language.spherical,
  )
  centres = vocabulary.centres
  prototypes, indices, weights = attend(queries, centres, top_k, language.tau_k)
  stats = statistics.compute(vocabulary, prototypes, indices, weights, queries, owners)
  stats |= {"tau_k": language.tau_k, "dropped_sentences": len(found["sentences"]) - len(kept)}
  names = found["class_names"][order]
  stats["warnings"] = statistics.warnings(stats, str(found["encoder"]), queries, names.tolist())
  logging.info("%s", statistics.text(stats))
  for line in stats["warnings"]:
    logging.warning("%s", line)
  arrays = {
    "class_names": names,
    "queries": queries,
    "vocabulary": centres,
    "prototypes": prototypes,
    "topk_indices": indices,
    "topk_weights": weights,
    "nearest_sentences": mining.nearest_sentences(centres, features, found["sentences"][kept]),
    "description_means": means,
    "attribute_profiles": profiles(features, owners, centres, language.tau_profile)[
      class_described
    ],
    "encoder": found["encoder"],
  }
  return arrays, stats


def deal_out(owners: np.ndarray, share: float, seed: int) -> np.ndarray:
  """Control experiment: the classes [S] of sentences after a share of them got another class.

  The drawn sentences are exchanged among themselves, so that every class keeps its number; a
  sentence stays where no drawn one is of another class.
  """
  rng = random_streams.of_seed(seed)
  drawn = rng.permutation(len(owners))[: round(share * len(owners))]
  drawn = drawn[np.argsort(owners[drawn], kind="stable")]
  if not len(drawn):
    return owners
  dealt = owners.copy()
  # Sorted by class, and shifted by the size of the largest one: none gets its own class.
  dealt[drawn] = np.roll(owners[drawn], np.bincount(owners[drawn]).max())
  return dealt


def _kept(found: dict[str, np.ndarray], fraction: float) -> np.ndarray:
  """Rows of the sentences that the noise filter keeps, in order; logs what it drops."""
  sentences = found["sentences"]
  dropped = mining.generic(found["sentence_features"], found["sentence_described"], fraction)
  if len(dropped):
    logging.info(
      "language.drop_generic=%g: %d of %d sentences say nothing of their class in particular and "
      "are dropped, such as %s",
      *(fraction, len(dropped), len(sentences), shorten(sentences[dropped[:3]].tolist())),
    )
  return np.setdiff1d(np.arange(len(sentences)), dropped)
