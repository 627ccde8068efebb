"""Concept words of images and phrases about them, which keep SEARLE's pseudo words words.

SEARLE draws a concept of the image's nearest names of Open Images V7 and a phrase that GPT-Neo
wrote about it. Here the names are a file's (mapping.concepts) or the nouns of the source's own
texts, and the phrases a file's (mapping.concept_phrases) or those of `CONTINUATIONS`.
"""

import collections
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.tasks.composed_retrieval import key_phrases
from lafg_jax.utils.errors import UserError

# What an inverted image is said in; SEARLE has 24 too.
TEMPLATES = (
  "a photo of $", "a photo of a $", "a photo of the $", "a picture of $", "an image of $",
  "a close photo of $", "a blurry photo of $", "a bright photo of $", "a dark photo of $",
  "a cropped photo of $", "a clean photo of $", "a good photo of $", "a bad photo of $",
  "a large photo of $", "a small photo of $", "a cool photo of $", "a nice photo of $",
  "a strange photo of $", "a rendering of $", "a drawing of $", "one photo of $",
  "there is $ in the photo", "this is $", "a photo of my $",
)  # fmt: skip
CONTINUATIONS = (
  "a photo of {} that is in the middle of the picture", "a photo of {} that is seen from the side",
  "a photo of {} that stands before a plain wall", "a photo of {} that is close to the camera",
  "a photo of {} that is lit by the sun", "a photo of {} that is far away",
  "a photo of {} that was taken in the evening", "a photo of {} that is on the ground",
  "a photo of {} that is beside a tree", "a photo of {} that is new and clean",
  "a photo of {} that is old and worn", "a photo of {} that many people know",
  "a photo of {} that is smaller than the others", "a photo of {} that belongs to a friend",
  "a photo of {} that was found by chance", "a photo of {} that is shown in a book",
)  # fmt: skip
# Concepts of an image among which one is drawn: in the inversion, and in the distillation.
OF_INVERSION, OF_DISTILLATION = 15, 150
# The most frequent key phrases of a source's texts.
_MOST = 2000
_KEYS = ("--config.mapping.concepts", "--config.mapping.concept_phrases")


class Concepts(NamedTuple):
  """names: the concept words. phrases: of each its phrases, as [before, after] of the word."""

  names: tuple[str, ...]
  phrases: tuple[tuple[tuple[str, str], ...], ...]


def of(config: ConfigDict, texts: Sequence[str]) -> Concepts:
  """The concepts of the config, or those of some texts.

  Raises UserError: a file is missing or of another form, or there are neither files nor texts.
  """
  mapping = config.mapping
  written = _read_phrases(mapping.concept_phrases) if mapping.concept_phrases else None
  if mapping.concepts:
    names = tuple(dict.fromkeys(x for line in _read(mapping.concepts, 0) if (x := line.strip())))
  else:
    names = tuple(written) if written is not None else frequent(texts)
  if not names:
    raise UserError(
      f"{_KEYS[0]}={mapping.concepts}: there are no concept words; pass a file with one a line, as "
      "the names of Open Images' classes"
    )
  if written is not None and (lacking := [name for name in names if name not in written]):
    raise UserError(f"{_KEYS[1]}={mapping.concept_phrases}: it has no phrases of {lacking[0]!r}")
  general = tuple((before, after) for before, after in (x.split("{}") for x in CONTINUATIONS))
  return Concepts(names, tuple(written[x] if written is not None else general for x in names))


def frequent(texts: Sequence[str]) -> tuple[str, ...]:
  """The most frequent key phrases of texts, by the rules, without their determiners."""
  counts: collections.Counter[str] = collections.Counter()
  for text in texts:
    clean = key_phrases.cleaned(text)
    for a, b in key_phrases.by_rules(clean):
      words = [x for x in clean[a:b].split() if x not in key_phrases.DETERMINERS]
      counts[" ".join(words)] += 1
  return tuple(name for name, _ in counts.most_common(_MOST))


def nearest(images: np.ndarray, names: np.ndarray, number: int) -> np.ndarray:
  """[n, k] the names [c, D] with the largest cosine to each image [n, D], best first, k <= c."""
  number = min(number, len(names))
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # noqa: E731
  similarity = unit(images.astype(np.float32)) @ unit(names).T
  return np.argsort(-similarity, axis=1, kind="stable")[:, :number].astype(np.int32)


def draw(
  concepts: Concepts, near: np.ndarray, rng: np.random.Generator
) -> list[tuple[str, tuple[str, str]]]:
  """(concept word, a phrase around it) for each row of `near` [n, k], numbers of concepts."""
  found = []
  for row, place in zip(near, rng.random((len(near), 2)), strict=True):
    concept = int(row[int(place[0] * len(row))])
    phrases = concepts.phrases[concept]
    found.append((concepts.names[concept], phrases[int(place[1] * len(phrases))]))
  return found


def _read(path: str, key: int) -> list[str]:
  try:
    return Path(path).read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    why = getattr(error, "strerror", None) or "it is no text in UTF-8"
    raise UserError(f"{_KEYS[key]}={path}: it cannot be read ({why})") from error


def _read_phrases(path: str) -> dict[str, tuple[tuple[str, str], ...]]:
  where = f"{_KEYS[1]}={path}"
  try:
    found: Any = json.loads("\n".join(_read(path, 1)))
  except json.JSONDecodeError as error:
    raise UserError(f"{where}: it is no JSON ({error})") from error
  is_map = isinstance(found, dict) and all(isinstance(x, list) and x for x in found.values())
  if not is_map or not all(isinstance(text, str) for x in found.values() for text in x):
    raise UserError(f"{where}: it takes an object {{concept: [phrase, ...]}}")
  return {name: tuple(_around(where, name, text) for text in x) for name, x in found.items()}


def _around(where: str, name: str, phrase: str) -> tuple[str, str]:
  match = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", phrase, re.IGNORECASE)
  if match is None:
    raise UserError(f"{where}: the phrase {phrase[:60]!r} of {name!r} does not have that word")
  return phrase[: match.start()], phrase[match.end() :]
