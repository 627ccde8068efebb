"""Captions as tokens, with the words they are pieces of, and with room for prompts."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.language.encoders import clip_texts
from lafg_jax.tasks.image_text_retrieval import methods
from lafg_jax.utils.errors import UserError

# A word, or signs between words.
_PART = re.compile(r"\w+|[^\w\s]+")


class Tokens(NamedTuple):
  """n texts: ids [n, L] int32, padded; the places [n] they are read at; and words [n, L] int32.

  words: the number of the word in its text that each token is a piece of; -1 for special tokens and
  padding.
  """

  ids: np.ndarray
  ends: np.ndarray
  words: np.ndarray


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


def of_tokens(config: ConfigDict, model: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
  """The constants of `features.changes` for these ids, which training may not have read."""
  if not methods.reads_tokens(config):
    return {}
  read = np.unique(ids)
  rows = np.zeros(model.clip.text.vocabulary, np.int32)
  rows[read] = np.arange(len(read))
  of = clip_texts.token_features(model.clip, model.params, model.reader, read.tolist())
  return {"token_features": of, "token_rows": rows}
