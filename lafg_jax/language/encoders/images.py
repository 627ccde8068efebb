"""Images -> features in the space of an encoder's texts, and their means over classes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from lafg_jax.data import colours
from lafg_jax.data.datasets import Dataset
from lafg_jax.data.images import UnreadableImage, open_any
from lafg_jax.language.encoders import load
from lafg_jax.language.encoders.cache import Encode, FeatureCache, computed
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import write_npz
from lafg_jax.utils.vectors import l2_normalise

# What `run` writes, beside prototypes.npz.
FILE = "image_features.npz"


def class_image_means(
  dataset: Dataset, encoder: str, batch_size: int, cache: str | os.PathLike = ""
) -> np.ndarray:
  """[C, d] float32: the mean image feature of each class, L2-normalised.

  Images that cannot be read are reported by path and left out.

  Raises:
    UserError: as `encode_images`; no image of a class can be read.
  """
  features, unreadable = _of_dataset(dataset, encoder, batch_size, cache)
  labels = np.delete(dataset.labels, unreadable)
  empty = np.flatnonzero(np.bincount(labels, minlength=len(dataset.class_names)) == 0)
  if len(empty):
    names = shorten([dataset.class_names[k] for k in empty])
    raise UserError(f"no image of {len(empty)} classes can be read ({names}): fetch them again")
  readable = np.delete(features, unreadable, axis=0)
  return class_means(readable, labels, len(dataset.class_names))


def run(language: Any, workdir: str | os.PathLike, dataset: Dataset, recolourings: int = 0) -> Path:
  """Writes `<workdir>/image_features.npz`: what the encoder sees in each training image.

  ids [n], features [n, d] float32 (L2-normalised; zeros for an image that cannot be read, which is
  reported by path), encoder; and recoloured [n, K, d], the same of each image in K other colours,
  where `recolourings` K is not 0.

  Raises:
    UserError: as `encode_images`.
  """
  options = (language.encoder, language.batch_size, language.cache)
  features, unreadable = _of_dataset(dataset, *options)
  features[unreadable] = 0
  arrays: dict[str, Any] = {"ids": np.array(dataset.ids), "features": features}
  if recolourings:
    logging.info("encode: %d images in %d other colours each", len(dataset), recolourings)
    versions = [
      encode_images(dataset.images, *options, boxes=dataset.boxes, skip_unreadable=True, version=k)
      for k in range(recolourings)
    ]
    arrays["recoloured"] = np.nan_to_num(np.stack(versions, axis=1))
  return write_npz(Path(workdir) / FILE, **arrays, encoder=np.array(language.encoder))


def _of_dataset(
  dataset: Dataset, encoder: str, batch_size: int, cache: str | os.PathLike
) -> tuple[np.ndarray, np.ndarray]:
  """Image features [n, d], and the rows that cannot be read: nan, and reported by path."""
  features = encode_images(
    dataset.images, encoder, batch_size, cache, boxes=dataset.boxes, skip_unreadable=True
  )
  unreadable = np.flatnonzero(np.isnan(features[:, 0]))
  for row in unreadable:
    logging.warning("encode: cannot read %s; left out", dataset.ids[row])
  if len(unreadable):
    logging.warning("encode: %d of %d images left out", len(unreadable), len(dataset))
  return features, unreadable


def encode_images(
  images: Sequence[Any] | np.ndarray,
  encoder: str,
  batch_size: int,
  cache: str | os.PathLike = "",
  *,
  boxes: np.ndarray | None = None,
  skip_unreadable: bool = False,
  version: int | None = None,
) -> np.ndarray:
  """L2-normalised float32 image features [n, d], in the space of the encoder's text features.

  Args:
    images: n >= 1 paths or bytes of image files, or uint8 [n, H, W, 3]. Files are turned upright
      and converted to RGB; the rest (resizing, cropping, normalising) is the encoder's own
      preprocessing.
    encoder: a folder or hub id of CLIP, SigLIP or SigLIP 2, or 'tiny_clip'.
    batch_size: images encoded at once.
    cache: folder where features are kept between runs, by the content of the images; '' keeps none.
    boxes: [n, 4] left, top, right, bottom in pixels, what of each image is shown; None shows all.
    skip_unreadable: rows of nan for images that cannot be read, instead of an error.
    version: image `row` is shown in other colours, `colours.recoloured(image, row, version)`; None
      shows it as it is.

  Raises:
    UserError: as `encode.encode_texts`; the encoder has no image tower; an image cannot be read.
  """
  load.check_batch_size(batch_size)
  load.require_transformers()
  folder, identity = load.resolve(encoder)
  box_of = lambda row: None if boxes is None else boxes[row]  # noqa: E731

  def prepare() -> Encode:
    import torch

    processor, model = load.load_image_model(encoder, folder)

    def features(rows: Sequence[int]) -> tuple[Sequence[int], np.ndarray]:
      opened = {row: _picture(images, row, box_of(row), skip_unreadable, version) for row in rows}
      pictures = {row: picture for row, picture in opened.items() if picture is not None}
      if not pictures:
        return [], np.empty((0, 0), np.float32)
      inputs = processor(images=list(pictures.values()), return_tensors="pt")
      with torch.inference_mode():
        found = model.get_image_features(**inputs.to(model.device))
      # Before transformers 5 this was the array itself.
      return list(pictures), getattr(found, "pooler_output", found).float().cpu().numpy()

    return features

  with FeatureCache(cache, identity) as stored:
    keys = [
      content if content is None else stored.key(b"image\n" + content + _colours_of(row, version))
      for row, content in (
        (row, _content(images, row, box_of(row), skip_unreadable)) for row in range(len(images))
      )
    ]
    found = computed(keys, [0] * len(keys), prepare, batch_size, stored, "images")
  if not found.size:
    raise UserError(f"none of {len(images)} images can be read: check the paths")
  readable = ~np.isnan(found[:, 0])
  found[readable] = l2_normalise(found[readable], f"image features of {encoder}")
  return found


def _colours_of(row: int, version: int | None) -> bytes:
  return b"" if version is None else f"\nrecoloured {row} {version}".encode()


def _picture(
  images: Any, row: int, box: np.ndarray | None, skip_unreadable: bool, version: int | None
) -> Any:
  """Image `row`, opened; None where it cannot be read and may be left out."""
  try:
    picture = open_any(images[row], box)
    if version is None:
      return picture
    return Image.fromarray(colours.recoloured(np.asarray(picture), row, version))
  except UnreadableImage as error:
    if skip_unreadable:
      return None
    raise UserError(f"{error}; take it out of the data") from error


def _content(images: Any, row: int, box: np.ndarray | None, skip_unreadable: bool) -> bytes | None:
  """What decides an image's features, as bytes; None as of `_picture`."""
  shown = b"" if box is None else np.asarray(box, "<f8").tobytes()
  try:
    image = images[row]
    if isinstance(image, np.ndarray):
      return f"{image.dtype.str} {image.shape}\n".encode() + image.tobytes() + shown
    return (image if isinstance(image, bytes) else Path(image).read_bytes()) + shown
  except OSError as error:
    if skip_unreadable:
      return None
    if isinstance(error, UnreadableImage):
      raise UserError(f"{error}; take it out of the data") from error
    raise UserError(f"cannot read image {image}: {error.strerror}") from error


def class_means(features: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
  """[count, d] float32: the mean direction of each class's features [n, d]; zeros say nothing.

  Raises:
    UserError: a class has none.
  """
  sums = np.zeros((count, features.shape[1]))
  np.add.at(sums, labels, features)
  return l2_normalise(sums, "mean image features")
