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
from lafg_jax.tasks.class_retrieval.choices import reads_images
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.utils import files, random_streams
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise

# Values of language.shuffle that give each class the prototype, or each image the teacher features,
# of another class.
_OF_PROTOTYPES, _OF_TEACHER = ("all", "prototypes"), ("all", "teacher")


def load(config: ConfigDict, path: str | os.PathLike, dataset: Dataset) -> LoadedPrototypes:
  """`prototypes.npz` at `path`, and what the config wants of the image features beside it.

  These are the readings of loss.image_alignment, and the prototypes of language.prototype=images.

  Raises:
    UserError: as `prototypes.load`; the image features are missing, damaged or of other images.
  """
  language = config.language
  found = language_base.load(
    path,
    dataset.class_names,
    centre=language.centre,
    shuffle=language.shuffle in _OF_PROTOTYPES,
    seed=config.seed,
    # Those of images take the place of any.
    kind=language.prototype if language.prototype in language_base.KINDS else "attention",
  )
  if not reads_images(config):
    return found
  features = _features(Path(path).parent, dataset, found.encoder)
  if language.prototype == "images":
    found = _of_images(config, features, dataset, found)
  if config.loss.image_alignment == "none":
    return found
  seen = features
  if config.data.recoloured_per_batch:
    seen = _recoloured(Path(path).parent, dataset, config.data.recolourings)
  return dataclasses.replace(found, readings=_readings(config, features, seen, dataset, found))


def _of_images(
  config: ConfigDict, features: np.ndarray, dataset: Dataset, found: LoadedPrototypes
) -> LoadedPrototypes:
  """Prototypes without words: the mean feature of each class's images that could be read."""
  language, count = config.language, len(dataset.class_names)
  means = class_means(features, dataset.labels, count)
  if language.shuffle in _OF_PROTOTYPES:
    means = means[language_base.other_classes(count, config.seed)]
  mean = means.mean(axis=0) * language.centre
  return dataclasses.replace(found, prototypes=means - mean, mean=mean)


def _readings(
  config: ConfigDict,
  features: np.ndarray,
  seen: np.ndarray,
  dataset: Dataset,
  found: LoadedPrototypes,
) -> dict[str, np.ndarray]:
  """The `targets` of losses.image_alignment, of what is `seen` ([n, d], or [n, K, d] recoloured).

  Rows are those of the data set, or K times them plus the version. What is taken off to centre is
  the mean of `features` [n, d], the images in their own colours.
  """
  language, form = config.language, config.loss.image_alignment
  if language.centre:
    mean = features[np.any(features != 0, axis=1)].mean(axis=0)
    seen = np.where(np.any(seen != 0, axis=-1, keepdims=True), seen - mean, 0)
  if language.shuffle in _OF_TEACHER:
    seen = seen[_of_other_classes(dataset.labels, config.seed)]
  features = seen.reshape(-1, seen.shape[-1])
  readable = np.any(features != 0, axis=1)
  if form == "feature":
    return {"image_feature": features.astype(np.float32)}
  directions = found.vocabulary - found.vocabulary.mean(axis=0) * language.centre
  if form == "random":
    directions = random_streams.directions(config.seed).standard_normal(directions.shape)
  directions = l2_normalise(directions, "attributes")
  cosine = np.zeros((len(features), len(directions)), np.float32)
  cosine[readable] = l2_normalise(features[readable], "image features") @ directions.T
  return {"directions": directions.astype(np.float32), "image_cosine": cosine}


def _features(folder: Path, dataset: Dataset, encoder: str) -> np.ndarray:
  """[n, d], rows of zeros for images that could not be read."""
  path = folder / FILE
  arrays: dict[str, Any] = files.read_npz(path, ("ids", "features", "encoder"), stage="encode")
  if list(arrays["ids"]) != list(dataset.ids) or str(arrays["encoder"]) != encoder:
    raise UserError(f"{path} is of other images or of another encoder: run --stage=encode again")
  return arrays["features"].astype(np.float64)


def _recoloured(folder: Path, dataset: Dataset, versions: int) -> np.ndarray:
  """[n, K, d], rows of zeros for images that could not be read."""
  path = folder / FILE
  found = files.read_npz(path, ("recoloured",), stage="encode")["recoloured"]
  if found.shape[:2] != (len(dataset), versions):
    raise UserError(f"{path} is of other recolourings: run --stage=encode again")
  return found.astype(np.float64)


def _of_other_classes(labels: np.ndarray, seed: int) -> np.ndarray:
  """[n] for each image one of the class that language.shuffle gives to its class."""
  rows = [np.flatnonzero(labels == c) for c in range(int(labels.max()) + 1)]
  given = language_base.other_classes(len(rows), seed)
  place = np.empty(len(labels), int)
  for members in rows:
    place[members] = np.arange(len(members))
  others = (rows[c] for c in given[labels])
  return np.array([other[k % len(other)] for other, k in zip(others, place, strict=True)])
