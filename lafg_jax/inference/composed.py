"""Queries of an image with a text, as people hand them to a retriever: which belong together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lafg_jax.inference import inputs
from lafg_jax.utils.errors import UserError


def paired(found: np.ndarray, said: list[str]) -> tuple[np.ndarray, list[str]]:
  """Rows [n, d] of images and n texts; one image goes with all texts, one text with all images.

  Raises UserError where they are of other numbers.
  """
  images, texts = len(found), len(said)
  if images != texts and 1 not in (images, texts):
    raise UserError(
      f"search has {images} images and {texts} texts; it takes a text for each image, or one of "
      "either"
    )
  count = min(images, texts) and max(images, texts)
  rows = np.zeros(count, int) if images == 1 else np.arange(count)
  return found[rows], said * count if texts == 1 else said[:count]


def edits(given: Any, count: int) -> list[list[str]]:
  """The edited descriptions of each of `count` queries; None is none.

  given: of one query a text, or several; of more a text or a list of texts for each.
  Raises UserError for another number of them, and for what is no text.
  """
  if given is None:
    return [[] for _ in range(count)]
  if count == 1:
    one = given if _is_nested(given) else [given]
    return [inputs.texts(of) for of in one]
  alone = isinstance(given, str) or not hasattr(given, "__iter__")
  each = [given] if alone else list(given)
  if len(each) != count:
    raise UserError(
      f"edited has {len(each)} descriptions for {count} queries; it takes a text, or a list of "
      "texts, for each"
    )
  return [inputs.texts(of) for of in each]


def _is_nested(given: Any) -> bool:
  """Whether it is a list of one list of texts."""
  return isinstance(given, Sequence) and len(given) == 1 and not isinstance(given[0], str)
