"""The language base as training reads it: prototypes, and what the encoder sees in the images."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data.datasets import Dataset
from lafg_jax.language.encoders.images import FILE, class_means
from lafg_jax.tasks.class_retrieval import language_base
from lafg_jax.tasks.class_retrieval.choices import reads_images, recolourings
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.utils import files, random_streams
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise

# Values of language.shuffle that give each class the prototype, or each image the teacher features,
# of another class.
_OF_PROTOTYPES, _OF_TEACHER = ("all", "prototypes"), ("all", "teacher")


def load(config: ConfigDict, path: str | os.PathLike, dataset: Dataset) -> LoadedPrototypes:
  """`prototypes.npz` at `path`, and from image_features.npz beside it what the config reads.

  That is the teacher features of loss.image_alignment, and the prototypes of
  language.prototype=images. Raises UserError as `language_base.load`, and where the image features
  are missing, damaged or of other images.
  """
  language = config.language
  found = language_base.load(
    path,
    dataset.class_names,
    centre=language.centre,
    shuffle=language.shuffle in _OF_PROTOTYPES,
    seed=config.seed,
    # The prototypes of images replace those of any kind.
    kind=language.prototype if language.prototype in language_base.KINDS else "attention",
  )
  if not reads_images(config):
    return found
  path = Path(path).with_name(FILE)
  features, seen = _read(path, dataset, found.encoder, recolourings(config))
  if language.prototype == "images":
    found = _of_images(config, features, dataset, found)
  if config.loss.image_alignment == "none":
    return found
  compared = _compared(config, features, seen, dataset, found.vocabulary)
  return dataclasses.replace(found, teacher_features=compared)


def _of_images(config, features, dataset, found) -> LoadedPrototypes:
  """Prototypes without words: the mean feature of each class's images that could be read."""
  language, count = config.language, len(dataset.class_names)
  means = class_means(features, dataset.labels, count)
  if language.shuffle in _OF_PROTOTYPES:
    means = means[language_base.other_classes(count, config.seed)]
  mean = means.mean(axis=0) * language.centre
  return dataclasses.replace(found, prototypes=means - mean, mean=mean)


def _compared(config, features, seen, dataset, vocabulary) -> dict[str, np.ndarray]:
  """The `targets` of losses.image_alignment, from the features that are `seen`.

  Args:
    features: [n, d] of the images in their own colours, whose mean centres `seen`.
    seen: [n, d], or [n, K, d] of recoloured images; the targets have n or n K rows.
    vocabulary: [N, d].
  """
  language, form = config.language, config.loss.image_alignment
  if language.centre:
    mean = features[np.any(features != 0, axis=1)].mean(axis=0)
    seen = np.where(np.any(seen != 0, axis=-1, keepdims=True), seen - mean, 0)
  if language.shuffle in _OF_TEACHER:
    seen = seen[_of_other_classes(dataset.labels, config.seed)]
  features = seen.reshape(-1, seen.shape[-1])
  if form == "feature":
    return {"image_feature": features.astype(np.float32)}
  directions = vocabulary - vocabulary.mean(axis=0) * language.centre
  if form == "random":
    directions = random_streams.directions(config.seed).standard_normal(directions.shape)
  directions = l2_normalise(directions, "attributes")
  cosine = np.zeros((len(features), len(directions)), np.float32)
  readable = np.any(features != 0, axis=1)
  cosine[readable] = l2_normalise(features[readable], "image features") @ directions.T
  return {"directions": directions.astype(np.float32), "image_cosine": cosine}


def _read(path, dataset, encoder: str, versions: int) -> tuple[np.ndarray, np.ndarray]:
  """Features [n, d] of the images, and of their K recoloured versions [n, K, d]; with K = 0 twice.

  Rows of zeros are of images that could not be read.
  """
  names = ("ids", "encoder", "features", *(["recoloured"] if versions else []))
  arrays: dict[str, Any] = files.read_npz(path, names, stage="encode")
  if list(arrays["ids"]) != list(dataset.ids) or str(arrays["encoder"]) != encoder:
    raise UserError(f"{path} is of other images or of another encoder: run --stage=encode again")
  seen = arrays[names[-1]]
  if versions and seen.shape[:2] != (len(dataset), versions):
    raise UserError(f"{path} is of other recolourings: run --stage=encode again")
  return arrays["features"].astype(np.float64), seen.astype(np.float64)


def _of_other_classes(labels: np.ndarray, seed: int) -> np.ndarray:
  """[n]: for each image, the row of one of the class that language.shuffle gives to its class."""
  rows = [np.flatnonzero(labels == c) for c in range(int(labels.max()) + 1)]
  others = np.empty(len(labels), int)
  for members, given in zip(rows, language_base.other_classes(len(rows), seed), strict=True):
    # In turn, from the first on, as often as there are images.
    others[members] = np.resize(rows[given], len(members))
  return others
