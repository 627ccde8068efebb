"""What Phi is trained on: texts and images, and what CLIP makes of them, computed once.

Each is kept in the workdir (`kept`), so that a step computes no tower but the one that gradients
flow through:

  lincir: of each text e = f_t(text), not normalised, float16, and its tokens with pseudo words in
    place of its key phrases.
  searle: of each image f_v(image), its inversion, and its nearest concepts.
  pic2word: of each image f_v of its centre crop, or of mapping.views random crops.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import composed, datasets, listing, pipeline
from lafg_jax.data.composed import Training
from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import table
from lafg_jax.models.weights import files
from lafg_jax.runtime import devices
from lafg_jax.tasks.composed_retrieval import concepts as words_of
from lafg_jax.tasks.composed_retrieval import inversion, kept, key_phrases, pseudo_words
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.tasks.composed_retrieval.concepts import Concepts
from lafg_jax.tasks.composed_retrieval.model import Model
from lafg_jax.utils import random_streams
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint

_TEXTS, _IMAGES = 16384, 1024
_KEYS = {"texts": "--config.mapping.texts", "images": "--config.mapping.images"}


class Corpus(NamedTuple):
  """arrays: {name: [n, ...]} of `prepare`. concepts: of 'searle'; () elsewhere."""

  arrays: dict[str, np.ndarray]
  concepts: Concepts = Concepts((), ())


def training(config: ConfigDict) -> Training:
  """mapping.texts and mapping.images, and else what composed.source has.

  Raises UserError where what the method reads is in neither.
  """
  mapping, method = config.mapping, config.mapping.method
  given = [name for name in _KEYS if mapping[name]]
  needed = "texts" if method == "lincir" else "images"
  found = Training((), ()) if needed in given else composed.training(config)
  if mapping.texts:
    found = found._replace(texts=read_texts(mapping.texts))
  if mapping.images:
    found = _with_images(found, mapping.images)
  if mapping.num_images:
    found = _sampled(found, mapping.num_images)
  check(config, found)
  return found


def check(config: ConfigDict, found: Training) -> None:
  """Raises UserError where there is nothing to train on, or less than a batch."""
  name = "texts" if config.mapping.method == "lincir" else "images"
  count, size = size_of(config, found), config.mapping.batch_size
  if not count:
    raise UserError(
      f"{_KEYS[name]}=: --config.mapping.method={config.mapping.method} trains on {name}, and "
      f"--config.composed.source={config.composed.source} has none; pass some"
    )
  if count < size:
    raise UserError(
      f"--config.mapping.batch_size={size}: there are {count:,} training {name}; pass {count} or "
      "less"
    )


def size_of(config: ConfigDict, found: Training) -> int:
  """Rows that training has: texts for 'lincir', else images."""
  return len(found.texts if config.mapping.method == "lincir" else found.images)


def names(config: ConfigDict, found: Training) -> tuple[str, ...]:
  """What messages call the rows."""
  return found.texts if config.mapping.method == "lincir" else _ids(found)


def content(config: ConfigDict, found: Training) -> str:
  """Changes when the texts or images do that the method reads; files by their names and sizes."""
  parts: list[Any] = []
  if config.mapping.method != "pic2word":
    parts.append(found.texts)
  if config.mapping.method != "lincir":
    images = found.images
    drawn = images if isinstance(images, np.ndarray) and images.dtype == np.uint8 else None
    parts += [drawn, datasets.content_of(_dataset(found))]
  parts += [
    Path(path) for name in ("concepts", "concept_phrases") if (path := config.mapping[name])
  ]
  return fingerprint(*parts)


def prepare(config: ConfigDict, workdir: str, model: Model, found: Training) -> Corpus:
  """What training reads of a corpus, computed where the workdir does not have it."""
  if config.mapping.method == "lincir":
    return Corpus(_of_texts(config, workdir, model, found))
  features = _of_images(config, workdir, model, found)
  if config.mapping.method == "pic2word":
    return Corpus({"feature": features})
  concepts, features = words_of.of(config, found.texts), features[:, 0]
  near = inversion.near_concepts(*model, features, concepts, words_of.OF_DISTILLATION)
  folder = inversion.folder_of(workdir, config, features, concepts)
  words = inversion.invert(config, *model, features, concepts, folder, near)
  return Corpus({"feature": features, "inverted": words, "near": near}, concepts)


def _key(config: ConfigDict, found: Training) -> list[Any]:
  weights = files.content_hash(config.model.pretrained, files.WHOLE) or config.model.pretrained
  return [content(config, found), weights, config.model.dtype, config.data.image_size]


def _of_texts(config, workdir: str, model: Model, found: Training) -> dict[str, np.ndarray]:
  """'target' [n, D] float16, 'ids' [n, L], 'ends' [n] and 'at' [n, L], cut to the longest."""
  reader, find = model.reader, key_phrases.finder(config.mapping.phrases)

  def make(rows: range) -> dict[str, np.ndarray]:
    texts = [key_phrases.cleaned(found.texts[row]) for row in rows]
    parts = [
      key_phrases.parts(text, find(text), functools.partial(random_streams.masked_word, seed, row))
      for row, text in zip(rows, texts, strict=True)
    ]
    ids = reader.ids(texts)
    target = inversion.text_features(model.clip, model.params, reader, ids, "encode texts")
    said = pseudo_words.masked(reader, parts)
    if said.ids.shape[1] < reader.context:
      said = pseudo_words.widened(said, reader.context, reader.pad)
    return {"target": target.astype(np.float16), **said._asdict()}

  seed, phrases = config.seed, config.mapping.phrases
  folder = kept.folder_of(workdir, "texts", _key(config, found), seed, phrases)
  names = ("target", *pseudo_words.Phrases._fields)
  arrays = kept.chunks(folder, len(found.texts), _TEXTS, names, make, "encode training texts")
  if not reader.fixed:
    longest = min(-(-(int(arrays["ends"].max()) + 1) // 16) * 16, reader.context)
    arrays |= {name: arrays[name][:, :longest] for name in ("ids", "at")}
  return arrays


def _of_images(config, workdir: str, model: Model, found: Training) -> np.ndarray:
  """f_v [n, k, D] float32 of the centre crop (k = 1), or of k random crops."""
  views = config.mapping.views if config.mapping.method == "pic2word" else 0
  dataset = _dataset(found)

  def make(rows: range) -> dict[str, np.ndarray]:
    some = datasets.some_rows(dataset, np.asarray(rows))
    if not views:
      return {"feature": models.image_features(config, model, some)[:, None]}
    return {"feature": _views(config, model, some, views, rows.start)}

  data, padded = config.data, config.data.pad
  crops = [views, data.crop_scale, data.crop_ratio, data.flip] if views else [data.resize_size]
  folder = kept.folder_of(workdir, "images", _key(config, found), crops, padded, config.seed)
  made = kept.chunks(folder, len(dataset), _IMAGES, ("feature",), make, "encode training images")
  return _standing_in(made["feature"])


def _standing_in(features: np.ndarray) -> np.ndarray:
  """Features [n, k, D] in which the next readable image stands in for one that is not: of zeros."""
  readable = np.flatnonzero(features[:, 0].any(axis=1))
  following = np.searchsorted(readable, np.arange(len(features))) % max(1, len(readable))
  return features[readable[following]] if len(readable) < len(features) else features


def _views(config, model: Model, dataset: Dataset, views: int, first: int) -> np.ndarray:
  """[n, views, D] of random crops; they depend on the seed, the view and the row."""
  embed = devices.spreading(lambda params, x: models.of_images(model.clip, params, x))
  of, size = embed({"image": model.params["image"]}), config.evaluate.batch_size
  count = len(dataset) * views
  ranges = [(start, min(start + size, count)) for start in range(0, count, size)]
  # Each chunk has crops of its own.
  seed = config.seed + first
  batches = pipeline.view_batches(dataset, config.data, ranges, size, views=views, seed=seed)
  found = [of(batch["image"]) for batch in batches]
  return np.concatenate(found)[:count].reshape(len(dataset), views, -1)


def _dataset(found: Training) -> Dataset:
  count = len(found.images)
  labels = np.zeros(count, np.int32)
  return Dataset(
    "composed", "train", found.images, labels, ("image",), _ids(found), ground=found.ground
  )


def _ids(found: Training) -> tuple[str, ...]:
  named = found.ids and len(found.ids) == len(found.images)
  return found.ids if named else tuple(f"image {row}" for row in range(len(found.images)))


def _sampled(found: Training, most: int) -> Training:
  count, images = len(found.images), found.images
  rows = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))
  some = datasets.some_images(images, rows)
  return found._replace(images=some, ids=tuple(found.ids[row] for row in rows) if found.ids else ())


def read_texts(name: str) -> tuple[str, ...]:
  """The texts of a file: a line each, or the column 'caption' or 'text' of a CSV."""
  path, key = Path(name), f"{_KEYS['texts']}={name}"
  if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
    columns = {title.strip().lower(): column for title, column in table.csv_table(path)}
    column = next((columns[x] for x in ("caption", "text") if x in columns), None)
    if column is None:
      raise UserError(f"{key}: it has no column caption or text; it has {', '.join(columns)}")
    lines: Sequence[str] = [str(x) for x in column]
  else:
    try:
      lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
      why = getattr(error, "strerror", None) or "it is no text in UTF-8"
      raise UserError(f"{key}: it cannot be read ({why})") from error
  return tuple(text for line in lines if (text := line.strip()))


def _with_images(found: Training, folder: str) -> Training:
  if not Path(folder).is_dir():
    raise UserError(f"{_KEYS['images']}={folder}: there is no such folder")
  names = listing.images_below(folder)[0]
  paths = np.array([str(Path(folder, name)) for name in names], np.str_)
  return found._replace(images=paths, ids=tuple(names))
