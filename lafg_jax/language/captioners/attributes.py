"""Captions of what CLIP sees: for each attribute the value whose phrases are nearest to an image.

No language model writes here: captions list phrases of the chosen values, each time in another
order and, where there are several phrases for a value, in other words; of a table the type comes
first ('a photo of shirts, for men and blue.'). The phrases are those of
finches' captions, those by which queries of a table speak of its columns, or a JSON {attribute:
{value: phrase, or list of phrases}}.

There are two ways to choose. 'phrases' takes each attribute by itself, by the mean feature of the
phrases of each value (zero-shot classification, Radford et al., ICML 2021). 'captions' writes many
captions with random values, and the nearest ones vote on all attributes: of finches, a part's
colour alone does not tell CLIP where it is.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lafg_jax.data.composed_readers import attributes as tables
from lafg_jax.finches import text as finch_text
from lafg_jax.language.encoders import load, runtimes
from lafg_jax.utils import random_streams
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise

_START, _FINCH = "a photo of", "A finch with"

Phrases = dict[str, dict[str, tuple[str, ...]]]
Captioner = Callable[[list[np.ndarray]], list[list[str]]]
Encode = Callable[[list[str]], np.ndarray]
# Image features [B, d] -> which value of each attribute, [B, attributes].
Choose = Callable[[np.ndarray], np.ndarray]
_BATCH = 64  # texts encoded at once


# Of 'captions': how many are written, and how many vote, the k-th nearest with 1 / k.
_WRITTEN, _VOTES = 2048, 32
# The stream of their words; those of images are CRC-32s, which are below.
_RANDOM_CAPTIONS = 1 << 32


class Attributes(NamedTuple):
  """What is looked for in images: phrases of each value, and what a caption begins with.

  way: 'phrases' or 'captions', as above. fixed: so many attributes come first, in their order.
  """

  phrases: Phrases
  start: str
  way: str
  fixed: int = 0


def make(config: Any) -> Captioner:
  """A captioner: images uint8 [H, W, 3] to captioner.number captions each.

  Args:
    config: reads the section captioner: file, model, number, prompt, seed and
      wrong; and where queries come from.

  Raises:
    UserError: phrases are missing or malformed, or CLIP cannot be loaded.
  """
  section, looked_for = config.captioner, of(config)
  choose = reader(model_of(config), looked_for)

  def captions(images: list[np.ndarray]) -> list[list[str]]:
    return [
      _told(section, looked_for, values, image)
      for values, image in zip(choose(images), images, strict=True)
    ]

  return captions


def model_of(config: Any) -> str:
  """The CLIP that reads: captioner.model, or else the one of the queries."""
  return str(config.captioner.model or config.model.pretrained)


def check(config: Any) -> None:
  """Raises UserError where `make` would for its phrases, or for a CLIP that is not there."""
  of(config)
  with _naming_the_key():
    runtimes.check(model_of(config))


def of(config: Any) -> Attributes:
  """The phrases of captioner.file, or those of finches or of a table's columns."""
  section, source = config.captioner, config.composed.source
  start = _START if section.prompt == "auto" else section.prompt
  if section.file:
    return Attributes(read_phrases(section.file), start, "phrases")
  if source == "attributes":
    return Attributes(tables.spoken(config), start, "phrases", 1)
  if source != "finches":
    raise UserError(
      f"--config.captioner.kind=attributes with composed.source={source}: pass "
      "--config.captioner.file=FILE, a JSON {attribute: {value: phrase}}"
    )
  phrases = {
    name: {value: tuple(finch_text.phrases((name, value))) for value in values}
    for name, values in finch_text.ATTRIBUTES.items()
  }
  return Attributes(phrases, _FINCH, "captions")


def read_phrases(path: str) -> Phrases:
  """A JSON {attribute: {value: phrase, or list of phrases}}; UserError where it is none."""
  where = f"--config.captioner.file={path}"
  try:
    found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
  except (OSError, ValueError) as error:
    raise UserError(f"{where} is no JSON {{attribute: {{value: phrase}}}} ({error})") from error
  if not isinstance(found, dict) or not found:
    raise UserError(f"{where} is no JSON {{attribute: {{value: phrase}}}}: it has no attribute")
  return {name: _values(f"{where}: attribute {name!r}", of) for name, of in found.items()}


def reader(encoder: str, looked_for: Attributes) -> Callable[[list[np.ndarray]], list[list[str]]]:
  """The function images uint8 [H, W, 3] -> the chosen value of each attribute, in their order.

  Raises UserError where the encoder, as `language.encoder` names one, cannot be loaded.
  """
  with _naming_the_key():
    folder, _ = load.resolve(encoder)
    runtime = runtimes.of(encoder, folder, "auto", images=True)
    chosen = {"phrases": _by_phrases, "captions": _by_captions}[looked_for.way]
    choose = chosen(looked_for.phrases, looked_for.start, _texts(runtime, encoder, folder))
    shown: list[np.ndarray] = []
    encode = runtime.image_encoder(encoder, folder, lambda row: Image.fromarray(shown[row]))

  def read(images: list[np.ndarray]) -> list[list[str]]:
    if not images:
      return []
    shown[:] = images
    with _naming_the_key():
      columns = choose(encode(range(len(images)))[1])
    values = [list(of) for of in looked_for.phrases.values()]
    return [[of[k] for of, k in zip(values, row, strict=True)] for row in columns]

  return read


