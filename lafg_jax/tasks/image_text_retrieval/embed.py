"""A split to embeddings of its images and its captions, by the parameters of a config's model.

A caption is embedded by itself: no image enters, and no weight of its tokens.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import captions, datasets
from lafg_jax.data.captions import Captioned
from lafg_jax.data.datasets import Dataset
from lafg_jax.evaluate.embed import embed_dataset
from lafg_jax.language.encoders import clip_texts
from lafg_jax.runtime import devices
from lafg_jax.tasks.image_text_retrieval import features, reweighting, texts

# Captions whose weights give the distribution of random ones.
_SAMPLE = 256
_BLOCK = 64


def splits(
  config: ConfigDict, model: Any, captioned: Captioned
) -> Callable[[dict[str, Any]], tuple[np.ndarray, np.ndarray]]:
  """`embed(params) -> (images [n, d], texts [m, d])` of a split, compiled once for all parameters.

  The images are those of `captions.one_per_image`, in its order; the texts are those of all rows.
  An image that cannot be read, which a warning names, is a row of zeros: nothing finds it.
  """
  of_images, of_texts = image_function(config, model), text_function(config, model)
  dataset = rows_of(captioned, captions.one_per_image(captioned))

  def embed(params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    (images,), rows = embed_dataset(
      [of_images(params)], dataset, config.data, config.evaluate.batch_size
    )
    every = np.zeros((len(dataset), images.shape[1]), np.float32)
    every[rows] = images
    return every, of_texts(params)(captioned.captions)

  return embed


def image_function(config: ConfigDict, model: Any) -> Callable[..., Any]:
  """`of(params)(uint8 images [B, S, S, 3]) -> [B, d]`, over all local devices."""
  return devices.spreading(functools.partial(features.of_images, config, model.clip))


def text_function(config: ConfigDict, model: Any) -> Callable[..., Any]:
  """`of(params)(texts) -> [n, d]`, over all local devices."""
  reader = texts.with_room(config, model.reader)
  spread = devices.spreading(functools.partial(_of_rows, config, model.clip))

  def with_params(params: dict[str, Any]) -> Callable[[Sequence[str]], np.ndarray]:
    embed = spread(params)
    return lambda said: clip_texts.encoded(embed, reader, reader.ids(said), "embed captions")

  return with_params


def _of_rows(config: ConfigDict, clip: Any, params: Any, rows: jax.Array) -> jax.Array:
  return features.of_texts(config, clip, params, rows[:, :-1], rows[:, -1])


def rows_of(captioned: Captioned, rows: np.ndarray) -> Dataset:
  """The images of some rows, as the Dataset that readers of images take."""
  return datasets.some_rows(captions.as_dataset(captioned), rows)


def weights(
  config: ConfigDict, model: Any, params: Any, words: texts.Tokens, images: np.ndarray, constants
) -> np.ndarray:
  """w [n, L], how much an image [n, d] changes what each token of a caption says.

  Args:
    words: tokens of n captions (`texts.tokenised`).
    images: by `image_function` with the same parameters.
    constants: 'token_features' and 'token_rows' (`stored_features.constants`).
  """
  size = config.data.image_size
  white = reweighting.blank_image(config.reweighting.blank, size)
  blank = image_function(config, model)(params)(white)[0]
  compute = jax.jit(functools.partial(features.changes, config, model.clip))
  found = []
  for first in range(0, len(images), _BLOCK):
    part = slice(first, first + _BLOCK)
    x = compute(params, *(y[part] for y in words), images[part], blank, constants)
    found.append(np.asarray(x))
  return np.concatenate(found)


def sampled(
  config: ConfigDict, model: Any, params: Any, captioned: Captioned, most: int
) -> tuple[np.ndarray, np.ndarray]:
  """At most so many rows of a split, evenly spaced, and their images' embeddings.

  Rows whose image cannot be read, which a warning names, are left out.
  """
  count = len(captioned.captions)
  rows = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))
  of_images, dataset = image_function(config, model)(params), rows_of(captioned, rows)
  (images,), seen = embed_dataset([of_images], dataset, config.data, config.evaluate.batch_size)
  return rows[seen], images


def quantiles(
  config: ConfigDict, model: Any, params: Any, captioned: Captioned, words: texts.Tokens, constants
) -> np.ndarray:
  """[Q] quantiles of the weights that a sample of captions has of their own images."""
  rows, images = sampled(config, model, params, captioned, _SAMPLE)
  of = texts.Tokens(*(x[rows] for x in words))
  w = weights(config, model, params, of, images, constants)
  return reweighting.quantiles_of(np.asarray(reweighting.ratios(w, of.words)), of.words)
