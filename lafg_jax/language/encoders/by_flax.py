"""CLIP and SigLIP in JAX, on the accelerator where there is one: texts and images to features.

Neither torch nor transformers is imported. Features are those of `by_transformers` up to rounding
(tests/language/encoders/test_runtimes.py: 1e-5).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lafg_jax.language.encoders import layout, preprocess, tokens
from lafg_jax.language.encoders.cache import Encode
from lafg_jax.language.encoders.load import HINT, KEY, loading
from lafg_jax.language.encoders.tokens import Tokenizer
from lafg_jax.utils.errors import UserError


def refusal(folder: Path, images: bool = False) -> str:
  """Why an encoder's texts, or with `images` its images, are not read here; '' where they are.

  Only settings are read. Raises ValueError for a layout that nothing reads.
  """
  found = layout.read(folder)
  told = tokens.reading(found.folder)
  if not told.family:
    return "it is no CLIP or SigLIP"
  if any(found.steps):
    return "it has a Dense module"
  config = layout.read_object(found.folder / "config.json")
  if str(config.get("model_type", "")).endswith("_text_model"):
    return "it is a text tower alone"
  if images:
    try:
      preprocess.read(found.folder)
    except ValueError as error:
      return str(error)
  elif told.family != "clip" and tokens.context(found.folder, _limit(found)) < told.positions:
    return "its tokenizer reads fewer tokens than it has positions, where its texts end"
  return ""


def load_reader(encoder: str, folder: Path) -> Tokenizer:
  """The tokenizer of an encoder; UserError if it cannot be used."""
  with loading(encoder):
    found = layout.read(folder)
    return tokens.load(found.folder, _limit(found), bool(found.settings.get("do_lower_case")))


def _limit(found: layout.Layout) -> int:
  return int(found.settings.get("max_seq_length") or 0)


def text_encoder(encoder: str, folder: Path, reader: Tokenizer, texts: Sequence[str]) -> Encode:
  """The function that encodes rows of `texts`; raises UserError where weights cannot be loaded.

  Padding fills a batch up: its texts to one of few lengths, its rows to those of the first batch.
  So few shapes are compiled.
  """
  import jax

  from lafg_jax.models import clip

  model, params = _loaded(encoder, folder)
  size = 0

  @jax.jit
  def embed(params: Any, ids: jax.Array, ends: jax.Array) -> jax.Array:
    return clip.embed_texts(model, params, clip.token_embeddings(model, params, ids), ends)

  def encode(rows: Sequence[int]) -> tuple[Sequence[int], np.ndarray]:
    nonlocal size
    size = max(size, len(rows))
    ids = reader.ids([texts[row] for row in rows])
    length = _bucket(max(map(len, ids)), reader.context)
    batch, ends = reader.batch(ids + ids[:1] * (size - len(rows)), length)
    if batch.max() >= model.text.vocabulary:
      # A lookup in JAX would take the last word instead.
      problem = f"its tokenizer has token {batch.max()}, its weights {model.text.vocabulary} words"
      raise UserError(
        f"{KEY} {encoder!r} cannot encode ({problem}): do its tokenizer and its weights belong "
        f"together? {HINT}"
      )
    return encoded(rows, encoder, embed, params, batch, ends)

  return encode


def _bucket(length: int, context: int) -> int:
  """The length that texts are padded to: a multiple of 16, from 64 on a power of two."""
  padded = -(-length // 16) * 16 if length <= 64 else 1 << (length - 1).bit_length()
  return min(padded, context)


def image_encoder(encoder: str, folder: Path, shown: Callable[[int], Image.Image | None]) -> Encode:
  """The function that encodes images; `shown` gives one by its row, None for one to leave out.

  Raises UserError where weights or the settings of the preprocessing cannot be loaded.
  """
  import jax

  from lafg_jax.models import clip

  model, params = _loaded(encoder, folder)
  with loading(encoder):
    prepare = preprocess.read(layout.read(folder).folder)
  model = model._replace(mean=prepare.mean, std=prepare.std)
  size, side = 0, model.image_size
  embed = jax.jit(lambda params, images: clip.embed_images(model, params, images))

  def encode(rows: Sequence[int]) -> tuple[Sequence[int], np.ndarray]:
    nonlocal size
    size = max(size, len(rows))
    pictures = {at: prepare.pixels(picture) for at in rows if (picture := shown(at)) is not None}
    if not pictures:
      return [], np.empty((0, 0), np.float32)
    batch = np.zeros((size, side, side, 3), np.uint8)
    with loading(encoder):
      batch[: len(pictures)] = np.stack(list(pictures.values()))
    return encoded(list(pictures), encoder, embed, params, batch)

  return encode


def _loaded(encoder: str, folder: Path) -> tuple[Any, dict[str, Any]]:
  """(a `clip.Clip`, its parameters); UserError, as others have it, where they cannot be loaded."""
  from lafg_jax.models import clip

  with loading(encoder):
    inner = layout.read(folder).folder
    try:
      return clip.load(str(inner), key=KEY)
    except UserError as error:
      reason = str(error).removeprefix(f"{KEY}={inner}").removeprefix(KEY)
      raise ValueError(reason.strip(": ")) from error


def encoded(
  rows: Sequence[int], encoder: str, embed: Callable[..., Any], *args: Any
) -> tuple[Sequence[int], np.ndarray]:
  """(rows, their features [r, d]) from embed(*args), whose later features are of padding.

  float32 is computed as such on any accelerator: other machines read what is kept. Raises UserError
  where memory runs out.
  """
  import jax

  from lafg_jax.runtime import jax_settings, out_of_memory

  try:
    with jax_settings.ours(), jax.default_matmul_precision("highest"):
      return rows, np.asarray(embed(*args))[: len(rows)]
  except jax.errors.JaxRuntimeError as error:
    if not out_of_memory.is_it(error):
      raise
    raise UserError(
      f"{KEY} {encoder!r} runs out of memory: pass a smaller --config.language.batch_size"
    ) from error
