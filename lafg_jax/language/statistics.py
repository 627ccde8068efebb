"""What a mined vocabulary looks like in figures: `<workdir>/prototypes_stats.json`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lafg_jax.finches import classes as finches
from lafg_jax.language.vocabulary import Vocabulary
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.vectors import mean_pairwise_cosine

# Mean pairwise cosine of class queries above which an encoder hardly tells the classes apart. The
# prompt is common to all, so that no encoder is near 0. Measured: MiniLM 0.40 on birds, 0.54 on
# cars, 0.80 on part numbers that differ in two characters; tiny_clip 0.56 on its own finches, and
# 0.995 on cars, whose names it does not know. 0.97 is half way, by ratio, between the distances 0.2
# and 0.005 to 1.
ALIKE = 0.97
# Share of the classes from which on an attribute says nothing. Measured for the median attribute:
# MiniLM 0.04 of 196 cars, 0.27 of 15; tiny_clip 1.00 of 196 and of 15.
_NEARLY_ALL = 0.9
# Cosine from which on two queries are the same but for rounding.
_SAME = 0.99999


def compute(
  vocabulary: Vocabulary,
  prototypes: np.ndarray,
  indices: np.ndarray,
  weights: np.ndarray,
  queries: np.ndarray,
  owners: np.ndarray,
) -> dict[str, Any]:
  """Statistics of a vocabulary and its prototypes, as JSON keeps them.

  Args:
    vocabulary: N attributes mined from S sentences.
    prototypes: [C, d] T_c, not centred.
    indices, weights: [C, K], the Top-K attention of each class; rows of weights sum to 1.
    queries: [C, d] t_c, L2-normalised.
    owners: [S] int, which described name each sentence is of.

  Returns:
    num_classes, num_sentences, num_attributes, top_k; inertia and inertia_per_sentence (squared
    distance to the cluster's mean); cluster_size, classes_per_attribute (of those in any Top-K:
    how many classes share it) as {min, median, max}; unused_attributes (in no Top-K);
    attributes_of_one_class (mined from the sentences of a single described name);
    effective_attributes of a class, exp(entropy of its weights) in [1, K], as {mean, min, max};
    pairwise_cosine between prototypes as {raw, centred}, and query_cosine between queries, None
    with fewer than two classes.
  """
  count = len(vocabulary.centres)
  shares = np.bincount(indices.ravel(), minlength=count)
  weights = weights.astype(np.float64)
  logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
  effective = np.exp(-(weights * logs).sum(axis=1))
  cosines = [mean_pairwise_cosine(prototypes - mean) for mean in (0.0, prototypes.mean(axis=0))]
  cosines.append(mean_pairwise_cosine(queries))
  raw, centred, named = (value if np.isfinite(value) else None for value in cosines)
  pairs = np.unique(np.stack([vocabulary.labels, owners]), axis=1)
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
    "attributes_of_one_class": int(np.sum(np.bincount(pairs[0], minlength=count) == 1)),
    "effective_attributes": {
      name: float(getattr(effective, name)()) for name in ("mean", "min", "max")
    },
    "pairwise_cosine": {"raw": raw, "centred": centred},
    "query_cosine": named,
  }


def warnings(
  stats: dict[str, Any], encoder: str, queries: np.ndarray, class_names: Sequence[str]
) -> list[str]:
  """What the statistics of `compute` say against a language base, each in one line.

  `encoder` is its id; the queries [C, d] are those of the C classes.
  """
  found = [line] if (line := about_encoder(encoder, class_names)) else []
  count, shared = stats["num_classes"], stats["classes_per_attribute"]
  if count < 2:
    return found
  if stats["query_cosine"] > ALIKE:
    found.append(
      f"{encoder} hardly tells the classes apart: the mean pairwise cosine of their queries is "
      f"{stats['query_cosine']:.3f} (above {ALIKE}); pass another --config.language.encoder"
    )
  twins = _twins(queries)
  if len(twins):
    names = shorten([class_names[k] for k in twins])
    found.append(
      f"{len(twins)} classes have the same query as another one ({names}): {encoder} reads their "
      "names alike"
    )
  if shared["median"] >= _NEARLY_ALL * count:
    found.append(
      f"half of the attributes in use or more belong to at least {shared['median']:g} of {count} "
      "classes, and so tell none apart: more sentences a class, a smaller "
      "--config.language.top_k, or another language.encoder may help"
    )
  few = "pass fewer --config.language.num_attributes (0 chooses them)"
  if shared["max"] == 1:
    found.append(f"no attribute is shared by two classes: each names one class; {few}")
  elif stats["attributes_of_one_class"] == stats["num_attributes"]:
    found.append(f"every attribute was mined from the sentences of one class alone; {few}")
  return found


def about_encoder(encoder: str, class_names: Sequence[str]) -> str:
  """What there is to say against an encoder for these classes before it is used; '' for nothing."""
  if encoder != "tiny_clip":
    return ""
  known = {*finches.class_names("seen"), *finches.class_names("unseen")}
  strange = [name for name in class_names if name not in known]
  if not strange:
    return ""
  return (
    "--config.language.encoder=tiny_clip knows the words and looks of this project's rendered "
    f"finches only, and {len(strange)} of {len(class_names)} classes are none "
    f"({shorten(strange)}): pass a real text encoder, a hub id or a folder"
  )


def _twins(queries: np.ndarray) -> np.ndarray:
  """Rows of the unit vectors [C, d] that another row equals but for rounding."""
  found = []
  for start in range(0, len(queries), 1024):
    tile = queries[start : start + 1024] @ queries.T
    tile[np.arange(len(tile)), start + np.arange(len(tile))] = -1
    found.append(tile.max(axis=1) > _SAME)
  return np.flatnonzero(np.concatenate(found))


def text(stats: dict[str, Any]) -> str:
  """The statistics of `compute` for the log, one on each line."""
  lines = [f"  {name:<33}{value}" for name, value in rows(stats).items()]
  return "\n".join(["the vocabulary and its prototypes:", *lines])


def rows(stats: dict[str, Any]) -> dict[str, str]:
  """{what it is: value} of the statistics of `compute`, in words."""
  size, shared = stats["cluster_size"], stats["classes_per_attribute"]
  effective, cosine = stats["effective_attributes"], stats["pairwise_cosine"]
  cosines = (cosine["raw"], cosine["centred"], stats["query_cosine"])
  raw, centred, named = ("-" if x is None else f"{x:.3f}" for x in cosines)
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
    "pairwise cosine of class queries": named,
    "pairwise cosine of prototypes": f"{raw}, {centred} after centring",
  }
  return {name: value.format(**stats) for name, value in shown.items()}


def _spread(values: np.ndarray) -> dict[str, float]:
  return {"min": int(min(values)), "median": float(np.median(values)), "max": int(max(values))}
