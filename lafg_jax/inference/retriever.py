"""A trained model as its user meets it: restore, embed, search. Needs no training-only packages."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import images as image_files
from lafg_jax.evaluate import knn
from lafg_jax.evaluate.embed import Embed
from lafg_jax.explain.heat import Seen
from lafg_jax.explain.records import Explanation
from lafg_jax.inference import boxes as boxes_of
from lafg_jax.inference import bundle, composed, explanations, inputs
from lafg_jax.runtime import jax_settings
from lafg_jax.tasks.class_retrieval import attribute_floors
from lafg_jax.tasks.class_retrieval import attributes as reading
from lafg_jax.utils import ground
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import unit_or_zero


@dataclasses.dataclass(frozen=True)
class Retriever:
  """A restored model with its preprocessing.

  config: what it was trained with. step: of training, after which these parameters were saved.
  checkpoint: 'newest' or 'best', as `load_retriever` has them. class_names: the training classes.
  prototypes: their language base as arrays (queries, vocabulary, prototypes, mean), empty for a run
  without words. box: the part of each image that was shown, as `images.cut` takes it, where it is
  the same for all (without Aircraft's banner of 20 pixels), else None. sentences: of each
  vocabulary entry, those nearest to it. readout: what `attributes` reads images with.
  text_batch: [n] texts to embeddings, None for a model without a text tower.
  compose_batch: what queries of an image with a text are made with, as `lafg_jax.tasks` has
  `compose`; None for a model whose queries are the sum of both.
  see_batch: uint8 [B, S, S, 3] to what explanations read. floors: [N], of the vocabulary's entries,
  as `attributes.floors` has them.
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
  text_batch: Callable[[Sequence[str]], np.ndarray] | None = dataclasses.field(
    default=None, repr=False
  )
  compose_batch: tuple[Embed, Callable[..., np.ndarray]] | None = dataclasses.field(
    default=None, repr=False
  )

  see_batch: Callable[[np.ndarray], Seen] | None = dataclasses.field(default=None, repr=False)
  floors: np.ndarray | None = dataclasses.field(default=None, repr=False)

  def embed(self, images: Any, batch_size: int = 64, boxes: Any = None) -> np.ndarray:
    """Embeds images, cut to their box, resized and centre-cropped as in evaluation.

    Args:
      images: one image or several, and one gives [1, D] as a list of one does. An image is a path
        (str, Path, file://, ~), the bytes of a file, an open file, a Pillow image of any mode, or
        an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of NumPy, JAX or torch, uint8 or float in
        [0, 1]. Several are an array [B, H, W, C], a list, an array of paths, an iterator, which is
        read as it is embedded, or a folder, in the order of `lafg_jax.list_images`. A batch in a
        list counts as its images. Grey images, alpha and EXIF turns are treated as in files.
      batch_size: images embedded at once.
      boxes: [B, 4] left, top, right, bottom in pixels, as `images.cut` takes them: what of each
        image is shown, or [4] of one image; (0, 0, 0, 0) shows all. None shows `self.box`, or all.
        Pass them to a model that was trained with a box for each image (data.box_crop, or columns
        of data.manifest).

    Returns:
      [B, D] float32, unit norm.

    Raises:
      UserError: an image cannot be read or is none of these, a box has no pixel of it, or there is
        not one box for each image.
    """
    return self._all(self.embed_batch, images, batch_size, boxes)

  def _all(self, embed: Embed, images: Any, batch_size: int = 64, boxes: Any = None) -> np.ndarray:
    """What `embed` makes of all images, [B, D], or an error for the first that cannot be read."""
    shown = boxes_of.each(self.box, images, boxes)
    vectors = [found for _, found in self._by_batches(embed, shown, batch_size, None)]
    return np.concatenate([np.zeros((0, self.embedding_dim), np.float32), *vectors])

  def embed_readable(
    self, images: Any, batch_size: int = 64
  ) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """As `embed` without boxes, but images that cannot be read are left out.

    Returns:
      vectors [n, D] of those that can be read, their rows [n] int32 among the images given, and of
      each other row the reason, in one line.

    Raises:
      UserError: something given is no image in any of the forms that `embed` takes.
    """
    reasons: dict[int, str] = {}
    rows, vectors = [], [np.zeros((0, self.embedding_dim), np.float32)]
    shown = boxes_of.each(self.box, images, None)
    for read, found in self._by_batches(self.embed_batch, shown, batch_size, reasons):
      rows += read
      vectors.append(found)
    return np.concatenate(vectors), np.array(rows, np.int32), reasons

  def _by_batches(
    self,
    embed: Embed,
    shown: Iterator[tuple[Any, Any]],
    batch_size: int,
    reasons: dict[int, str] | None,
  ) -> Iterator[tuple[list[int], np.ndarray]]:
    """Rows and embeddings of images with their boxes, batch by batch.

    What cannot be read is left out and gets its reason, or is an error where `reasons` is None.
    """
    data, batch_size = self.config.data, inputs.whole(batch_size, "batch_size")
    colour = ground.of(data)

    def crop(one: tuple[Any, Any]) -> np.ndarray | UserError:
      try:
        opened = inputs.opened(*one, colour)
      except UserError as error:
        if reasons is None:
          raise
        return error
      sizes = data.resize_size, data.image_size
      return image_files.resize_centre_crop(opened, *sizes, data.pad)

    start, size = 0, 0
    with ThreadPoolExecutor(os.cpu_count(), "decode") as pool:
      for batch in inputs.ahead(pool, crop, shown, batch_size):
        crops = {start + i: x for i, x in enumerate(batch) if isinstance(x, np.ndarray)}
        failed = {start + i: str(x) for i, x in enumerate(batch) if isinstance(x, UserError)}
        start += len(batch)
        if reasons is not None:
          reasons |= failed
        if crops:
          # A power of 2, or after a whole batch another whole one: few programs are compiled.
          size = max(size, min(1 << (len(crops) - 1).bit_length(), batch_size))
          found = list(crops.values())
          padded = np.stack(found + found[:1] * (size - len(found)))
          yield list(crops), embed(padded)[: len(found)]

  def embed_text(self, texts: Any) -> np.ndarray:
    """Embeds sentences, by a model of image-text retrieval, to where its images are.

    Args:
      texts: one sentence or several, a list, an array or an iterator, and one gives [1, D]. A text
        that is longer than the model reads is cut, with a warning.

    Returns:
      [n, D] float32, unit norm; [0, D] of no texts.

    Raises:
      UserError: something is no text, or says nothing; or the model has no text tower.
    """
    self._check_texts()
    said = inputs.texts(texts)
    if not said or self.text_batch is None:
      return np.zeros((0, self.embedding_dim), np.float32)
    return self.text_batch(said)

  def _check_texts(self) -> None:
    if self.text_batch is None:
      raise UserError(
        f"a model of task={self.config.task} embeds no texts: train one with "
        "task=image_text_retrieval or composed_retrieval, whose two towers are compared"
      )

  def embed_query(self, image: Any, text: Any, *, edited: Any = None) -> np.ndarray:
    """Composed queries: reference images with what shall be different, to where images are.

    A model of composed retrieval gives alpha q_m + beta q_f + (1 - alpha - beta) q_v by the weights
    `config.query`: q_v is the image, q_f the text with the image's pseudo word in it ("a photo of $
    that ..."), and q_m the mean of the edited descriptions. Without these, the weights of the other
    two are scaled up to 1. A model of image-text retrieval has no pseudo words: there it is the sum
    of the embeddings of image and text, a baseline.

    Args:
      image: as `embed` takes images, without boxes. A model without pseudo words takes embeddings
        too.
      text: the modification, "has a red crown"; one or several, as `embed_text` takes them. One
        text goes with all images, and one image with all texts.
      edited: what the image that is looked for shows, "a finch with a red crown", as a language
        model or you write it: a text or a list of texts for each query.

    Returns:
      [n, D] float32, unit norm.

    Raises:
      UserError: as `embed` and `embed_text`; numbers of images, texts and descriptions do not fit;
        or there is `edited`, and the model has no pseudo words.
    """
    self._check_texts()
    said = inputs.texts(text)
    if self.compose_batch is None:
      if edited is not None:
        raise UserError(
          f"edited= is for a model of composed retrieval, and this one is of {self.config.task}; "
          "search(text=...) finds images by a description alone"
        )
      found, said = composed.paired(self._embedded(image, "image"), said)
      return unit_or_zero(found + self.embed_text(said)).astype(np.float32)
    features, queries = self.compose_batch
    vectors, images = inputs.vectors(image, self.embedding_dim, "image")
    if vectors is not None:
      raise UserError(
        "image: these are embeddings, and a pseudo word is made of the image itself; pass images"
      )
    found, said = composed.paired(self._all(features, images), said)
    descriptions = composed.edits(edited, len(said))
    return queries(found, said, descriptions) if said else found

  def place(self, gallery: Any) -> knn.Placed:
    """A gallery on the devices, for `search` to look through again without copying it each time.

    `gallery` and errors are as `search` has them.
    """
    among = self._embedded(gallery, "gallery")
    if not len(among):
      raise UserError("the gallery is empty: there is nothing to search")
    return knn.place(among)

  def search(
    self,
    queries: Any = None,
    gallery: Any = None,
    k: int = 10,
    *,
    image: Any = None,
    text: Any = None,
    edited: Any = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest gallery rows of each query: an image, a text, both, or embeddings.

    Args:
      queries: images as `embed` takes them, without boxes, or their embeddings: floats [D] or
        [Q, D], or a list of such. Floats on one or two axes are embeddings, so that a grey image of
        floats goes in as [H, W, 1]. Embeddings are scaled to unit norm.
      gallery: what `place` returned, which is quickest where it is searched again; [G, D]
        embeddings from `embed` or `embed_text`; or images or a folder, which are embedded first.
      k: neighbours a query.
      image: images, in place of `queries`; with `text` as `embed_query` takes them.
      text: sentences as `embed_text` takes them, in place of `queries`. With `image`, they say what
        shall be different: `search(image="a.jpg", text="has a red crown", gallery=...)`.
      edited: descriptions of what is looked for, beside an image with a text (`embed_query`).

    Returns:
      Cosines [Q, k] float32, best first, and gallery rows [Q, k] int32; where k > G the rest is
      -inf and -1. One query gives [1, k].

    Raises:
      UserError: as `embed`, `embed_text` and `embed_query`; there is not one kind of queries; the
        gallery is empty; vectors are of another width, not finite or of length 0; or k is no whole
        number of 1 or more.
    """
    k = inputs.whole(k, "k")
    if (queries is None) == (image is None and text is None):
      raise UserError(
        "search takes one kind of queries: images or embeddings, text=..., or image=... with "
        "text=..., an image that a text changes"
      )
    if gallery is None:
      raise UserError("search lacks gallery=: embeddings, images, a folder, or what place returned")
    if edited is not None and (image is None or text is None):
      raise UserError("search has edited= without image= and text=: pass all three")
    found = self._query(queries, image, text, edited)
    among = gallery if isinstance(gallery, knn.Placed) else self.place(gallery)
    if not len(found):
      return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
    return knn.search(found, among, k)

  def _query(self, queries: Any, image: Any, text: Any, edited: Any) -> np.ndarray:
    if image is not None and text is not None:
      return self.embed_query(image, text, edited=edited)
    if text is not None:
      return self.embed_text(text)
    return self._embedded(image if queries is None else queries, "queries")

  def attributes(self, images: Any, k: int = 5) -> list[list[reading.Attribute]]:
    """The k entries of the vocabulary nearest to each image, through the trained projectors.

    Args:
      images: as `search` takes its queries: images, or embeddings [D] or [B, D].
      k: entries an image.

    Returns:
      For each image its entries, nearest first: (row of the vocabulary, cosine, sentences). One
      image gives a list of one.

    Raises:
      UserError: as `search`; or the model was trained without a place for single entries
        (loss.alignment other than 'prototype' and 'vocabulary').
    """
    if "loss" not in self.config:
      raise UserError(
        f"a model of task={self.config.task} has no vocabulary of attributes; embed_text takes any "
        "words, whose cosines with images can be compared"
      )
    reading.check(self.config, self.readout, self.sentences)
    k = inputs.whole(k, "k")
    found = self._embedded(images, "images")
    return reading.nearest(found, self.readout, self.sentences, k)

  def crops(self, images: Any) -> np.ndarray:
    """What the model sees of images, as `embed` takes them: [n, S, S, 3] uint8."""
    shown, side = boxes_of.each(self.box, images, None), self.config.data.image_size
    found = [crops for _, crops in self._by_batches(np.asarray, shown, 64, None)]
    return np.concatenate([np.zeros((0, side, side, 3), np.uint8), *found])

  def explain(self, a: Any, b: Any = None, **options: Any) -> Explanation:
    """What an image shows, or why it matches another image or a text.

    Args:
      a: an image, as `embed` takes one. b: a second one, which it is compared with.
      text: in place of b, for a model that reads texts: heat is of their cosine.
      attribute: in place of b: heat is of this row of the vocabulary.
      vocabulary: texts that are attributes, for a model that reads texts and has none of its own.
      heat: 'auto', as docs/guide/explain.md has it; or 'rollout', 'occlusion', 'patches', 'matches'
        or 'none'.
      k: attributes in a list, at most.

    Returns:
      `explain.records.Explanation`: the score; attributes of each image above an untrained model's;
      what a pair shares and what differs; heat over each image, as `crops` shows it; and a note.

    Raises:
      UserError: a or b is not one image that can be read, two of b, text and attribute are there,
        or the model reads no texts, or has no attributes, where they are asked for.
    """
    return explanations.explain(self, a, b, **options)

  def _embedded(self, given: Any, what: str) -> np.ndarray:
    """Embeddings [n, D] of images, or what already is some."""
    vectors, images = inputs.vectors(given, self.embedding_dim, what)
    return self.embed(images) if vectors is None else vectors


def load_retriever(source: str | ConfigDict, checkpoint: str = "newest") -> Retriever:
  """Restores a trained model, on whatever devices there are.

  Args:
    source: a workdir; a folder that lafg_jax.export wrote; a .tar, .tar.gz or .tgz of either;
      hf://org/name[@revision], to which such a folder was pushed; or a URL of any of them (gs://).
      Or a config of image-text or composed retrieval: its published CLIP (model.pretrained), with
      the published Phi of mapping.source, as they are. A workdir of zero-shot
      CLIP, or of a published Phi, gives the same.
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
  if isinstance(source, ConfigDict):
    return of(bundle.pretrained(source))
  return of(bundle.read(source, checkpoint))


def of(model: bundle.Trained) -> Retriever:
  """The retriever of a model that was read."""
  config, facts, task = model.config, model.facts, bundle.task_of(model.config)
  box, params, texts, compose = facts.get("box"), model.params, None, None
  if bundle.composes(model):
    # Once on the device: texts, images and queries read the same towers.
    with jax_settings.ours():
      params = jax.device_put(params)
    compose = task.compose(config, facts, params, model.files)
  if bundle.reads_texts(model):
    texts = task.embed_texts(config, facts, params, model.files)
  return Retriever(
    **{name: getattr(model, name) for name in ("config", "prototypes", "readout")},
    **{name: facts[name] for name in ("step", "checkpoint")},
    embedding_dim=bundle.embedding_dim(model),
    embed_batch=task.embed_images(config, facts, params),
    class_names=tuple(facts["class_names"]),
    box=box and tuple(box),
    sentences=tuple(map(tuple, facts.get("sentences", ()))),
    text_batch=texts,
    compose_batch=compose,
    see_batch=task.see_images(config, facts, params),
    floors=attribute_floors.of(facts, model.readout),
  )
