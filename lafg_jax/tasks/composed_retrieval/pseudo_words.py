"""Texts with a pseudo word: a vector in the place of a token's embedding, before positions.

The places are those of the `$` of a template, or of words that are masked, and are known before any
text is cut into tokens: a `$` in a user's own text is a token like any other. The texts around a
place are cut into tokens each by itself, so that no sign beside it becomes one token with it.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lafg_jax.models import clip as clips
from lafg_jax.utils.errors import UserError

# Where a template has the text of a query, and the objects that it adds.
_SLOTS = re.compile(r"\{(text|added)\}")
PLAIN = "a photo of $"
# Lengths are multiples of this, so that few shapes are compiled.
_LENGTHS = 16
# A place, among tokens.
_PLACE = -1


class Phrases(NamedTuple):
  """n texts with pseudo words: ids [n, L] int32, padded; ends [n] int32, where each is read.

  at: where pseudo words stand, [n] int32 of one place each, or bool [n, L] of any number.
  """

  ids: Any
  ends: Any
  at: Any


def phrases(
  reader: Any, template: str, texts: Sequence[str], added: Sequence[str] | None = None
) -> Phrases:
  """The template with each of `texts`: `at` [n] is the place of the template's own `$`.

  template: one `$`, as "a photo of $ that {text}"; 'added' [n] stand where it has '{added}'. A text
  that is too long is cut and its end token kept, as the tokenizer does; the pseudo word is kept.

  Raises UserError where the template has no `$`, or several.
  """
  more = [""] * len(texts) if added is None else added
  given = zip(texts, more, strict=True)
  return _tokens(reader, [_filled(template, text, extra) for text, extra in given])


def masked(reader: Any, texts: Sequence[Sequence[str]]) -> Phrases:
  """Texts by their parts, with a pseudo word between each two: `at` is bool [n, L].

  Places after the cut of a text that is too long are lost. A text that has none is `PLAIN`.
  """
  whole = _tokens(reader, texts, several=True)
  lost = np.flatnonzero(~whole.at.any(axis=1))
  if not len(lost):
    return whole
  rows = [PLAIN.split("$") if row in set(lost.tolist()) else x for row, x in enumerate(texts)]
  return _tokens(reader, rows, several=True)


def features(clip: Any, params: Any, rows: Phrases, words: jax.Array) -> jax.Array:
  """Texts with pseudo words to [B, D] float32, not normalised; a pure function.

  Args:
    clip: `models.clip.Clip`. params: its tree; 'text' alone is read.
    rows: B rows of `phrases` or `masked`.
    words: [B, width], the pseudo word of each text, the same one in all its places.
  """
  ids, ends, at = rows
  there = at if at.ndim == 2 else jnp.arange(ids.shape[1]) == at[:, None]
  x = clips.token_embeddings(clip, params, ids)
  x = jnp.where(there[..., None], words[:, None].astype(x.dtype), x)
  found: jax.Array = clip.text.apply({"params": params["text"]}, x, ends)
  return found


def plain_features(clip: Any, params: Any, ids: jax.Array, ends: jax.Array) -> jax.Array:
  """Texts without pseudo words to [B, D] float32, not normalised; a pure function."""
  x = clips.token_embeddings(clip, params, ids)
  found: jax.Array = clip.text.apply({"params": params["text"]}, x, ends)
  return found


def padded(reader: Any, ids: Sequence[list[int]], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """`reader.batch` of token lists, their length a multiple of 16 or the context, or `length`."""
  longest = -(-max(map(len, ids)) // _LENGTHS) * _LENGTHS
  batch: tuple[np.ndarray, np.ndarray] = reader.batch(ids, length or min(longest, reader.context))
  return batch


def widened(rows: Phrases, length: int, pad: int) -> Phrases:
  """The same texts, ids [..., L], padded on the right to `length` tokens, which nothing reads."""
  more = [(0, 0)] * (rows.ids.ndim - 1) + [(0, length - rows.ids.shape[-1])]
  at = np.pad(rows.at, more) if rows.at.dtype == bool else rows.at
  return Phrases(np.pad(rows.ids, more, constant_values=pad), rows.ends, at)


def _filled(template: str, text: str, added: str) -> list[str]:
  """What stands before and after the `$` of a template."""
  parts = template.split("$")
  if len(parts) != 2:
    raise UserError(
      f"the template {template!r}: it takes one $, the place of the pseudo word; pass one as "
      "'a photo of $ that {text}'"
    )
  said = {"text": text, "added": added}
  # In one pass: what is put in is not looked at again.
  return [_SLOTS.sub(lambda slot: said[slot[1]], part) for part in parts]


def _tokens(reader: Any, texts: Sequence[Sequence[str]], several: bool = False) -> Phrases:
  rows = [_with_places(reader, pieces, several) for pieces in _pieces(reader, texts)]
  # Any token but the end token, at which a text is read; it is replaced.
  filler = int(reader.end == 0)
  given = [[filler if token == _PLACE else token for token in row] for row in rows]
  ids, ends = padded(reader, given)
  at = np.zeros(ids.shape, bool)
  for place, row in zip(at, rows, strict=True):
    first = ids.shape[1] - len(row) if reader.left else 0
    place[first : first + len(row)] = np.asarray(row) == _PLACE
  return Phrases(ids, ends, at if several else at.argmax(axis=1).astype(np.int32))


def _pieces(reader: Any, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
  """The tokens of each part of each text."""
  every = list(dict.fromkeys(part for parts in texts for part in parts))
  known = dict(zip(every, reader.pieces(every), strict=True))
  return [[known[part] for part in parts] for parts in texts]


def _with_places(reader: Any, pieces: Sequence[list[int]], several: bool) -> list[int]:
  """One text as tokens with special ones, cut to the context, and its places."""
  most = reader.context - len(reader.before) - len(reader.after)
  first, *others = pieces
  # Of a single place, room is left for it.
  ids = list(first if several else first[: most - 1])
  for piece in others:
    ids += [_PLACE, *piece]
  return [*reader.before, *ids[:most], *reader.after]
