"""Descriptions and class names -> unit text features: `<workdir>/text_features.npz`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data.images import UnreadableImage, open_image
from lafg_jax.data.prototypes import l2_normalise
from lafg_jax.errors import UserError
from lafg_jax.language import describe, encoders, sentences
from lafg_jax.language.encoders import local_folder as encoder_folder
from lafg_jax.language.feature_cache import FeatureCache
from lafg_jax.progress import Progress
from lafg_jax.stages import replacing

__all__ = ["compute", "encode_images", "encode_texts", "encoder_folder", "run", "split_long"]


def run(language: Any, workdir: str | os.PathLike, class_names: Sequence[str]) -> Path:
  """Encodes `<workdir>/descriptions.jsonl` and the class names with one frozen text encoder.

  Writes the arrays of `compute` to `<workdir>/text_features.npz`.

  Raises:
    UserError: descriptions missing or of other classes, encoder not loadable, bad prompt.
  """
  _check_settings(language)
  arrays: dict[str, Any] = compute(language, describe.read(workdir, class_names), class_names)
  path = Path(workdir) / "text_features.npz"
  with replacing(path) as temporary, open(temporary, "wb") as file:
    np.savez(file, **arrays)
  return path


def compute(
  language: Any, records: Sequence[describe.Record], class_names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Features of descriptions and class names; writes nothing but the feature cache.

  Args:
    language: the config section.
    records: cleaned descriptions, at least one of each class and none of any other.
    class_names: C different names.

  Returns:
    With S sentences and width d: class_names [C], sentences [S], sentence_class [S] int32,
    sentence_features [S, d] and queries [C, d] (of `language.prompt` with the class name in it),
    both float32 and L2-normalised, encoder (its id).

  Raises:
    UserError: encoder not loadable, bad prompt.
  """
  _check_settings(language)
  number = {name: i for i, name in enumerate(class_names)}
  texts = [record["description"] for record in records]
  owners = [number[record["class"]] for record in records]
  if language.long_sentences == "split":
    texts, owners = split_long(texts, owners, language.encoder)
  prompts = [language.prompt.replace("{}", name) for name in class_names]
  features = encode_texts(
    texts + prompts, language.encoder, language.batch_size, cache=language.cache
  )
  return {
    "class_names": np.array(class_names),
    "sentences": np.array(texts),
    "sentence_class": np.array(owners, np.int32),
    "sentence_features": features[: len(texts)],
    "queries": features[len(texts) :],
    "encoder": np.array(language.encoder),
  }


def split_long(
  texts: Sequence[str], owners: Sequence[int], encoder: str
) -> tuple[list[str], list[int]]:
  """Splits texts longer than the encoder's context at sentences and clauses; warns how many.

  Args:
    texts: S descriptions.
    owners: [S] the class of each. A part that a class already has is not repeated.
    encoder: a folder, a hub id, or 'tiny_clip'.

  Returns:
    The texts and their classes, in order, each long text replaced by its parts. A text without a
    place to split stays whole (`encode_texts` cuts it, and says so).

  Raises:
    UserError: the encoder cannot be loaded.
  """
  reader = encoders.load_reader(encoder, encoders.resolve(encoder)[0])
  long = [length > reader.limit for length in reader.lengths(texts)]
  fits = lambda text: reader.lengths([text])[0] <= reader.limit  # noqa: E731
  kept: dict[tuple[int, str], None] = {}
  split = parts = 0
  for text, owner, too_long in zip(texts, owners, long, strict=True):
    found = sentences.split(text, fits) if too_long else [text]
    kept.update(dict.fromkeys((owner, part) for part in found))
    if len(found) > 1:
      split, parts = split + 1, parts + len(found)
  if split:
    logging.warning(
      "%d of %d sentences are longer than the %d tokens that %s reads, and were split into %d",
      *(split, len(texts), reader.limit, encoder, parts),
    )
  return [text for _, text in kept], [owner for owner, _ in kept]


