"""The features that the terms of a query and of a gallery are made of.

What no weight and no Phi changes is `Fixed`, kept in the workdir; `pseudo` needs a Phi.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data.composed import Composed
from lafg_jax.data.datasets import Dataset, Rows
from lafg_jax.losses.contrastive import unit
from lafg_jax.tasks.composed_retrieval import cache, encode, pseudo_words
from lafg_jax.tasks.composed_retrieval.methods import TEMPLATES
from lafg_jax.tasks.composed_retrieval.model import Model
from lafg_jax.utils.files import fingerprint

_BEGINNING = "a photo of $ {text}"
# f_v of images [m, D], not normalised -> their pseudo words [m, width].
Words = Callable[[np.ndarray], np.ndarray]


class Fixed(NamedTuple):
  """Features of one part; all but `images` are means of normalised features.

  images: [n, D] f_v of part.ids, not normalised. readable: [n] bool. references: [Q] their rows.
  text: [Q, D] of the modifications. edited, first: [Q, D] of all edited descriptions of a query and
  of the first; has_edit: [Q] bool; added: [Q] the objects. perfect: [Q, D] of true descriptions.
  captions: [G, D] of the gallery, captioned: [G] bool. What is not there is None.
  """

  images: np.ndarray
  readable: np.ndarray
  references: np.ndarray
  text: np.ndarray
  edited: np.ndarray | None = None
  first: np.ndarray | None = None
  has_edit: np.ndarray | None = None
  added: tuple[str, ...] = ()
  perfect: np.ndarray | None = None
  captions: np.ndarray | None = None
  captioned: np.ndarray | None = None


def fixed(
  config: ConfigDict,
  workdir: str,
  model: Model,
  part: Composed,
  captions: Mapping[str, Sequence[str]],
  edits: Mapping[tuple[str, str], Any],
) -> Fixed:
  """The features of a part, those that the workdir has already from there.

  captions: {image id: texts}, edits: {(part, query id): Edit}; each may lack any, and be empty.
  """
  made_of = [fingerprint(encode.weights(config)), config.data.image_size, config.model.dtype]

  def of_texts(what: str, said: Sequence[str]) -> np.ndarray:
    def make(first: int, last: int) -> cache.Kept:
      found = encode.text_features(model, said[first:last], f"encode {what}")
      return found, np.ones(last - first, bool)

    return cache.kept(workdir, what, [*made_of, said], len(said), make)[0]

  images, readable = _images(config, workdir, model, part, made_of)
  row_of = {name: row for row, name in enumerate(part.ids)}
  found = Fixed(
    images,
    readable,
    np.array([row_of[query.reference] for query in part.queries], np.int32),
    of_texts("texts", [query.text for query in part.queries]),
    added=("",) * len(part.queries),
  )
  truth = [query.edited for query in part.queries]
  if all(truth):
    found = found._replace(perfect=of_texts("perfect", truth))
  if edits:
    found = _with_edits(found, part, edits, of_texts)
  if captions and any(part.ids[row] in captions for row in part.gallery):
    t_c, captioned = _captions(workdir, model, part, captions, made_of)
    found = found._replace(captions=t_c, captioned=captioned)
  return found


def _images(
  config: ConfigDict, workdir: str, model: Model, part: Composed, made_of: Sequence[Any]
) -> cache.Kept:
  dataset = as_dataset(part)
  crop = [config.data.resize_size, config.data.pad]

  def make(first: int, last: int) -> cache.Kept:
    rows = np.arange(first, last)
    images = dataset.images
    chosen = images[rows] if isinstance(images, np.ndarray) else Rows(images, rows)
    of = dataclasses.replace(
      dataset, images=chosen, labels=dataset.labels[rows], ids=dataset.ids[first:last]
    )
    vectors = encode.image_features(config, model, of)
    return vectors, vectors.any(axis=1)

  return cache.kept(workdir, "images", [*made_of, crop, part.content], len(dataset), make)


def as_dataset(part: Composed) -> Dataset:
  """The images of a part as the Dataset that readers of images take; all are of one class."""
  return Dataset(
    name=part.name,
    split=part.split,
    images=part.images,
    labels=np.zeros(len(part.ids), np.int32),
    class_names=("image",),
    ids=part.ids,
    version=part.content,
    ground=part.ground,
  )


def _with_edits(found: Fixed, part: Composed, edits: Mapping, of_texts: Callable) -> Fixed:
  of = [edits.get((part.name, query.id)) for query in part.queries]
  texts = [() if edit is None else tuple(edit.edited) for edit in of]
  if not any(texts):
    return found
  edited, has_edit = means(of_texts("edits", [x for one in texts for x in one]), texts)
  firsts = np.cumsum([0, *map(len, texts)])[:-1]
  return found._replace(
    edited=edited,
    first=_first(of_texts, texts, firsts),
    has_edit=has_edit,
    added=tuple("" if edit is None else edit.added.strip() for edit in of),
  )


def _first(of_texts: Callable, texts: Sequence[Sequence[str]], firsts: np.ndarray) -> np.ndarray:
  every = of_texts("edits", [x for one in texts for x in one])
  found = np.zeros((len(texts), every.shape[1]), np.float32)
  rows = [row for row, one in enumerate(texts) if one]
  found[rows] = every[firsts[rows]]
  return found


def _captions(
  workdir: str, model: Model, part: Composed, captions: Mapping, made_of: Sequence[Any]
) -> cache.Kept:
  """t_c [G, D] and which gallery images have captions: flat texts, averaged by image."""
  of = [tuple(captions.get(part.ids[row], ())) for row in part.gallery]

  def make(first: int, last: int) -> cache.Kept:
    texts = of[first:last]
    flat = [x for one in texts for x in one]
    return means(encode.text_features(model, flat, "encode captions"), texts)

  return cache.kept(workdir, "captions", [*made_of, of], len(of), make)


def means(flat: np.ndarray, texts: Sequence[Sequence[str]]) -> cache.Kept:
  """The mean [n, D] of each text list's rows of `flat`, zeros without any, and which have some."""
  counts = np.array([len(one) for one in texts])
  found = np.zeros((len(texts), flat.shape[1]), np.float32)
  np.add.at(found, np.repeat(np.arange(len(texts)), counts), flat)
  return found / np.maximum(counts, 1)[:, None].astype(np.float32), counts > 0


