"""What a retriever of given features takes in place of images: vectors of the user's encoder."""

from typing import Any

import numpy as np

from lafg_jax.evaluate.embed import Embed
from lafg_jax.inference import inputs
from lafg_jax.utils import padding
from lafg_jax.utils.errors import UserError


def embedded(embed: Embed, given: Any, width: int, batch_size: int, boxes: Any) -> np.ndarray:
  """Embeddings [B, D] float32 of unit norm of features [width] or [B, width].

  Args:
    embed: of the model, float32 [b, width] -> [b, D].
    given: floats of any array library, or a list of such; they are not scaled.
    boxes: what `Retriever.embed` was passed: None.

  Raises:
    UserError: they are no features of that width, not finite or all zeros, or there are boxes.
  """
  features = _checked(given, width)
  if boxes is not None:
    raise UserError("boxes cut images, and this model takes features; leave them out")
  size = inputs.whole(batch_size, "batch_size")
  found = []
  for start in range(0, len(features), size):
    rows = features[start : start + size]
    padded = padding.few_sizes(len(rows), size)
    found.append(embed(np.resize(rows, (padded, width)))[: len(rows)])
  return np.concatenate(found) if found else embed(np.ones((1, width), np.float32))[:0]


def _checked(given: Any, width: int) -> np.ndarray:
  taken = f"this model embeds features of another encoder, floats [{width}] or [n, {width}]"
  x = inputs.floats(given)
  if x is None:
    raise UserError(f"{taken}, and no images or texts: compute the features of them first")
  if not len(x):
    return np.zeros((0, width), np.float32)
  x = np.atleast_2d(x)
  if x.shape[1] != width:
    raise UserError(f"features are {x.shape}; {taken}")
  x = np.asarray(x, np.float32)
  wrong = ~(np.isfinite(x).all(axis=1) & x.any(axis=1))
  if wrong.any():
    raise UserError(f"features of row {int(wrong.argmax())} are not finite, or all zeros")
  return x
