"""The features that the terms of a query and of a gallery are made of.

What no weight and no Phi changes is `Fixed`, kept in the workdir; `pseudo` needs a Phi.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import datasets
from lafg_jax.data.composed import Composed
from lafg_jax.data.datasets import Dataset
from lafg_jax.losses.contrastive import unit
from lafg_jax.tasks.composed_retrieval import edit_quality, kept, pseudo_words
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.tasks.composed_retrieval.methods import TEMPLATES
from lafg_jax.tasks.composed_retrieval.model import Model
from lafg_jax.utils import padding
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint, read_npz

FOLDER = "features"
# Rows of one file: what a run that is killed makes again.
SHARD = 4096
# f_v of images [m, D], not normalised -> their pseudo words [m, width].
Words = Callable[[np.ndarray], np.ndarray]


class Fixed(NamedTuple):
  """Features of one part; all but `images` are means of normalised features.

  images: [n, D] f_v of part.ids, not normalised. readable: [n] bool. references: [Q] their rows.
  text: [Q, D] of the modifications. edited, first: [Q, D] of all edited descriptions of a query and
  of the first; has_edit: [Q] bool; added: [Q] the objects. other: {what: [Q, D]} of descriptions
  that are 'perfect', of 'true_captions', or 'noisy' (`edit_quality`).
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
  other: Mapping[str, np.ndarray] = MappingProxyType({})
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
  made_of = [fingerprint(models.weights(config)), config.data.image_size, config.model.dtype]

  def of_texts(what: str, said: Sequence[str]) -> np.ndarray:
    def make(rows: range) -> kept.Arrays:
      return {"vectors": models.text_features(model, [said[x] for x in rows], f"encode {what}")}

    return _kept(workdir, what, [*made_of, said], len(said), make)["vectors"]

  images, readable = _images(config, workdir, model, part, made_of)
  _check_readable(config, part, readable)
  row_of = {name: row for row, name in enumerate(part.ids)}
  found = Fixed(
    images,
    readable,
    np.array([row_of[query.reference] for query in part.queries], np.int32),
    of_texts("texts", [query.text for query in part.queries]),
    added=("",) * len(part.queries),
  )
  truth = [query.edited for query in part.queries]
  other = {"perfect": of_texts("true descriptions", truth)} if all(truth) else {}
  if edits and (alone := edit_quality.of_true_captions(config, part)) is not None:
    other["true_captions"] = of_texts("edits of true captions", alone)
  if edits:
    found = _with_edits(found, part, edits, of_texts)
  if found.edited is not None:
    other["noisy"] = edit_quality.noisy(found.edited, config.editor.seed)
  found = found._replace(other=other)
  if captions and any(part.ids[row] in captions for row in part.gallery):
    t_c, captioned = _captions(workdir, model, part, captions, made_of)
    found = found._replace(captions=t_c, captioned=captioned)
  return found


def _kept(
  workdir: str, what: str, made_of: Sequence[Any], count: int, make: Callable
) -> kept.Arrays:
  """The arrays of `make`, kept in `<workdir>/features/` by what they are made of."""
  folder = Path(workdir, FOLDER, f"{what.replace(' ', '_')}-{fingerprint(*made_of)[:16]}")
  names = ("vectors", "there") if what in ("images", "captions") else ("vectors",)
  return kept.chunks(folder, count, SHARD, names, make, f"features of {what}")


def _images(
  config: ConfigDict, workdir: str, model: Model, part: Composed, made_of: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
  if config.composed.features:
    return _given(config, part, model.clip.dim)
  dataset = as_dataset(part)
  # Not part.content: the splits of a benchmark may have one gallery.
  crop = [config.data.resize_size, config.data.pad, datasets.content_of(dataset)]

  def make(rows: range) -> kept.Arrays:
    of = datasets.some_rows(dataset, np.asarray(rows))
    vectors = models.image_features(config, model, of)
    return {"vectors": vectors, "there": np.asarray(vectors.any(axis=1))}

  found = _kept(workdir, "images", [*made_of, crop], len(dataset), make)
  return found["vectors"], found["there"]


def _check_readable(config: ConfigDict, part: Composed, readable: np.ndarray) -> None:
  """Raises UserError for images that cannot be read, unless composed.missing=partial."""
  broken = [part.ids[row] for row in np.flatnonzero(~readable)]
  if broken and config.composed.missing != "partial":
    raise UserError(
      f"{counted(len(broken), 'image')} of {len(part.ids):,} of {part.name} cannot be read "
      f"({shorten(broken)}): mend or replace them, or pass --config.composed.missing=partial"
    )


def _given(config: ConfigDict, part: Composed, dim: int) -> tuple[np.ndarray, np.ndarray]:
  """The features of composed.features for a part's images; UserError where they do not fit."""
  path = config.composed.features
  key = f"--config.composed.features={path}"
  arrays = read_npz(path, ("ids", "vectors"), stage=None)
  ids, vectors = arrays["ids"].tolist(), arrays["vectors"]
  if vectors.shape != (len(ids), dim) or vectors.dtype.kind != "f":
    what = f"vectors are {vectors.dtype} {vectors.shape}"
    raise UserError(f"{key}: {what}, not real numbers ({len(ids)}, {dim}), D of model.pretrained")
  row_of = {str(name): row for row, name in enumerate(ids)}
  missing = [name for name in part.ids if name not in row_of]
  if missing:
    many = f"{len(missing):,} of {len(part.ids):,} images of {part.name}"
    raise UserError(f"{key}: it lacks {many}, such as {missing[0]}")
  found = vectors[[row_of[name] for name in part.ids]].astype(np.float32)
  return found, np.asarray(found.any(axis=1))


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
  every = of_texts("edits", [x for one in texts for x in one])
  edited, has_edit = means(every, texts)
  first = np.zeros_like(edited)
  first[has_edit] = every[np.cumsum([0, *map(len, texts)])[:-1][has_edit]]
  added = tuple("" if edit is None else edit.added.strip() for edit in of)
  return found._replace(edited=edited, first=first, has_edit=has_edit, added=added)


def _captions(
  workdir: str, model: Model, part: Composed, captions: Mapping, made_of: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
  """t_c [G, D] and which gallery images have captions: flat texts, averaged by image."""
  of = [tuple(captions.get(part.ids[row], ())) for row in part.gallery]

  def make(rows: range) -> kept.Arrays:
    texts = of[rows.start : rows.stop]
    flat = models.text_features(model, [x for one in texts for x in one], "encode captions")
    vectors, there = means(flat, texts)
    return {"vectors": vectors, "there": there}

  found = _kept(workdir, "captions", [*made_of, of], len(of), make)
  return found["vectors"], found["there"]


def means(flat: np.ndarray, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
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
  phrases = pseudo_words.phrases(model.reader, TEMPLATES[template], texts, added)
  size = padding.few_sizes(len(texts), models.BATCH)
  found = []
  for first in range(0, len(texts), size):
    rows = np.minimum(np.arange(first, first + size), len(texts) - 1)
    x = _pseudo(model.clip, model.params, tuple(y[rows] for y in phrases), words[rows])
    found.append(np.asarray(x)[: len(texts) - first])
  return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _pseudo(clip: Any, params: Any, phrases: Any, words: jax.Array) -> jax.Array:
  return unit(pseudo_words.features(clip, params, phrases, words))
