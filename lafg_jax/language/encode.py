"""Descriptions and class names -> unit text features: `<workdir>/text_features.npz`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data.datasets import Dataset
from lafg_jax.data.images import UnreadableImage, open_any
from lafg_jax.data.prototypes import l2_normalise, shorten
from lafg_jax.errors import UserError
from lafg_jax.language import describe, encoders, sentences
from lafg_jax.language.encoders import local_folder as encoder_folder
from lafg_jax.language.feature_cache import FeatureCache
from lafg_jax.progress import Progress
from lafg_jax.stages import replacing

__all__ = ["encode_images", "encode_texts", "encoder_folder", "run", "split_long"]


def run(
  language: Any,
  workdir: str | os.PathLike,
  class_names: Sequence[str],
  super_classes: Sequence[str] | None = None,
  images: Dataset | None = None,
) -> Path:
  """Encodes `<workdir>/descriptions.jsonl` and the class names with one frozen text encoder.

  Writes `<workdir>/text_features.npz`, with S sentences of M described names, C classes, width d:
  class_names [C], described [M] and class_described [C] int32 (the name under which a class is
  described: its own, or its super-class), sentences [S], sentence_described [S] int32,
  sentence_features [S, d] and queries [C, d] (of `language.prompt` with the described name in it),
  both float32 and L2-normalised, encoder (its id); and, where `language.query` is 'image',
  image_means [C, d].

  Args:
    language: the config section.
    workdir: folder of the run.
    class_names: training classes.
    super_classes: [C] what each is, where classes have no names of their own.
    images: the training images; read where `language.query` is 'image'.

  Raises:
    UserError: descriptions missing or of other classes, encoder not loadable, bad prompt.
  """
  if language.prompt.count("{}") != 1:
    raise UserError(f"language.prompt needs one {{}} for the class name, not {language.prompt!r}")
  if language.long_sentences not in ("split", "cut"):
    raise UserError(f"language.long_sentences is split or cut, not {language.long_sentences!r}")
  described, class_described = described_as(class_names, super_classes)
  records = describe.read(workdir, described)
  number = {name: i for i, name in enumerate(described)}
  texts = [record["description"] for record in records]
  owners = [number[record["class"]] for record in records]
  if language.long_sentences == "split":
    texts, owners = split_long(texts, owners, language.encoder)
  prompts = [language.prompt.replace("{}", described[k]) for k in class_described]
  found: dict[str, Any] = {}
  if language.query == "image":
    assert images is not None
    # Before the texts: an encoder without an image tower should say so at once.
    found["image_means"] = class_image_means(
      images, language.encoder, language.batch_size, language.cache
    )
  features = encode_texts(
    texts + prompts, language.encoder, language.batch_size, cache=language.cache
  )
  path = Path(workdir) / "text_features.npz"
  with replacing(path) as temporary, open(temporary, "wb") as file:
    np.savez(
      file,
      class_names=np.array(class_names),
      described=np.array(described),
      class_described=class_described,
      sentences=np.array(texts),
      sentence_described=np.array(owners, np.int32),
      sentence_features=features[: len(texts)],
      queries=features[len(texts) :],
      encoder=np.array(language.encoder),
      **found,
    )
  return path


def described_as(
  class_names: Sequence[str], super_classes: Sequence[str] | None
) -> tuple[list[str], np.ndarray]:
  """The names that descriptions are asked for, each once, and the one [C] int32 of each class."""
  names = class_names if super_classes is None else super_classes
  described = list(dict.fromkeys(names))
  number = {name: k for k, name in enumerate(described)}
  return described, np.array([number[name] for name in names], np.int32)


def class_image_means(
  dataset: Dataset, encoder: str, batch_size: int, cache: str | os.PathLike = ""
) -> np.ndarray:
  """[C, d] float32: the mean image feature of each class, L2-normalised.

  Images that cannot be read are reported by path and left out.

  Raises:
    UserError: as `encode_images`; no image of a class can be read.
  """
  features = encode_images(
    dataset.images, encoder, batch_size, cache, boxes=dataset.boxes, skip_unreadable=True
  )
  unreadable = np.flatnonzero(np.isnan(features[:, 0]))
  for row in unreadable:
    logging.warning("encode: cannot read %s; left out", dataset.ids[row])
  if len(unreadable):
    logging.warning("encode: %d of %d images left out", len(unreadable), len(dataset))
  labels = np.delete(dataset.labels, unreadable)
  empty = np.flatnonzero(np.bincount(labels, minlength=len(dataset.class_names)) == 0)
  if len(empty):
    names = shorten([dataset.class_names[k] for k in empty])
    raise UserError(f"no image of {len(empty)} classes can be read ({names}): fetch them again")
  sums = np.zeros((len(dataset.class_names), features.shape[1]))
  np.add.at(sums, labels, np.delete(features, unreadable, axis=0))
  return l2_normalise(sums, "mean image features")


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
  images: Sequence[Any] | np.ndarray,
  encoder: str,
  batch_size: int,
  cache: str | os.PathLike = "",
  *,
  boxes: np.ndarray | None = None,
  skip_unreadable: bool = False,
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

  Raises:
    UserError: as `encode_texts`; the encoder has no image tower; an image cannot be read.
  """
  _check_batch_size(batch_size)
  encoders.require_transformers()
  folder, identity = encoders.resolve(encoder)
  box_of = lambda row: None if boxes is None else boxes[row]  # noqa: E731

  def prepare() -> Callable[[Sequence[int]], np.ndarray]:
    import torch

    processor, model = encoders.load_image_model(encoder, folder)

    def features(rows: Sequence[int]) -> np.ndarray:
      pictures = [_picture(images[row], box_of(row), skip_unreadable) for row in rows]
      readable = [k for k, picture in enumerate(pictures) if picture is not None]
      if not readable:
        return np.full((len(rows), 1), np.nan, np.float32)
      inputs = processor(images=[pictures[k] for k in readable], return_tensors="pt")
      with torch.inference_mode():
        found = model.get_image_features(**inputs.to(model.device))
      # Before transformers 5 this was the array itself.
      found = getattr(found, "pooler_output", found).float().cpu().numpy()
      filled = np.full((len(rows), found.shape[1]), np.nan, np.float32)
      filled[readable] = found
      return filled

    return features

  with FeatureCache(cache, identity) as stored:
    keys = [
      stored.key(b"image\n" + _content(images[row], box_of(row), skip_unreadable))
      for row in range(len(images))
    ]
    found = _encode(keys, [0] * len(keys), prepare, batch_size, stored, "images")
  readable = ~np.isnan(found[:, 0])
  if not readable.any():
    raise UserError(f"none of {len(images)} images can be read: check the paths")
  found[readable] = l2_normalise(found[readable], f"image features of {encoder}")
  return found


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
      # What cannot be read now may be readable next time.
      whole = [k for k, row in enumerate(features) if not np.isnan(row[0])]
      cache.add([names[k] for k in whole], features[whole])
      known.update(zip(names, features, strict=True))
      progress.add(len(batch))
  # Where a whole batch could not be read, its rows are a single nan.
  width = max(len(known[key]) for key in keys)
  return np.stack([np.resize(known[key], width) for key in keys])


def _picture(image: Any, box: np.ndarray | None, skip_unreadable: bool) -> Any:
  try:
    return open_any(image, box)
  except UnreadableImage as error:
    if skip_unreadable:
      return None
    raise UserError(f"{error}; take it out of the data") from error


def _content(image: Any, box: np.ndarray | None, skip_unreadable: bool) -> bytes:
  """What decides an image's features, as bytes."""
  shown = b"" if box is None else np.asarray(box, "<f8").tobytes()
  if isinstance(image, np.ndarray):
    return f"{image.dtype.str} {image.shape}\n".encode() + image.tobytes() + shown
  if isinstance(image, bytes):
    return image + shown
  try:
    return Path(image).read_bytes() + shown
  except OSError as error:
    if skip_unreadable:
      return f"missing {image}".encode()
    raise UserError(f"cannot read image {image}: {error.strerror}") from error


def _check_batch_size(batch_size: int) -> None:
  if batch_size < 1:
    raise UserError(f"language.batch_size must be at least 1, not {batch_size}")
