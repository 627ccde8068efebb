"""Floors of attributes where training began with a pretrained projector: they are measured.

Before training, such a model reads images already, so that chance is no floor. Each entry has its
own: the quantile of the scores that the untrained model gives it over evaluated images. The stage
evaluate keeps them with the untrained model's figures, so that a restored model needs no weights.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import datasets
from lafg_jax.evaluate.embed import Embed, embed_dataset
from lafg_jax.tasks.class_retrieval import attributes, projectors
from lafg_jax.training import checkpoints

# Among the untrained model's figures: the floors, and the hash of the words that they are of.
NAME, OF = "attribute_floors", "attribute_floors_of"
# Evenly spaced images that they are measured on.
_IMAGES = 512


def are_measured(config: ConfigDict) -> bool:
  """Whether chance is no floor for a model."""
  loss = config.loss
  reads = loss.image_alignment == "vocabulary" or loss.alignment in attributes.READABLE
  return reads and loss.projector_init == "pretrained"


def measure(
  config: ConfigDict, arrays: dict[str, np.ndarray], untrained: Embed, dataset: datasets.Dataset
) -> list[float]:
  """The floors [N], as JSON keeps them.

  Args:
    config: resolved; of the training.
    arrays: of its checkpoint, with the vocabulary.
    untrained: embeds by the model before training.
    dataset: what is evaluated.
  """
  chosen = np.linspace(0, len(dataset) - 1, min(len(dataset), _IMAGES)).astype(int)
  some = datasets.some_rows(dataset, chosen)
  (vectors,), _ = embed_dataset([untrained], some, config.data, config.evaluate.batch_size)
  vocabulary = checkpoints.subtree(arrays, "prototypes")["vocabulary"]
  source, loss, dim = config.model.pretrained, config.loss, vectors.shape[1]
  first: dict[str, Any] = {}
  if loss.alignment in attributes.READABLE:
    width = loss.projector_width
    first = projectors.pretrained_projectors(source, dim, vocabulary.shape[1], width)
  if loss.image_alignment != "none":
    first["teacher"] = projectors.pretrained_teacher(source, dim, vocabulary.shape[1])
  first = {name: np.asarray(x) for name, x in first.items()}
  scores = attributes.scores(vectors, attributes.readout(config, vocabulary, first, first))
  return np.quantile(scores, attributes.QUANTILE, axis=0).round(5).tolist()


def of(facts: dict[str, Any], found: attributes.Readout) -> np.ndarray | None:
  """The floors [N] of a restored model: measured ones where its evaluation has them.

  None of a model without attributes. Facts are those of `inference.bundle`.
  """
  if not found:
    return None
  measured = ((facts.get("evaluation") or {}).get("untrained") or {}).get(NAME)
  if measured is not None and len(measured) == len(found["entries"]):
    return np.array(measured)
  return attributes.floors(found)
