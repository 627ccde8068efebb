"""A trained model as its user meets it: restore, embed, search. Needs no training-only packages."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import images as image_files
from lafg_jax.evaluate import knn
from lafg_jax.evaluate.embed import Embed, make_embed
from lafg_jax.inference import bundle
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import attributes as reading
from lafg_jax.utils import ground as grounds
from lafg_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Retriever:
  """A restored model with its preprocessing.

  config: what it was trained with. step: of training, after which these parameters were saved.
  checkpoint: 'newest' or 'best', as `load_retriever` has them. class_names: the training classes.
  prototypes: their language base as arrays (queries, vocabulary, prototypes, mean), empty for a run
  without words. box: the part of each image that was shown, as `images.cut` takes it, where it is
  the same for all (without Aircraft's banner of 20 pixels), else None. sentences: of each
  vocabulary entry, those nearest to it. readout: what `attributes` reads images with.
  """

  config: ConfigDict = dataclasses.field(repr=False)
  step: int
  checkpoint: str
  embedding_dim: int
  class_names: tuple[str, ...] = dataclasses.field(repr=False)
  prototypes: dict[str, np.ndarray] = dataclasses.field(repr=False)
  embed_batch: Embed = dataclasses.field(repr=False)
  box: tuple[float, ...] | None = None
  readout: reading.Readout = dataclasses.field(default_factory=dict, repr=False)
  sentences: tuple[tuple[str, ...], ...] = dataclasses.field(default=(), repr=False)

  def embed(
    self,
    images: Sequence[Any] | np.ndarray,
    batch_size: int = 64,
    boxes: Sequence[Sequence[float]] | np.ndarray | None = None,
  ) -> np.ndarray:
    """Embeds images, cut to their box, resized and centre-cropped as in evaluation.

    Args:
      images: whole images: paths, or uint8 RGB arrays [H, W, 3] of any sizes, or one array
        [B, H, W, 3].
      batch_size: images embedded at once.
      boxes: [B, 4] left, top, right, bottom in pixels, as `images.cut` takes them: what of each
        image is shown; (0, 0, 0, 0) shows all. None shows `self.box`, or all. Pass them to a model
        that was trained with a box for each image (data.box_crop, or columns of data.manifest).

    Returns:
      [B, D] float32, unit norm.

    Raises:
      UserError: an image cannot be read or is no uint8 RGB array, a box has no pixel of it, or
        there is not one box for each image.
    """
    data = self.config.data
    shown = [self.box] * len(images) if boxes is None else _checked(boxes, len(images))
    vectors, ground = [], grounds.of(data)
    for start in range(0, len(images), batch_size):
      part = slice(start, start + batch_size)
      crops = [
        image_files.resize_centre_crop(_opened(x, box, ground), data.resize_size, data.image_size)
        for x, box in zip(images[part], shown[part], strict=True)
      ]
      missing = batch_size - len(crops) if start else 0
      # A short last batch takes the shape of those before it: nothing is compiled again.
      vectors.append(self.embed_batch(np.stack(crops + crops[:1] * missing))[: len(crops)])
    return np.concatenate([*vectors, np.zeros((0, self.embedding_dim), np.float32)])

  def search(
    self, queries: Sequence[Any] | np.ndarray, gallery: np.ndarray, k: int = 10
  ) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest gallery rows of each query image.

    Args:
      queries: images as `embed` takes them without boxes, or their embeddings [Q, D] float32.
      gallery: [G, D] embeddings from `embed`.
      k: neighbours a query.

    Returns:
      Cosines [Q, k] float32, best first, and gallery rows [Q, k] int32; where k > G the rest is
      -inf and -1.
    """
    return knn.search(self._embedded(queries), gallery, k)

  def attributes(
    self, images: Sequence[Any] | np.ndarray, k: int = 5
  ) -> list[list[reading.Attribute]]:
    """The k entries of the vocabulary nearest to each image, through the trained projectors.

    Args:
      images: as `search` takes its queries: images, or embeddings [B, D].
      k: entries an image.

    Returns:
      For each image its entries, nearest first: (row of the vocabulary, cosine, sentences).

    Raises:
      UserError: the model was trained without a place for single entries (loss.alignment other than
        'prototype' and 'vocabulary'), or k is below 1.
    """
    reading.check(self.config, self.readout, self.sentences)
    return reading.nearest(self._embedded(images), self.readout, self.sentences, k)

  def _embedded(self, images: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Embeddings [B, D] of images, or what already is some."""
    if isinstance(images, np.ndarray) and images.ndim == 2:
      return images
    return self.embed(images)


def _checked(boxes: Any, count: int) -> np.ndarray:
  boxes = np.asarray(boxes, np.float64)
  if boxes.shape == (count, 4) and np.isfinite(boxes).all():
    return boxes
  wanted = f"four finite numbers for each of {count} images"
  raise UserError(f"boxes are {boxes.shape}; embed takes {wanted}")


def _opened(image: Any, box: Sequence[float] | np.ndarray | None, ground: Any) -> Any:
  if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.shape[2:] != (3,)):
    raise UserError(f"an image is {image.dtype} {image.shape}; embed takes uint8 [H, W, 3] RGB")
  try:
    return image_files.open_any(image, box, ground)
  except image_files.UnreadableImage as error:
    raise UserError(str(error)) from error


def load_retriever(source: str, checkpoint: str = "newest") -> Retriever:
  """Restores a trained model, on whatever devices there are.

  Args:
    source: a workdir; a folder that lafg_jax.export wrote; a .tar, .tar.gz or .tgz of either;
      hf://org/name[@revision], to which such a folder was pushed; or a URL of any of them (gs://).
    checkpoint: which checkpoint of a workdir. 'newest': the newest that reads whole. 'best': the
      one that train.keep_best kept, by MAP@R on the validation classes. 'auto': the best where
      there is one, else the newest. An export holds one checkpoint, which is taken; with 'best' it
      must be the best.

      The default is what evaluate.source=checkpoint measures: the model in use and the figures in
      evaluation.json belong together. The log says where the best one is of another step.

  Raises:
    UserError: there is no model that reads whole, it cannot be reached, or the source has no such
      checkpoint.
  """
  return of(bundle.read(source, checkpoint))


def of(model: bundle.Trained) -> Retriever:
  """The retriever of a model that was read."""
  config, facts = model.config, model.facts
  return Retriever(
    **{name: getattr(model, name) for name in ("config", "prototypes", "readout")},
    **{name: facts[name] for name in ("step", "checkpoint")},
    embedding_dim=bundle.embedding_dim(config),
    embed_batch=make_embed(embedders.build(config.model), model.params),
    class_names=tuple(facts["class_names"]),
    box=facts["box"] and tuple(facts["box"]),
    sentences=tuple(map(tuple, facts["sentences"])),
  )
