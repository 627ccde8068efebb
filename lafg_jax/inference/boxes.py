"""Which part of each image a retriever shows: boxes as people hand them over."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from lafg_jax.inference import inputs
from lafg_jax.utils.errors import UserError

_NO_BOX = object()
_FOUR = "embed takes four finite numbers for each image"


def each(box: Any, images: Any, boxes: Any) -> Iterator[tuple[Any, Any]]:
  """Each image with its box; `box` where there are none."""
  shown = itertools.repeat(box) if boxes is None else iter(_checked(boxes, images))
  for image in inputs.each(images):
    given = next(shown, _NO_BOX)
    if given is _NO_BOX:
      raise UserError(f"boxes are {np.shape(boxes)}, and there are more images; {_FOUR}")
    yield image, given
  if boxes is not None and next(shown, _NO_BOX) is not _NO_BOX:
    raise UserError(f"boxes are {np.shape(boxes)}, and there are fewer images; {_FOUR}")


def _checked(boxes: Any, images: Any) -> np.ndarray:
  """Boxes [B, 4]; where the number of images is known before they are read, B is that."""
  try:
    boxes = np.asarray(boxes, np.float64)
  except (TypeError, ValueError) as error:
    raise UserError(f"boxes are no array of numbers; {_FOUR}") from error
  if boxes.shape == (4,) and inputs.is_one(images):
    boxes = boxes[None]
  count = len(images) if isinstance(images, list | tuple) else None
  if boxes.shape[1:] == (4,) and np.isfinite(boxes).all() and count in (None, len(boxes)):
    return boxes
  wanted = _FOUR if count is None else f"embed takes four finite numbers for each of {count} images"
  raise UserError(f"boxes are {boxes.shape}; {wanted}")
