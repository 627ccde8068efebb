"""Descriptions and class names -> unit text features: `<workdir>/text_features.npz`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data.datasets import Dataset
from lafg_jax.language import descriptions, statistics
from lafg_jax.language import vocabulary as mining
from lafg_jax.language.encoders import load, runtimes, split_sentences
from lafg_jax.language.encoders.cache import Encode, FeatureCache, computed
from lafg_jax.language.encoders.images import class_image_means
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import write_npz
from lafg_jax.utils.vectors import l2_normalise


def run(
  language: Any,
  workdir: str | os.PathLike,
  class_names: Sequence[str],
  super_classes: Sequence[str] | None = None,
  images: Dataset | None = None,
) -> Path:
  """Encodes `<workdir>/descriptions.jsonl` and the class names with one frozen text encoder.

  Writes the arrays of `compute`, which explains the arguments, to `<workdir>/text_features.npz`.

  Raises:
    UserError: as `compute`; bad prompt; the descriptions are missing or of other classes.
  """
  if language.prompt.count("{}") != 1:
    raise UserError(f"language.prompt needs one {{}} for the class name, not {language.prompt!r}")
  if language.long_sentences not in ("split", "cut"):
    raise UserError(f"language.long_sentences is split or cut, not {language.long_sentences!r}")
  records = descriptions.read(workdir, described_as(class_names, super_classes)[0])
  arrays = compute(language, records, class_names, super_classes, images)
  return write_npz(Path(workdir) / "text_features.npz", **arrays)


def compute(
  language: Any,
  records: Sequence[descriptions.Record],
  class_names: Sequence[str],
  super_classes: Sequence[str] | None = None,
  images: Dataset | None = None,
) -> dict[str, np.ndarray]:
  """Features of descriptions and class names; writes nothing but the feature cache.

  Args:
    language: the config section.
    records: cleaned descriptions, at least one of each described name and none of any other.
    class_names: C different names.
    super_classes: [C] what each is, where classes have no names of their own.
    images: the training images; read where `language.query` is 'image'.

  Returns:
    With S sentences of M described names and width d: class_names [C], described [M] and
    class_described [C] int32 (the name under which a class is described: its own, or its
    super-class), sentences [S], sentence_described [S] int32, sentence_features [S, d] and
    queries [C, d] (of `language.prompt` with the described name in it), both float32 and
    L2-normalised, encoder (its id); and, where `language.query` is 'image', image_means [C, d].

  Raises:
    UserError: encoder not loadable, more language.num_attributes than different sentences, or no
      images for language.query=image.
  """
  options = (language.encoder, language.batch_size, language.cache, language.encoder_runtime)
  described, class_described = described_as(class_names, super_classes)
  number = {name: i for i, name in enumerate(described)}
  texts = [record["description"] for record in records]
  owners = [number[record["class"]] for record in records]
  doubt = statistics.about_encoder(language.encoder, described)
  if doubt:
    logging.warning("%s", doubt)
  if language.long_sentences == "split":
    texts, owners = split_long(texts, owners, language.encoder, language.encoder_runtime)
  if language.num_attributes:
    # The prototypes stage would say so after hours of encoding.
    mining.check_size(language.num_attributes, len(set(texts)))
  prompts = [language.prompt.replace("{}", described[k]) for k in class_described]
  found: dict[str, np.ndarray] = {}
  if language.query == "image":
    if images is None:
      raise UserError("--config.language.query=image: no images of these classes; pass name")
    # Before the texts, so that an encoder without an image tower stops the run at once.
    found["image_means"] = class_image_means(images, *options)
  features = encode_texts(texts + prompts, *options)
  return found | {
    "class_names": np.array(class_names),
    "described": np.array(described),
    "class_described": class_described,
    "sentences": np.array(texts),
    "sentence_described": np.array(owners, np.int32),
    "sentence_features": features[: len(texts)],
    "queries": features[len(texts) :],
    "encoder": np.array(language.encoder),
  }


def described_as(
  class_names: Sequence[str], super_classes: Sequence[str] | None
) -> tuple[list[str], np.ndarray]:
  """The names that descriptions are asked for, each once, and the one [C] int32 of each class."""
  names = class_names if super_classes is None else super_classes
  described = list(dict.fromkeys(names))
  number = {name: k for k, name in enumerate(described)}
  return described, np.array([number[name] for name in names], np.int32)


def split_long(
  texts: Sequence[str], owners: Sequence[int], encoder: str, runtime: str = "auto"
) -> tuple[list[str], list[int]]:
  """(texts, their owners) with texts longer than the encoder's context replaced by their parts.

  They are split at sentences and clauses, and counted in a warning. A text without a place to split
  stays whole (`encode_texts` cuts it, and says so). A part that its owner, the number of a
  described name, already has is not repeated. Raises UserError if the encoder cannot be loaded.
  """
  folder = load.resolve(encoder)[0]
  reader = runtimes.of(encoder, folder, runtime).load_reader(encoder, folder)
  fits = lambda text: reader.lengths([text])[0] <= reader.context  # noqa: E731
  found = [
    split_sentences.split(text, fits) if length > reader.context else [text]
    for text, length in zip(texts, reader.lengths(texts), strict=True)
  ]
  split = [len(parts) for parts in found if len(parts) > 1]
  if split:
    logging.warning(
      "%d of %d sentences are longer than the %d tokens that %s reads, and were split into %d",
      *(len(split), len(texts), reader.context, encoder, sum(split)),
    )
  pairs = zip(owners, found, strict=True)
  kept = dict.fromkeys((part, owner) for owner, parts in pairs for part in parts)
  return [text for text, _ in kept], [owner for _, owner in kept]


def encode_texts(
  texts: Sequence[str],
  encoder: str,
  batch_size: int,
  cache: str | os.PathLike = "",
  runtime: str = "auto",
) -> np.ndarray:
  """L2-normalised float32 features [S, d] of `texts`, in their order.

  CLIP gives its projected text embedding, SigLIP and SigLIP 2 their pooled text embedding, any
  other text encoder its last hidden states pooled as its 1_Pooling/config.json says, by default
  averaged over the tokens that are not padding (a sentence encoder). Texts longer than the
  encoder's context are cut, and their count is logged as a warning.

  Args:
    texts: S >= 1 strings.
    encoder: a folder, a hub id, or 'tiny_clip'.
    batch_size: texts encoded at once.
    cache: folder where features are kept between runs; '' keeps none.
    runtime: 'auto', 'flax' or 'transformers', as `language.encoder_runtime`.

  Raises:
    UserError: packages of that runtime are not installed, the encoder cannot be loaded,
      batch_size is below 1, or the cache cannot be written to.
  """
  folder, identity = load.resolve(encoder)
  way = runtimes.of(encoder, folder, runtime)
  reader = way.load_reader(encoder, folder)
  lengths = reader.lengths(texts)
  cut = sum(length > reader.context for length in lengths)
  if cut:
    logging.warning(
      "%d of %d texts are longer than the %d tokens that %s reads, and were cut",
      *(cut, len(texts), reader.context, encoder),
    )

  def prepare() -> Encode:
    return way.text_encoder(encoder, folder, reader, texts)

  contents = (b"text\n" + text.encode() for text in texts)
  stored = FeatureCache(cache, identity)
  found = computed(contents, lengths, prepare, batch_size, stored, "texts")
  return l2_normalise(found, f"features of {encoder}")