def encode_texts(
  texts: Sequence[str], encoder: str, batch_size: int, cache: str | os.PathLike = ""
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

  Raises:
    UserError: the language extra is not installed, the encoder cannot be loaded, or the cache
      cannot be written to.
  """
  _check_batch_size(batch_size)
  encoders.require_transformers()
  folder, identity = encoders.resolve(encoder)
  reader = encoders.load_reader(encoder, folder)
  lengths = reader.lengths(texts)
  cut = sum(length > reader.limit for length in lengths)
  if cut:
    logging.warning(
      "%d of %d texts are longer than the %d tokens that %s reads, and were cut",
      *(cut, len(texts), reader.limit, encoder),
    )

  def prepare() -> Callable[[Sequence[int]], np.ndarray]:
    import torch

    model = encoders.load_text_model(encoder, folder)

    def features(rows: Sequence[int]) -> np.ndarray:
      tokens = reader.tokens([texts[row] for row in rows])
      tokens = {name: values.to(model.device) for name, values in tokens.items()}
      with torch.inference_mode():
        found = encoders.pool(model(**tokens), tokens.get("attention_mask"), reader.pooling)
      return found.float().cpu().numpy()

    return features

  with FeatureCache(cache, identity) as stored:
    keys = [stored.key(b"text\n" + text.encode()) for text in texts]
    found = _encode(keys, lengths, prepare, batch_size, stored, "texts")
  return l2_normalise(found, f"features of {encoder}")


def encode_images(
  images: Sequence[str] | np.ndarray, encoder: str, batch_size: int, cache: str | os.PathLike = ""
) -> np.ndarray:
  """L2-normalised float32 image features [n, d], in the space of the encoder's text features.

  Args:
    images: n >= 1 paths, or uint8 [n, H, W, 3]. Files are turned upright and converted to RGB;
      the rest (resizing, cropping, normalising) is the encoder's own preprocessing.
    encoder: a folder or hub id of CLIP, SigLIP or SigLIP 2, or 'tiny_clip'.
    batch_size: images encoded at once.
    cache: folder where features are kept between runs, by the content of the images; '' keeps none.

  Raises:
    UserError: as `encode_texts`; the encoder has no image tower; an image cannot be read.
  """
  _check_batch_size(batch_size)
  encoders.require_transformers()
  folder, identity = encoders.resolve(encoder)

  def prepare() -> Callable[[Sequence[int]], np.ndarray]:
    import torch

    processor, model = encoders.load_image_model(encoder, folder)

    def features(rows: Sequence[int]) -> np.ndarray:
      inputs = processor(images=[_picture(images[row]) for row in rows], return_tensors="pt")
      with torch.inference_mode():
        found = model.get_image_features(**inputs.to(model.device))
      # Before transformers 5 this was the array itself.
      return getattr(found, "pooler_output", found).float().cpu().numpy()

    return features

  with FeatureCache(cache, identity) as stored:
    keys = [stored.key(b"image\n" + _content(image)) for image in images]
    found = _encode(keys, [0] * len(keys), prepare, batch_size, stored, "images")
  return l2_normalise(found, f"image features of {encoder}")


def _encode(
  keys: Sequence[bytes],
  lengths: Sequence[int],
  prepare: Callable[[], Callable[[Sequence[int]], np.ndarray]],
  batch_size: int,
  cache: FeatureCache,
  unit: str,
) -> np.ndarray:
  """Features [n, d] of the rows that `keys` name: from the cache, the others in batches.

  `prepare` loads the model, and is called only if a row is not in the cache.
  """
  assert keys, f"no {unit} to encode"
  known = cache.read(keys)
  first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in known}
  if known:
    different = len(first) + len(known)
    logging.info("encode: %d of %d %s come from the cache", len(known), different, unit)
  # Texts of like length share a batch, which saves most of the padding.
  rows = sorted(first.values(), key=lambda row: lengths[row])
  encode = prepare() if rows else None
  with Progress("encode", len(rows), unit) as progress:
    for start in range(0, len(rows), batch_size):
      assert encode is not None
      batch = rows[start : start + batch_size]
      features = encode(batch)
      names = [keys[row] for row in batch]
      cache.add(names, features)
      known.update(zip(names, features, strict=True))
      progress.add(len(batch))
  return np.stack([known[key] for key in keys])


def _picture(image: str | np.ndarray) -> Any:
  from PIL import Image

  if isinstance(image, np.ndarray):
    return Image.fromarray(image)
  try:
    return open_image(image)
  except UnreadableImage as error:
    raise UserError(f"{error}; take it out of the data") from error


def _content(image: str | np.ndarray) -> bytes:
  """What decides an image's features, as bytes."""
  if isinstance(image, np.ndarray):
    return f"{image.dtype.str} {image.shape}\n".encode() + image.tobytes()
  try:
    return Path(image).read_bytes()
  except OSError as error:
    raise UserError(f"cannot read image {image}: {error.strerror}") from error


def _check_settings(language: Any) -> None:
  if language.prompt.count("{}") != 1:
    raise UserError(f"language.prompt needs one {{}} for the class name, not {language.prompt!r}")
  if language.long_sentences not in ("split", "cut"):
    raise UserError(f"language.long_sentences is split or cut, not {language.long_sentences!r}")


def _check_batch_size(batch_size: int) -> None:
  if batch_size < 1:
    raise UserError(f"language.batch_size must be at least 1, not {batch_size}")
