"""SentencePiece's Unigram models (spiece.model of SigLIP) for the `tokenizers` package.

The file is a protocol buffer, sentencepiece_model.proto of google/sentencepiece. Its few fields
that decide how a text is cut are read here, so that neither protobuf nor sentencepiece is needed.
"""

import itertools
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Numbers of fields: of the model; of a piece; of its trainer's and normaliser's settings.
_PIECES, _TRAINER, _NORMALISER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_ALGORITHM, _BYTE_FALLBACK = 3, 35
_CHARSMAP, _COLLAPSE = 2, 4
_UNIGRAM = 1
# The kind of the piece that stands for anything unknown.
_UNKNOWN = 2
# How SentencePiece writes a space.
SPACE = "\u2581"


class Pieces(NamedTuple):
  """A model: `prepare` each text, then cut it with `raw`, a `tokenizers.Tokenizer`."""

  raw: Any
  prepare: Callable[[str], str]
  names: list[str]  # of the pieces, by id


def load(path: Path) -> Pieces:
  """The model of a file; it cuts a text as SentencePiece cuts one that follows other text.

  So no space is put before it. Raises ValueError for a file of another kind, with what to do.
  """
  import tokenizers
  from tokenizers import Regex, models, pre_tokenizers

  try:
    found = dict(_read(path.read_bytes()))
    trainer, normaliser = (_single(found.get(kind, [b""])[-1]) for kind in (_TRAINER, _NORMALISER))
    pieces = [_single(piece) for piece in found[_PIECES]]
    vocab = [(piece[_TEXT].decode(), _float(piece.get(_SCORE, 0))) for piece in pieces]
    unknown = [piece.get(_KIND) for piece in pieces].index(_UNKNOWN)
    mapped = _mapper(normaliser.get(_CHARSMAP, b""))
  except (KeyError, IndexError, ValueError, AttributeError, struct.error) as error:
    raise ValueError(f"its {path.name} is no SentencePiece model, or a damaged one") from error
  if trainer.get(_ALGORITHM, _UNIGRAM) != _UNIGRAM:
    raise ValueError(
      f"its {path.name} is no Unigram model; let transformers save its tokenizer as tokenizer.json"
    )
  collapse = normaliser.get(_COLLAPSE, 1)

  def prepare(text: str) -> str:
    text = mapped(text)
    if not collapse:
      return text.replace(" ", SPACE)
    # A space sign at the end is taken for a space, one inside of the text is not.
    return re.sub(" +", SPACE, text).rstrip(SPACE)

  raw = tokenizers.Tokenizer(models.Unigram(vocab, unknown, bool(trainer.get(_BYTE_FALLBACK))))
  # No piece reaches into the next word.
  raw.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}+[^{SPACE}]*"), "isolated")
  return Pieces(raw, prepare, [text for text, _ in vocab])


def _mapper(charsmap: bytes) -> Callable[[str], str]:
  """The function that replaces parts of a text as a model's map says, the longest part first.

  The map is the size of a trie, the trie (a double array, of Darts-clone), and the replacements,
  each ended by a zero byte. `tokenizers` has the same as Precompiled, but takes accents together
  with what they stand on, and so differs from SentencePiece where there are several.
  """
  if not charsmap:
    return lambda text: text
  size = int.from_bytes(charsmap[:4], "little")
  units = struct.unpack(f"<{size // 4}I", charsmap[4 : 4 + size])
  replacements = charsmap[4 + size :]

  def longest(text: bytes, at: int) -> tuple[int, int]:
    """(length of the longest part from `at` on that is replaced, place of its replacement)."""
    best = (0, 0)
    node = _child(units[0])
    for end in range(at, len(text)):
      node ^= text[end]
      if node >= len(units) or units[node] & 0x800000FF != text[end]:
        break
      unit = units[node]
      node ^= _child(unit)
      if unit >> 8 & 1:
        best = (end + 1 - at, units[node] & 0x7FFFFFFF)
    return best

  def mapped(text: str) -> str:
    content, found, at = text.encode("utf-8", "replace"), bytearray(), 0
    while at < len(content):
      length, place = longest(content, at)
      if length:
        found += replacements[place : replacements.index(0, place)]
      else:
        length = 1
        while at + length < len(content) and content[at + length] & 0xC0 == 0x80:
          length += 1
        found += content[at : at + length]
      at += length
    return found.decode("utf-8", "replace")

  letters = bytes(range(32, 127))
  pairs = (bytes(pair) for pair in itertools.product(letters, repeat=2))
  if any(longest(pair, 0)[0] for pair in pairs):
    return mapped
  # Most texts: nothing in them is replaced.
  return lambda text: text if text.isascii() and text.isprintable() else mapped(text)


def _child(unit: int) -> int:
  """How far from a node of the trie its children stand."""
  return (unit >> 10) << ((unit & 512) >> 6)


def _read(message: bytes) -> Iterator[tuple[int, list[Any]]]:
  """(number, values in order) of each field: bytes, or integers as they are written."""
  values: dict[int, list[Any]] = {}
  at = 0
  while at < len(message):
    tag, at = _varint(message, at)
    value: Any
    if tag & 7 == 0:
      value, at = _varint(message, at)
    elif tag & 7 == 2:
      size, at = _varint(message, at)
      if at + size > len(message):
        raise ValueError("cut off")
      value, at = message[at : at + size], at + size
    else:
      size = {5: 4, 1: 8}[tag & 7]
      value, at = int.from_bytes(message[at : at + size], "little"), at + size
    values.setdefault(tag >> 3, []).append(value)
  yield from values.items()


def _single(message: bytes) -> dict[int, Any]:
  """{number: its last value} of a message."""
  return {number: values[-1] for number, values in _read(message)}


def _varint(message: bytes, at: int) -> tuple[int, int]:
  """(an integer of seven bits a byte, the place after it)."""
  value = shift = 0
  while True:
    byte = message[at]
    value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
    if byte < 128:
      return value, at


def _float(bits: int) -> float:
  return struct.unpack("<f", bits.to_bytes(4, "little"))[0]
