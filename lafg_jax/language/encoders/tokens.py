"""Texts -> tokens of CLIP, SigLIP and SigLIP 2, by the `tokenizers` package alone.

The ids are those of transformers' tokenizers, whose files are read: tokenizer.json, or vocab.json
and merges.txt (CLIP), or spiece.model (SigLIP). open_clip's own layout takes a tokenizer.json.
"""

import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.language.encoders import layout, spiece

FAMILIES = ("clip", "siglip", "siglip2")
# The folder of a workdir with a model's tokenizer, and the files that `load` reads beside a config.
FOLDER = "tokenizer"
FILES = (
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
  "spiece.model",
)  # fmt: skip
# What transformers assumes where config.json leaves it out.
_POSITIONS = {"clip": 77, "siglip": 64, "siglip2": 64}
_CLIP_END, _OLD_CLIP_END = 49407, 2
# Tokenizers of transformers whose special tokens have these names unless the files say otherwise,
# and that pad on the left.
_CLIP_NAMES = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
_CLIP_NAMES |= {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_GEMMA_NAMES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
_SIGLIP_NAMES = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
_NAMES = {
  "CLIPTokenizer": _CLIP_NAMES,
  "GemmaTokenizer": _GEMMA_NAMES,
  "Siglip2Tokenizer": _GEMMA_NAMES,
  "SiglipTokenizer": _SIGLIP_NAMES,
}
_ON_THE_LEFT = ("GemmaTokenizer", "Siglip2Tokenizer")
_OPEN_CLIP = "open_clip_config.json"
# What CLIP's words are before they are cut into pieces (openai/CLIP, simple_tokenizer.py).
_CLIP_WORDS = (
  r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Reading(NamedTuple):
  """What a model's config says of its texts."""

  family: str  # one of FAMILIES; '' for any other model
  positions: int
  end: int | None  # CLIP's end token, where it is known
  clean: bool  # open_clip's canonical form: lower case, no punctuation


class Tokenizer(NamedTuple):
  """How one encoder reads text."""

  pieces: Callable[[Sequence[str]], list[list[int]]]  # ids without special tokens
  context: int  # tokens at most, special ones included
  start: int | None
  end: int
  pad: int
  before: tuple[int, ...]  # special tokens around each text
  after: tuple[int, ...]
  # SigLIP: all texts are padded to the context, and its last position is read.
  fixed: bool
  left: bool  # padding goes before the text
  once: bool  # a text that ends with the end token gets no second one

  def lengths(self, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before any cut, special tokens included."""
    return [len(self._whole(ids)) for ids in self.pieces(texts)]

  def ids(self, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text with special ones, cut to the context; the end token stays."""
    most = self.context - len(self.before) - len(self.after)
    return [self._whole(ids[:most]) for ids in self.pieces(texts)]

  def _whole(self, ids: list[int]) -> list[int]:
    after = () if self.once and ids[-1:] == [self.end] else self.after
    return [*self.before, *ids, *after]

  def batch(self, ids: Sequence[list[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [B, L] int32, the place [B] int32 that each text is read at) of `ids`.

    L is `length`, which must hold the longest; a fixed context stands in its place. CLIP is read at
    its first end token, SigLIP at the last position.
    """
    length = self.context if self.fixed else length
    found = np.full((len(ids), length), self.pad, np.int32)
    ends = np.full(len(ids), length - 1, np.int32)
    for row, text in enumerate(ids):
      first = length - len(text) if self.left else 0
      found[row, first : first + len(text)] = text
      if not self.fixed:
        ends[row] = first + text.index(self.end)
    return found, ends


def reading(folder: Path) -> Reading:
  """What the config of a model's folder says of texts; of another family, only that.

  Raises ValueError where config.json is no JSON object.
  """
  if not (folder / "config.json").is_file():
    return _of_open_clip(layout.read_object(folder / _OPEN_CLIP))
  config = layout.read_object(folder / "config.json")
  family = str(config.get("model_type", "")).removesuffix("_text_model")
  if family not in FAMILIES:
    return Reading("", 0, None, False)
  # Older files of CLIP have the same under a second name, which counts.
  text = {**(config.get("text_config") or {}), **(config.get("text_config_dict") or {})}
  text = text or ({} if "vision_config" in config else config)
  positions = int(text.get("max_position_embeddings", _POSITIONS[family]))
  end = text.get("eos_token_id", _CLIP_END) if family == "clip" else None
  # OpenAI's files have a number that the model was not trained with.
  return Reading(family, positions, None if end == _OLD_CLIP_END else end, False)


def _of_open_clip(config: dict[str, Any]) -> Reading:
  if not config:
    return Reading("", 0, None, False)
  text = config.get("model_cfg", {}).get("text_cfg")
  if not isinstance(text, dict):
    raise ValueError(f"its {_OPEN_CLIP} has no text_cfg")
  last = text.get("pool_type") == "last"
  clean = text.get("tokenizer_kwargs", {}).get("clean") == "canonicalize"
  return Reading("siglip" if last else "clip", int(text.get("context_length", 77)), None, clean)


def load(
  folder: Path, limit: int = 0, lower: bool = False, told: Reading | None = None
) -> Tokenizer:
  """The tokenizer of a folder with CLIP, SigLIP or SigLIP 2.

  Args:
    folder: with config.json and the tokenizer's files, or in open_clip's layout.
    limit: tokens at most, in place of what the tokenizer's own settings say; 0 takes those. No
      model reads more than it has positions for.
    lower: lower case for CLIP, whose tokenizers nearly all do that themselves.
    told: what the model's config says; None reads it in the folder.

  Raises:
    ValueError: no tokenizer that can be read, or one that does not fit the model.
  """
  told = reading(folder) if told is None else told
  settings, kind = _settings(folder)
  names = {name: _content(settings.get(name)) for name in _CLIP_NAMES}
  names = _NAMES.get(kind, {}) | {name: text for name, text in names.items() if text}
  fixed = told.family != "clip"
  lower = settings.get("do_lower_case", True) if fixed else lower
  raw, cut = _cutter(folder, told, kind, names, lower)
  before, after = _around(raw, settings, kind, names)
  start, end = names.get("bos_token", ""), names.get("eos_token", "")
  last = after[-1] if after else _id(raw, end)
  if last is None:
    raise ValueError("its tokenizer has no end token")
  _check_end(told, after, last)
  most = context(folder, limit, told)
  if most <= len(before) + len(after):
    special = len(before) + len(after)
    raise ValueError(f"it reads {most} tokens of a text, {special} of them special ones")
  pad = _id(raw, names.get("pad_token", ""))
  side = settings.get("padding_side") or ("left" if kind in _ON_THE_LEFT else "right")
  return Tokenizer(
    *(cut, most, before[0] if before else _id(raw, start), last),
    pad=last if pad is None else pad,
    before=before,
    after=after,
    fixed=fixed,
    left=fixed and side == "left",
    once=kind == "SiglipTokenizer",
  )


def context(folder: Path, limit: int = 0, told: Reading | None = None) -> int:
  """The most tokens of a text that are read, special ones included; arguments are as in `load`."""
  positions, (settings, kind) = (told or reading(folder)).positions, _settings(folder)
  length = limit or settings.get("model_max_length") or (64 if kind == "SiglipTokenizer" else 0)
  return int(min(positions, length) if length > 0 else positions)


def _settings(folder: Path) -> tuple[dict[str, Any], str]:
  """(a tokenizer's settings, the class of transformers that it is of, without 'Fast')."""
  names = ("special_tokens_map.json", "tokenizer_config.json")
  first, second = (layout.read_object(folder / name) for name in names)
  settings = first | second
  kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
  if not kind and (folder / "spiece.model").is_file():
    kind = "SiglipTokenizer"
  return settings, kind


def _check_end(told: Reading, after: Sequence[int], last: int) -> None:
  """CLIP is read at its end token: there must be one, that of the model."""
  if told.family != "clip":
    return
  if not after:
    raise ValueError("its tokenizer puts no end token after a text, where CLIP is read")
  if told.end is not None and told.end != last:
    raise ValueError(
      f"its tokenizer ends texts with token {last}, and its config.json names {told.end}: do "
      "both belong together?"
    )


def _cutter(
  folder: Path, told: Reading, kind: str, names: dict[str, str], lower: bool
) -> tuple[Any, Callable[[Sequence[str]], list[list[int]]]]:
  """(a `tokenizers.Tokenizer`, the function that cuts texts into ids without special tokens)."""
  if kind == "SiglipTokenizer" and (folder / "spiece.model").is_file():
    # transformers reads this file, and no tokenizer.json beside it.
    pieces = spiece.load(folder / "spiece.model")
    return pieces.raw, _of_siglip(pieces, set(names.values()), lower)
  raw = _from_files(folder, kind, names)
  raw.no_truncation()
  raw.no_padding()
  clean = told.clean or kind == "SiglipTokenizer"

  def cut(texts: Sequence[str]) -> list[list[int]]:
    if told.clean:
      texts = [text.replace("_", " ") for text in texts]
    shown = [_canonical(text, lower) if clean else _cased(text, lower) for text in texts]
    return [found.ids for found in raw.encode_batch(shown, add_special_tokens=False)]

  return raw, cut


def _from_files(folder: Path, kind: str, names: dict[str, str]) -> Any:
  """A `tokenizers.Tokenizer` from tokenizer.json or vocab.json and merges.txt."""
  import tokenizers

  path = folder / "tokenizer.json"
  if path.is_file():
    try:
      return tokenizers.Tokenizer.from_file(str(path))
    # The package raises nothing more special.
    except Exception as error:
      raise ValueError(f"its tokenizer.json cannot be read: {error}") from error
  vocab, merges = folder / "vocab.json", folder / "merges.txt"
  if vocab.is_file() and merges.is_file():
    return _of_clip(vocab, merges, _CLIP_NAMES | names)
  others = [path.name for path in folder.glob("*.model")]
  found = f", only {sorted(others)[0]}, which is not read" if others else ""
  raise ValueError(
    f"it lacks a tokenizer: no tokenizer.json{found}; transformers' AutoTokenizer writes one with "
    "save_pretrained"
  )


def _of_clip(vocab: Path, merges: Path, names: dict[str, str]) -> Any:
  """CLIP's byte-level BPE: NFC, one space, lower case; words; a piece at the end has '</w>'."""
  import tokenizers
  from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

  try:
    model = models.BPE.from_file(
      *(str(vocab), str(merges)),
      unk_token=names["unk_token"],
      end_of_word_suffix="</w>",
    )
  except Exception as error:
    raise ValueError(f"its {vocab.name} and {merges.name} cannot be read: {error}") from error
  raw = tokenizers.Tokenizer(model)
  space = normalizers.Replace(Regex(r"\s+"), " ")
  raw.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
  words = pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True)
  byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
  raw.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
  raw.add_special_tokens([AddedToken(name, normalized=False) for name in set(names.values())])
  end, start = ((names[key], raw.token_to_id(names[key])) for key in ("eos_token", "bos_token"))
  # Its stubs know no arguments.
  roberta: Any = processors.RobertaProcessing
  raw.post_processor = roberta(end, start, False, False)
  return raw


def _of_siglip(
  pieces: spiece.Pieces, special: set[str], lower: bool
) -> Callable[[Sequence[str]], list[list[int]]]:
  """Cuts texts as transformers' SiglipTokenizer: in canonical form, around special tokens."""
  number = {name: i for i, name in enumerate(pieces.names)}
  known = [re.escape(name) for name in sorted(special, key=len, reverse=True) if name in number]
  between = re.compile(rf"\s*({'|'.join(known)})\s*") if known else None

  def cut_one(text: str) -> list[int]:
    if lower:
      text = text.lower()
    text = spiece.SPACE + text.replace(spiece.SPACE, " ")
    found: list[int] = []
    for i, part in enumerate(between.split(text) if between else [text]):
      if i % 2:
        found.append(number[part])
      elif part:
        shown = pieces.prepare(_canonical(part, lower))
        found += pieces.raw.encode(shown, add_special_tokens=False).ids
    return found

  return lambda texts: [cut_one(text) for text in texts]


def _canonical(text: str, lower: bool) -> str:
  """SigLIP's training texts: no punctuation of ASCII, one space between words (big_vision)."""
  text = _cased(text, lower).translate(str.maketrans("", "", string.punctuation))
  return re.sub(r"\s+", " ", text).strip()


def _cased(text: str, lower: bool) -> str:
  return text.lower() if lower else text


def _around(
  raw: Any, settings: dict[str, Any], kind: str, names: dict[str, str]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The special tokens that stand before and after each text.

  Those of tokenizer.json, or else what the settings ask for in so many words.
  """
  if kind == "SiglipTokenizer":
    return (), (_needed(raw, names, "eos_token"),)
  asked = [name for name in ("add_bos_token", "add_eos_token") if name in settings]
  if asked and kind != "CLIPTokenizer":
    found = [
      (_needed(raw, names, f"{name}_token"),) if settings.get(f"add_{name}_token") else ()
      for name in ("bos", "eos")
    ]
    return found[0], found[1]
  for probe in ("a", "the", "0", "."):
    inner = raw.encode(probe, add_special_tokens=False).ids
    whole = raw.encode(probe).ids
    for start in range(len(whole) - len(inner) + 1 if inner else 0):
      if whole[start : start + len(inner)] == inner:
        return tuple(whole[:start]), tuple(whole[start + len(inner) :])
  raise ValueError("it lacks a tokenizer: the one in its folder knows no text")


def _needed(raw: Any, names: dict[str, str], name: str) -> int:
  found = _id(raw, names.get(name, ""))
  if found is None:
    raise ValueError(f"its tokenizer has no {name} {names.get(name, '')!r}")
  return found


def _id(raw: Any, token: str) -> int | None:
  return raw.token_to_id(token) if token else None


def _content(token: Any) -> str:
  """The text of a special token in a settings file: a string, or an object with `content`."""
  return str(token.get("content") or "") if isinstance(token, dict) else str(token or "")
