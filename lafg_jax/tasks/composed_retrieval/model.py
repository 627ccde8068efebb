"""CLIP and its tokenizer for a config, and plain texts and images to features by it."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data.datasets import Dataset
from lafg_jax.evaluate.embed import embed_dataset
from lafg_jax.language.encoders import clip_texts, tokens
from lafg_jax.models import clip as clips
from lafg_jax.models.vit import normalised
from lafg_jax.models.weights import files
from lafg_jax.runtime import devices
from lafg_jax.utils.errors import UserError

# Texts with a pseudo word of one batch.
BATCH = 128


class Model(NamedTuple):
  """clip: `models.clip.Clip`. params: its own tree. reader: its tokenizer."""

  clip: Any
  params: dict[str, Any]
  reader: Any


def load(config: ConfigDict) -> Model:
  """The model of a config, loaded once; UserError as `models.clip.load`."""
  of = config.model
  return _loaded(of.pretrained, config.data.image_size, of.dtype, of.remat)


@functools.lru_cache(maxsize=2)
def _loaded(source: str, image_size: int, dtype: str, remat: str) -> Model:
  clip, params = clips.load(source, image_size, jnp.dtype(dtype), remat)
  try:
    reader = tokens.load(Path(clip.tokens.folder))
  except ValueError as error:
    raise UserError(f"--config.model.pretrained={source}: {error}") from error
  return Model(clip, params, reader)


def weights(config: ConfigDict) -> Any:
  """The files of CLIP's weights by their content; the name of those of a hub."""
  source = config.model.pretrained
  if files.local(source) is None:
    return source
  return [Path(path) for path in files.find(source, files.WHOLE)]


def image_features(config: ConfigDict, model: Model, dataset: Dataset) -> np.ndarray:
  """f_v [n, D] float32 of all images of a dataset, not normalised.

  An image that cannot be read, which a warning names, is a row of zeros.
  """
  embed = _image_function(model.clip)({"image": model.params["image"]})
  (found,), rows = embed_dataset([embed], dataset, config.data, config.evaluate.batch_size)
  every = np.zeros((len(dataset), found.shape[1]), np.float32)
  every[rows] = found
  return every


@functools.lru_cache(maxsize=2)
def _image_function(clip: Any) -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
  return devices.spreading(functools.partial(of_images, clip))


def of_images(clip: Any, params: Any, images: jax.Array) -> jax.Array:
  """f_v: uint8 images [B, S, S, 3] to features [B, D] float32, not normalised."""
  x = normalised(images, clip.mean, clip.std)
  found: Any = clip.image.apply({"params": params["image"]}, x)
  return found


def text_features(model: Model, texts: Sequence[str], what: str = "encode texts") -> np.ndarray:
  """f_t [n, D] float32 of texts, L2-normalised; equal texts are encoded once."""
  number: dict[str, int] = {}
  rows = [number.setdefault(text, len(number)) for text in texts]
  if not rows:
    return np.zeros((0, model.clip.dim), np.float32)
  found = clip_texts.plain_features(model.clip, model.params, model.reader, list(number), what)
  return found[rows]