def _by_phrases(phrases: Phrases, start: str, encode: Encode) -> Choose:
  """Each attribute by itself: the value whose phrases' mean is nearest."""
  texts = [f"{start} {said}." for of in phrases.values() for these in of.values() for said in these]
  features = iter(encode(texts))
  classifiers = []
  for of in phrases.values():
    means = [np.mean([next(features) for _ in these], axis=0) for these in of.values()]
    classifiers.append(l2_normalise(np.stack(means), "phrases of an attribute"))
  return lambda images: np.stack([(images @ w.T).argmax(axis=1) for w in classifiers], axis=1)


def _by_captions(phrases: Phrases, start: str, encode: Encode) -> Choose:
  """All attributes together: the nearest of many captions with random values vote."""
  rng = random_streams.captions_of_image(0, _RANDOM_CAPTIONS)
  sizes = [len(of) for of in phrases.values()]
  values = (rng.random((_WRITTEN, len(sizes))) * sizes).astype(int)  # [n, attributes]
  names = [(name, list(of)) for name, of in phrases.items()]
  texts = [
    _caption(phrases, start, [(name, of[k]) for (name, of), k in zip(names, row, strict=True)], rng)
    for row in values
  ]
  features = encode(texts)
  # Mean votes of a value, [n, values] for each attribute: values are not drawn equally often.
  shares = [np.eye(size)[column] for size, column in zip(sizes, values.T, strict=True)]
  shares = [share / np.maximum(share.sum(axis=0), 1) for share in shares]
  weights = 1 / np.arange(1, _VOTES + 1)

  def choose(images: np.ndarray) -> np.ndarray:
    nearest = np.argsort(-(images @ features.T), axis=1, kind="stable")[:, :_VOTES]
    votes = [(weights[:, None] * share[nearest]).sum(axis=1) for share in shares]
    return np.stack([vote.argmax(axis=1) for vote in votes], axis=1)

  return choose


def _texts(runtime: runtimes.Runtime, encoder: str, folder: Path) -> Encode:
  """The function texts -> L2-normalised features [n, d], in batches of like length."""
  tokenizer = runtime.load_reader(encoder, folder)

  def encode(texts: list[str]) -> np.ndarray:
    of_rows = runtime.text_encoder(encoder, folder, tokenizer, texts)
    order = np.argsort(tokenizer.lengths(texts), kind="stable")
    batches = [order[k : k + _BATCH] for k in range(0, len(order), _BATCH)]
    found = np.concatenate([of_rows(rows.tolist())[1] for rows in batches])
    return found[np.argsort(order, kind="stable")]

  return encode


def _told(section: Any, looked_for: Attributes, values: list[str], image: np.ndarray) -> list[str]:
  """section.number captions that list the values, some of them wrong under section.wrong."""
  content = zlib.crc32(np.ascontiguousarray(image).tobytes())
  rng = random_streams.captions_of_image(section.seed, content)
  claims = []
  for (name, options), value in zip(looked_for.phrases.items(), values, strict=True):
    if rng.random() < section.wrong:
      value = finch_text.choose(rng, [other for other in options if other != value])
    claims.append((name, value))
  phrases, start, _, fixed = looked_for
  return [_caption(phrases, start, claims, rng, fixed) for _ in range(section.number)]


def _caption(
  phrases: Phrases,
  start: str,
  claims: Sequence[finch_text.Claim],
  rng: np.random.Generator,
  fixed: int = 0,
) -> str:
  """A sentence that lists what is claimed: the first `fixed`, then the others in random order."""
  ordered = [*claims[:fixed], *finch_text.shuffled(rng, claims[fixed:])]
  *others, last = (finch_text.choose(rng, phrases[name][value]) for name, value in ordered)
  listed = f"{', '.join(others)} and {last}" if others else last
  return f"{start} {listed}."


def _values(where: str, found: Any) -> dict[str, tuple[str, ...]]:
  if not isinstance(found, dict) or len(found) < 2:
    raise UserError(f"{where} has no two values to choose from: it takes {{value: phrase}}")
  values = {}
  for value, said in found.items():
    phrases = [said] if isinstance(said, str) else said
    good = isinstance(phrases, list) and all(isinstance(x, str) and x.strip() for x in phrases)
    if not good or not phrases:
      raise UserError(f"{where}: value {value!r} has no phrase; it takes a text, or a list of them")
    values[value] = tuple(phrases)
  return values


@contextmanager
def _naming_the_key() -> Iterator[None]:
  """Errors name captioner.model, and not the key of text encoders."""
  try:
    yield
  except UserError as error:
    told = str(error).replace("--config.language.encoder=", "--config.captioner.model=")
    told = told.replace(load.KEY, "captioner.model")
    raise UserError(told.replace("language.batch_size", "captioner.batch_size")) from error
