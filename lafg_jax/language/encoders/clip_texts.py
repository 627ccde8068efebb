"""Texts -> features of a loaded CLIP (`models.clip.Clip`), in batches of like length."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from lafg_jax.language.encoders import tokens
from lafg_jax.models import clip as clips
from lafg_jax.runtime import devices
from lafg_jax.utils import padding
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.progress import Progress

# Lengths of batches are multiples of this, so that few shapes are compiled.
_LENGTHS, _BATCH = 16, 128


def tokenizer(clip: Any) -> Any:
  """The tokenizer of a CLIP (`tokens.Tokenizer`); UserError where it cannot be read."""
  try:
    return tokens.load(Path(clip.tokens.folder))
  except ValueError as error:
    raise UserError(f"--config.model.pretrained: {error}") from error


def warn_of_cuts(reader: Any, said: Sequence[str]) -> None:
  """Logs how many texts are longer than a tokenizer's context, and are cut."""
  if cut := sum(length > reader.context for length in reader.lengths(said)):
    logging.warning(
      "%d of %d texts are longer than the %d tokens that the model reads, and were cut",
      *(cut, len(said), reader.context),
    )


def plain_features(
  clip: Any, params: Any, reader: Any, texts: Sequence[str], what: str = "encode plain texts"
) -> np.ndarray:
  """U [n, d] float32, L2-normalised: the features of texts by CLIP's own tower, without prompts."""
  embed = plain_function(clip)({"text": params["text"]})
  return encoded(embed, reader, reader.ids(texts), what)


def token_features(clip: Any, params: Any, reader: Any, ids: Sequence[int]) -> np.ndarray:
  """[m, d] float32, L2-normalised: the features of texts of one token each."""
  embed = plain_function(clip)({"text": params["text"]})
  alone = [[*reader.before, one, *reader.after] for one in ids]
  return encoded(embed, reader, alone, "encode single tokens")


def encoded(
  embed: Callable[[np.ndarray], np.ndarray], reader: Any, ids: Sequence[list[int]], what: str
) -> np.ndarray:
  """The features [n, d] of token lists with their special tokens, in batches of like length.

  embed: rows int32 [B, L + 1], ids and the place each is read at, to [B, d].
  """
  # A few texts need no whole batch.
  size = padding.few_sizes(len(ids), _BATCH)
  order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
  found: list[np.ndarray] = []
  with Progress(what, len(ids), "texts") as progress:
    for first in range(0, len(order), size):
      rows = order[first : first + size]
      longest = -(-len(ids[rows[-1]]) // _LENGTHS) * _LENGTHS
      padded = [ids[row] for row in rows] + [ids[rows[0]]] * (size - len(rows))
      batch, ends = reader.batch(padded, min(longest, reader.context))
      found.append(embed(np.concatenate([batch, ends[:, None]], axis=1))[: len(rows)])
      progress.add(len(rows))
  return np.concatenate(found)[np.argsort(order)]


@functools.lru_cache(maxsize=2)
def plain_function(clip: Any) -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
  """`of(params)(rows) -> [B, d]`, as `encoded` takes it, compiled once for a CLIP."""
  return devices.spreading(functools.partial(_plain, clip))


def _plain(clip: Any, params: Any, rows: jax.Array) -> jax.Array:
  x = clips.token_embeddings(clip, params, rows[:, :-1])
  return clips.embed_texts(clip, params, x, rows[:, -1])
