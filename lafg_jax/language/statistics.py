"""What a mined vocabulary looks like in figures: `<workdir>/prototypes_stats.json`."""

from typing import Any

import numpy as np

from lafg_jax.language.vocabulary import Vocabulary
from lafg_jax.utils.vectors import mean_pairwise_cosine


def compute(
  vocabulary: Vocabulary, prototypes: np.ndarray, indices: np.ndarray, weights: np.ndarray
) -> dict[str, Any]:
  """Statistics of a vocabulary and its prototypes, as JSON keeps them.

  Args:
    vocabulary: N attributes mined from S sentences.
    prototypes: [C, d] T_c, not centred.
    indices, weights: [C, K], the Top-K attention of each class; rows of weights sum to 1.

  Returns:
    num_classes, num_sentences, num_attributes, top_k; inertia and inertia_per_sentence (squared
    distance to the cluster's mean); cluster_size, classes_per_attribute (of those in any Top-K:
    how many classes share it) as {min, median, max}; unused_attributes (in no Top-K);
    effective_attributes of a class, exp(entropy of its weights) in [1, K], as {mean, min, max};
    pairwise_cosine between prototypes as {raw, centred}, None with fewer than two classes.
  """
  count = len(vocabulary.centres)
  shares = np.bincount(indices.ravel(), minlength=count)
  weights = weights.astype(np.float64)
  logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
  effective = np.exp(-(weights * logs).sum(axis=1))
  cosines = [mean_pairwise_cosine(prototypes - mean) for mean in (0.0, prototypes.mean(axis=0))]
  raw, centred = (value if np.isfinite(value) else None for value in cosines)
  return {
    "num_classes": len(prototypes),
    "num_sentences": len(vocabulary.labels),
    "num_attributes": count,
    "top_k": indices.shape[1],
    "inertia": vocabulary.inertia,
    "inertia_per_sentence": vocabulary.inertia / len(vocabulary.labels),
    "cluster_size": _spread(np.bincount(vocabulary.labels, minlength=count)),
    "classes_per_attribute": _spread(shares[shares > 0]),
    "unused_attributes": int(np.sum(shares == 0)),
    "effective_attributes": {
      name: float(getattr(effective, name)()) for name in ("mean", "min", "max")
    },
    "pairwise_cosine": {"raw": raw, "centred": centred},
  }


def text(stats: dict[str, Any]) -> str:
  """The statistics of `compute` for the log, one on each line."""
  lines = [f"  {name:<33}{value}" for name, value in rows(stats).items()]
  return "\n".join(["the vocabulary and its prototypes:", *lines])


def rows(stats: dict[str, Any]) -> dict[str, str]:
  """{what it is: value} of the statistics of `compute`, in words."""
  size, shared = stats["cluster_size"], stats["classes_per_attribute"]
  effective, cosine = stats["effective_attributes"], stats["pairwise_cosine"]
  raw, centred = ("-" if x is None else f"{x:.3f}" for x in (cosine["raw"], cosine["centred"]))
  used = stats["num_attributes"] - stats["unused_attributes"]
  spread = "min {min:g}, median {median:g}, max {max:g}"
  shown = {
    "mined": "{num_attributes} attributes from {num_sentences} sentences of {num_classes} classes",
    "inertia": "{inertia:.1f} ({inertia_per_sentence:.3f} a sentence)",
    "sentences in a cluster": spread.format(**size),
    "classes that share an attribute": f"{spread.format(**shared)} ({used} attributes are in use)",
    "effective attributes of a class": (
      "mean {mean:.2f}, min {min:.2f}, max {max:.2f}".format(**effective) + " of Top-{top_k}"
    ),
    "pairwise cosine of prototypes": f"{raw}, {centred} after centring",
  }
  return {name: value.format(**stats) for name, value in shown.items()}


def _spread(values: np.ndarray) -> dict[str, float]:
  return {"min": int(min(values)), "median": float(np.median(values)), "max": int(max(values))}
