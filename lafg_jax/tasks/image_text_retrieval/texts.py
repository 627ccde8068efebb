"""Captions as tokens with room for prompts; features of plain texts by CLIP's own tower."""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.language.encoders import tokens
from lafg_jax.models import clip as clips
from lafg_jax.runtime import devices
from lafg_jax.tasks.image_text_retrieval import methods
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.progress import Progress

# A word, or signs between words.
_PART = re.compile(r"\w+|[^\w\s]+")
# Lengths of batches are multiples of this, so that few shapes are compiled.
_LENGTHS, _BATCH = 16, 128


class Tokens(NamedTuple):
  """n texts: ids [n, L] int32, padded; the places [n] they are read at; and words [n, L] int32.

  words: the number of the word in its text that each token is a piece of; -1 for special tokens and
  padding.
  """

  ids: np.ndarray
  ends: np.ndarray
  words: np.ndarray


def tokenizer(clip: Any) -> Any:
  """The tokenizer of a CLIP (`tokens.Tokenizer`); UserError where it cannot be read."""
  try:
    return tokens.load(Path(clip.tokens.folder))
  except ValueError as error:
    raise UserError(f"--config.model.pretrained: {error}") from error


def with_room(config: ConfigDict, reader: Any) -> Any:
  """The tokenizer that cuts captions so that the text prompts of a resolved config fit too.

  The captions are cut, their end token never.
  """
  method = methods.of(config)
  context = reader.context - (method.number if method.text else 0)
  special = len(reader.before) + len(reader.after)
  if context <= special:
    raise UserError(
      f"--config.prompts.number={method.number}: the text tower reads {reader.context} tokens, and "
      f"a caption has {special} special ones; pass {reader.context - special - 1} or less"
    )
  return reader._replace(context=context)


def tokenised(reader: Any, texts: Sequence[str], length: int = 0) -> Tokens:
  """The tokens of texts, padded to `length` or to the longest of them."""
  ids = reader.ids(texts)
  found, ends = reader.batch(ids, max(length, max(map(len, ids))))
  words = np.full(found.shape, -1, np.int32)
  first = len(reader.before)
  for row, (text, numbers) in enumerate(zip(ids, _words(reader, texts), strict=True)):
    start = (found.shape[1] - len(text) if reader.left else 0) + first
    numbers = numbers[: len(text) - first - len(reader.after)]
    words[row, start : start + len(numbers)] = numbers
  return Tokens(found, ends, words)


def parts(text: str) -> list[str]:
  """The words and signs of a text, which `Tokens.words` numbers."""
  return _PART.findall(text)


def _words(reader: Any, texts: Sequence[str]) -> list[list[int]]:
  """The number of the word of each token, special ones left out.

  A text is cut into words and signs. Where their tokens, one after the other, are not those of the
  whole text, each token is a word of its own.
  """
  parts = [_PART.findall(text) for text in texts]
  every = list(dict.fromkeys(part for of in parts for part in of))
  pieces = dict(zip(every, reader.pieces(every), strict=True)) if every else {}
  found = []
  for whole, of in zip(reader.pieces(texts), parts, strict=True):
    joined = [(piece, number) for number, part in enumerate(of) for piece in pieces[part]]
    same = [piece for piece, _ in joined] == whole
    found.append([number for _, number in joined] if same else list(range(len(whole))))
  return found


def plain_features(clip: Any, params: Any, reader: Any, texts: Sequence[str]) -> np.ndarray:
  """U [n, d] float32, L2-normalised: the features of texts by CLIP's own tower, without prompts."""
  embed = _plain_function(clip)({"text": params["text"]})
  return encoded(embed, reader, reader.ids(texts), "encode plain texts")


def token_features(clip: Any, params: Any, reader: Any, ids: Sequence[int]) -> np.ndarray:
  """[m, d] float32, L2-normalised: the features of texts of one token each."""
  embed = _plain_function(clip)({"text": params["text"]})
  alone = [[*reader.before, one, *reader.after] for one in ids]
  return encoded(embed, reader, alone, "encode single tokens")


def of_tokens(config: ConfigDict, model: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
  """The constants of `features.changes` for these ids, which training may not have read."""
  if not methods.reads_tokens(config):
    return {}
  read = np.unique(ids)
  rows = np.zeros(model.clip.text.vocabulary, np.int32)
  rows[read] = np.arange(len(read))
  of = token_features(model.clip, model.params, model.reader, read.tolist())
  return {"token_features": of, "token_rows": rows}


def encoded(
  embed: Callable[[np.ndarray], np.ndarray], reader: Any, ids: Sequence[list[int]], what: str
) -> np.ndarray:
  """The features [n, d] of token lists with their special tokens, in batches of like length.

  embed: rows int32 [B, L + 1], ids and the place each is read at, to [B, d].
  """
  # A power of 2: a few texts need no whole batch, and few shapes are compiled.
  size = min(_BATCH, 1 << (len(ids) - 1).bit_length())
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
def _plain_function(clip: Any) -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
  """`of(params)(rows) -> [B, d]`, compiled once for a CLIP."""
  return devices.spreading(functools.partial(_plain, clip))


def _plain(clip: Any, params: Any, rows: jax.Array) -> jax.Array:
  x = clips.token_embeddings(clip, params, rows[:, :-1])
  return clips.embed_texts(clip, params, x, rows[:, -1])
