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
from lafg_jax.language.encoders import tokens
from lafg_jax.models import clip as clips
from lafg_jax.models.vit import normalised
from lafg_jax.models.weights import files
from lafg_jax.runtime import devices
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.progress import Progress

# Lengths of batches are multiples of this, so that few shapes are compiled.
_LENGTHS, BATCH = 16, 128


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
  embed = _text_function(model.clip)({"text": model.params["text"]})
  return _in_batches(embed, model.reader, model.reader.ids(list(number)), what)[rows]


@functools.lru_cache(maxsize=2)
def _text_function(clip: Any) -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
  return devices.spreading(functools.partial(_of_rows, clip))


def _of_rows(clip: Any, params: Any, rows: jax.Array) -> jax.Array:
  """Rows int32 [B, L + 1], ids and the place each text is read at, to features [B, D]."""
  x = clips.token_embeddings(clip, params, rows[:, :-1])
  return clips.embed_texts(clip, params, x, rows[:, -1])


def _in_batches(
  embed: Callable[[np.ndarray], np.ndarray], reader: Any, ids: Sequence[list[int]], what: str
) -> np.ndarray:
  """The features [n, D] of token lists, in batches of like length."""
  # A power of 2: a few texts need no whole batch, and few shapes are compiled.
  size = min(BATCH, 1 << (len(ids) - 1).bit_length())
  order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
  found: list[np.ndarray] = []
  with Progress(what, len(ids), "texts") as progress:
    for first in range(0, len(order), size):
      rows = order[first : first + size]
      longest = -(-len(ids[rows[-1]]) // _LENGTHS) * _LENGTHS
      padded = [ids[row] for row in rows] + [ids[rows[0]]] * (size - len(rows))
      batch, ends = reader.batch(padded, min(longest, reader.context))
      found.append(embed(np.concatenate([batch, ends[:, None]], axis=1))[: len(rows)])
      progress.add(len(rows))
  return np.concatenate(found)[np.argsort(order)]
