"""Which entries of the vocabulary an image shows, by the projectors of the alignment.

L_img trains P_r to find each image in the vocabulary. Without it, the entries have places in the
space where training compares P_v V with words by the cosine. Under 'vocabulary' these places are
trained. Under 'prototype' an entry is a summand of the trained prototypes, T_c = t_c +
sum_k w_k a_k, centred as they are; with language.prototype=profile it is an axis of theirs.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy import special

from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise

# Forms of L_ali whose images are compared with words by the cosine, entry by entry.
READABLE = ("prototype", "vocabulary")

# An attribute is named where an untrained model scores less in this share of all cases.
QUANTILE = 0.99

Readout = dict[str, np.ndarray]


class Attribute(NamedTuple):
  """One entry of the vocabulary, and how near an image is to it.

  row: of the vocabulary. cosine: in [-1, 1]. sentences: the descriptions nearest to the entry,
  nearest first.
  """

  row: int
  cosine: float
  sentences: tuple[str, ...]


def readout(
  config: ConfigDict,
  vocabulary: np.ndarray,
  projectors: dict[str, np.ndarray],
  mean_projectors: dict[str, np.ndarray],
) -> Readout:
  """The arrays that `nearest` takes; {} where the form of alignment gives entries no place.

  Args:
    config: of the training.
    vocabulary: [N, d] a_n.
    projectors: 'image' P_v [D, W] and 'text' P_t [d, W], with profiles [N, W]; of L_img, 'reading'
      P_r [D, d].
    mean_projectors: the EMA copies of P_v and P_t.

  Returns:
    'image' [D, W], and 'entries' [N, W] of unit norm, both float32.
  """
  loss, centred = config.loss, vocabulary - vocabulary.mean(axis=0, dtype=np.float64)
  if loss.image_alignment == "vocabulary" and "teacher" in projectors:
    directions = l2_normalise(centred if config.language.centre else vocabulary, "attributes")
    return {"image": np.asarray(projectors["teacher"], np.float32), "entries": directions}
  if loss.alignment not in READABLE:
    return {}
  text = mean_projectors["text"] if loss.projector == "mean" else projectors["text"]
  profile = loss.alignment == "prototype" and config.language.prototype == "profile"
  entries = np.eye(len(vocabulary)) if profile else vocabulary.astype(np.float64)
  if loss.alignment == "prototype" and config.language.centre:
    entries = entries - entries.mean(axis=0)
  places = l2_normalise(entries @ text.astype(np.float64), "projected vocabulary entries")
  return {"image": np.asarray(projectors["image"], np.float32), "entries": places}


def check(config: ConfigDict, found: Readout, sentences: Sequence[Any]) -> None:
  """Raises UserError where `nearest` cannot work for a model, and says why."""
  if not found:
    raise UserError(
      f"a model of loss.alignment={config.loss.alignment} has no attributes to read; train with "
      "prototype or vocabulary"
    )
  if not len(sentences):
    raise UserError(
      "this checkpoint has no sentences of its vocabulary: train with the prototypes.npz that "
      "--stage=prototypes writes to read attributes"
    )


def nearest(
  vectors: np.ndarray, found: Readout, sentences: Sequence[Sequence[str]], k: int
) -> list[list[Attribute]]:
  """The k entries nearest to each embedding, nearest first.

  Args:
    vectors: [B, D] embeddings; their length does not matter.
    found: from `readout`, not empty.
    sentences: [N] the descriptions nearest to each entry.
    k: entries for each image; all where there are fewer.

  Raises:
    UserError: k is below 1, or the embeddings are of another width.
  """
  if k < 1:
    raise UserError(f"k is {k}; ask for at least 1 attribute")
  cosines = scores(vectors, found)
  if not len(vectors):
    return []
  order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
  return [
    [Attribute(int(n), float(row[n]), tuple(sentences[n])) for n in entries]
    for row, entries in zip(cosines, order, strict=True)
  ]


def scores(vectors: np.ndarray, found: Readout) -> np.ndarray:
  """Cosines [n, N] in [-1, 1] of embeddings [n, D] with every entry; their length does not matter.

  Raises UserError where the embeddings are of another width.
  """
  if vectors.ndim != 2 or vectors.shape[1] != len(found["image"]):
    raise UserError(f"embeddings are {vectors.shape}, not [B, {len(found['image'])}]")
  if not len(vectors):
    return np.zeros((0, len(found["entries"])))
  projected = l2_normalise(vectors.astype(np.float64) @ found["image"], "projected images")
  return projected @ found["entries"].T


def floors(found: Readout, quantile: float = QUANTILE) -> np.ndarray:
  """Floors [N]: what an untrained model's score of an entry exceeds in 1 - quantile of all cases.

  Before training, the projector's entries are independent normal numbers (loss.projector_init is
  'random'). It then takes any embedding to a direction that is uniform on the sphere of W
  dimensions, so that its cosine c with an entry has a known distribution, whatever the image and
  the backbone: c sqrt((W - 1) / (1 - c^2)) is Student's t with W - 1 degrees of freedom. Nothing
  has to be measured, and every restored model has its floors. Where training began with a
  pretrained projector, `attribute_floors.measure` measures them instead.

  Raises UserError for a quantile outside of [0.5, 1).
  """
  if not 0.5 <= quantile < 1:
    raise UserError(f"the quantile of the floors is {quantile}; it takes a number in [0.5, 1)")
  width = found["image"].shape[1]
  t = float(special.stdtrit(max(width - 1, 1), quantile))
  return np.full(len(found["entries"]), t / math.sqrt(width - 1 + t * t))
