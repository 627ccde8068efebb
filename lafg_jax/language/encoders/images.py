"""Images -> features in the space of an encoder's texts, and their means over classes."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from lafg_jax.data import colours
from lafg_jax.data.datasets import Dataset
from lafg_jax.data.images import GROUND, UnreadableImage, open_any, read_bytes
from lafg_jax.data.pixels import Ground
from lafg_jax.language.encoders import load, runtimes
from lafg_jax.language.encoders.cache import Encode, FeatureCache, computed
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import write_npz
from lafg_jax.utils.vectors import l2_normalise

# What `run` writes.
FILE = "image_features.npz"


def class_image_means(
  dataset: Dataset,
  encoder: str,
  batch_size: int,
  cache: str | os.PathLike = "",
  runtime: str = "auto",
) -> np.ndarray:
  """[C, d] float32: the mean image feature of each class, L2-normalised.

  Images that cannot be read are reported by path and left out. Raises UserError as `encode_images`,
  and if no image of a class can be read.
  """
  found, readable = _of_dataset(dataset, encoder, batch_size, cache, runtime)
  features = found[:, 0]
  labels, count = dataset.labels[readable], len(dataset.class_names)
  empty = np.flatnonzero(np.bincount(labels, minlength=count) == 0)
  if len(empty):
    names = shorten([dataset.class_names[k] for k in empty])
    raise UserError(
      f"no image of {counted(len(empty), 'class')} can be read ({names}): fetch them again"
    )
  return class_means(features[readable], labels, count)


def run(language: Any, workdir: str | os.PathLike, dataset: Dataset, recolourings: int = 0) -> Path:
  """Writes `<workdir>/image_features.npz`: the features of each training image.

  ids [n], features [n, d] float32 (L2-normalised; zeros for an image that cannot be read, which is
  reported by path), encoder; and, where `recolourings` K is not 0, recoloured [n, K, d], the
  features of each image in K other colours. Raises UserError as `encode_images`.
  """
  if recolourings:
    logging.info("encode: %d images, and in %d other colours each", len(dataset), recolourings)
  options = (language.encoder, language.batch_size, language.cache, language.encoder_runtime)
  found = np.nan_to_num(_of_dataset(dataset, *options, recolourings)[0])
  arrays: dict[str, Any] = {"ids": np.array(dataset.ids), "features": found[:, 0]}
  if recolourings:
    arrays["recoloured"] = found[:, 1:]
  return write_npz(Path(workdir) / FILE, **arrays, encoder=np.array(language.encoder))


def _of_dataset(
  dataset: Dataset,
  encoder: str,
  batch_size: int,
  cache: str | os.PathLike,
  runtime: str,
  recolourings: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Image features [n, 1 + K, d], nan where unreadable; and which are readable [n].

  The first are of the image as it is, the others of its K recoloured versions. Logs the unreadable.
  """
  found = encode_versions(
    dataset.images,
    *(encoder, batch_size, cache, runtime),
    boxes=dataset.boxes,
    skip_unreadable=True,
    versions=(None, *range(recolourings)),
    ground=dataset.ground,
  )
  readable = ~np.isnan(found[:, 0, 0])
  for row in np.flatnonzero(~readable):
    logging.warning("encode: cannot read %s; left out", dataset.ids[row])
  if not readable.all():
    logging.warning("encode: %d of %d images left out", (~readable).sum(), len(dataset))
  return found, readable


def encode_images(*images_and_encoder: Any, **options: Any) -> np.ndarray:
  """Features [n, d] of images as they are; all else is as `encode_versions` has it."""
  return encode_versions(*images_and_encoder, **options)[:, 0]


def encode_versions(
  images: Sequence[Any] | np.ndarray,
  encoder: str,
  batch_size: int,
  cache: str | os.PathLike = "",
  runtime: str = "auto",
  *,
  boxes: np.ndarray | None = None,
  skip_unreadable: bool = False,
  versions: Sequence[int | None] = (None,),
  ground: Ground = GROUND,
) -> np.ndarray:
  """L2-normalised float32 image features [n, V, d], in the space of the encoder's text features.

  The encoder is loaded once, and each image file is decoded once, for all V versions.

  Args:
    images: n >= 1 paths or bytes of image files, or uint8 [n, H, W, 3]. Files are turned upright
      and converted to RGB; the encoder's own preprocessing does the rest (resizing, cropping,
      normalising).
    encoder: a folder or hub id of CLIP, SigLIP or SigLIP 2, or 'tiny_clip'.
    batch_size: images encoded at once.
    cache: folder where features are kept between runs, by the content of the images; '' keeps none.
    runtime: 'auto', 'flax' or 'transformers', as `language.encoder_runtime`.
    boxes: [n, 4] left, top, right, bottom in pixels: the part of each image that is encoded; None
      encodes all of it.
    skip_unreadable: rows of nan for images that cannot be read, instead of an error.
    versions: V versions of each image. A number encodes image `row` in other colours,
      `colours.recoloured(image, row, version)`; None encodes it as it is.
    ground: red, green and blue behind what is transparent.

  Raises:
    UserError: as `encode_texts`; the encoder has no image tower; an image cannot be read.
  """
  folder, identity = load.resolve(encoder)
  count = len(versions)

  # The versions of an image follow each other.
  @functools.lru_cache(maxsize=2)
  def read(row: int, function: Callable[[Any, np.ndarray | None], Any]) -> Any:
    """`function` of an image and its box; None where it cannot be read and may be left out."""
    try:
      return function(images[row], None if boxes is None else boxes[row])
    except OSError as error:
      if skip_unreadable:
        return None
      if isinstance(error, UnreadableImage):
        raise UserError(f"{error}; take it out of the data") from error
      raise UserError(f"cannot read image {error.filename}: {error.strerror}") from error

  def opened(image: Any, box: np.ndarray | None) -> Image.Image:
    return open_any(image, box, ground)

  def shown(at: int) -> Image.Image | None:
    row, version = at // count, versions[at % count]
    picture = read(row, opened)
    if picture is None or version is None:
      return picture
    return Image.fromarray(colours.recoloured(np.asarray(picture), row, version))

  def prepare() -> Encode:
    return runtimes.of(encoder, folder, runtime, images=True).image_encoder(encoder, folder, shown)

  def contents() -> Iterator[bytes | None]:
    for at in range(len(images) * count):
      row, version = at // count, versions[at % count]
      content = read(row, _content)
      colour = f"\non {ground}".encode()
      colour += b"" if version is None else f"\nrecoloured {row} {version}".encode()
      yield None if content is None else b"image\n" + content + colour

  lengths, stored = [0] * (len(images) * count), FeatureCache(cache, identity)
  found = computed(contents(), lengths, prepare, batch_size, stored, "images")
  if not found.size:
    raise UserError(f"none of {len(images)} images can be read: check the paths")
  readable = ~np.isnan(found[:, 0])
  found[readable] = l2_normalise(found[readable], f"image features of {encoder}")
  return found.reshape(len(images), count, -1)


def _content(image: Any, box: np.ndarray | None) -> bytes:
  """What an image's features depend on."""
  shown = b"" if box is None else np.asarray(box, "<f8").tobytes()
  if isinstance(image, np.ndarray):
    return f"{image.dtype.str} {image.shape}\n".encode() + image.tobytes() + shown
  return read_bytes(image) + shown


def class_means(features: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
  """[count, d] float32: the mean direction of each class's features [n, d]; zeros add nothing.

  Raises UserError if a class has none.
  """
  sums = np.zeros((count, features.shape[1]))
  np.add.at(sums, labels, features)
  return l2_normalise(sums, "mean image features")
