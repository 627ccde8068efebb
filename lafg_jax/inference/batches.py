"""Images of a user, decoded in parallel and embedded in batches of few sizes."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import images as image_files
from lafg_jax.evaluate.embed import Embed
from lafg_jax.inference import inputs
from lafg_jax.utils import ground, padding
from lafg_jax.utils.errors import UserError


def embedded(
  data: ConfigDict,
  embed: Embed,
  shown: Iterator[tuple[Any, Any]],
  batch_size: int,
  reasons: dict[int, str] | None,
) -> Iterator[tuple[list[int], np.ndarray]]:
  """Rows and embeddings of images with their boxes, batch by batch.

  What cannot be read is left out and gets its reason, or is an error where `reasons` is None.
  """
  batch_size, colour = inputs.whole(batch_size, "batch_size"), ground.of(data)

  def crop(one: tuple[Any, Any]) -> np.ndarray | UserError:
    try:
      opened = inputs.opened(*one, colour)
    except UserError as error:
      if reasons is None:
        raise
      return error
    return image_files.resize_centre_crop(opened, data.resize_size, data.image_size, data.pad)

  start, size = 0, 0
  with ThreadPoolExecutor(os.cpu_count(), "decode") as pool:
    for batch in inputs.ahead(pool, crop, shown, batch_size):
      crops = {start + i: x for i, x in enumerate(batch) if isinstance(x, np.ndarray)}
      failed = {start + i: str(x) for i, x in enumerate(batch) if isinstance(x, UserError)}
      start += len(batch)
      if reasons is not None:
        reasons |= failed
      if crops:
        # After a whole batch another whole one.
        size = max(size, padding.few_sizes(len(crops), batch_size))
        found = list(crops.values())
        padded = np.stack(found + found[:1] * (size - len(found)))
        yield list(crops), embed(padded)[: len(found)]