def pseudo(
  model: Model, part: Composed, found: Fixed, words: Words, template: str, whose: str = "own"
) -> np.ndarray:
  """q_f [Q, D] float32, L2-normalised: the text with the pseudo word of the reference image.

  template: of methods.TEMPLATES; 'cvsi' leaves its second sentence out where nothing is added.
  whose: 'own', or 'other': of the next reference, a control.
  """
  references, which = np.unique(found.references, return_inverse=True)
  of = words(found.images[references])
  if whose == "other":
    of = np.roll(of, 1, axis=0)
  rows = np.zeros((len(part.queries), model.clip.dim), np.float32)
  for name, chosen in _by_template(template, found.added).items():
    texts = [part.queries[row].text for row in chosen]
    added = [found.added[row] for row in chosen]
    rows[chosen] = _of_phrases(model, name, texts, added, of[which[chosen]])
  return rows


def _by_template(template: str, added: Sequence[str]) -> dict[str, np.ndarray]:
  """{template: rows} of the queries, each with the template that fits what is added."""
  if template != "cvsi":
    return {template: np.arange(len(added))}
  has = np.array([bool(objects) for objects in added])
  split = {"cvsi": np.flatnonzero(has), "without_added": np.flatnonzero(~has)}
  return {name: rows for name, rows in split.items() if len(rows)}


def _of_phrases(
  model: Model, template: str, texts: Sequence[str], added: Sequence[str], words: np.ndarray
) -> np.ndarray:
  """In batches of one shape: `words` [n, width] in the template around each text."""
  said = [
    TEMPLATES[template].format(text=text, added=objects)
    for text, objects in zip(texts, added, strict=True)
  ]
  phrases = pseudo_words.phrases(model.reader, _BEGINNING, said)
  size = min(encode.BATCH, 1 << (len(said) - 1).bit_length())
  found = []
  for first in range(0, len(said), size):
    rows = np.minimum(np.arange(first, first + size), len(said) - 1)
    x = _pseudo(model.clip, model.params, tuple(y[rows] for y in phrases), words[rows])
    found.append(np.asarray(x)[: len(said) - first])
  return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _pseudo(clip: Any, params: Any, phrases: Any, words: jax.Array) -> jax.Array:
  return unit(pseudo_words.features(clip, params, phrases, words))
