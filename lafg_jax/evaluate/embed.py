"""Images to unit-norm embeddings, by jit over all devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging

from lafg_jax import devices, losses
from lafg_jax.data import pipeline
from lafg_jax.data.datasets import Dataset
from lafg_jax.errors import UserError
from lafg_jax.models import lora
from lafg_jax.models.embedder import INFERENCE, Embedder
from lafg_jax.progress import Progress

Embed = Callable[[np.ndarray], np.ndarray]


def make_embed(embedder: Embedder, params: dict[str, Any]) -> Embed:
  """A function uint8 [B, S, S, 3] -> unit-norm float32 [B, D], compiled once per B.

  Rows are spread over all local devices; B need not divide by their number. LoRA is merged into
  the kernels here, once.
  """
  inference = lora.merge(params, embedder.lora_alpha)
  return devices.spread(_apply(embedder), {k: x for k, x in inference.items() if k in INFERENCE})


@functools.lru_cache(maxsize=8)
def _apply(embedder: Embedder) -> Callable[[Any, jax.Array], jax.Array]:
  """One function for an architecture, so that other parameters of it compile nothing."""

  def apply(params: Any, images: jax.Array) -> jax.Array:
    v: Any = embedder.apply({"params": params}, images)
    return losses.unit(v)

  return apply


def embed_dataset(
  embed: Embed, dataset: Dataset, data: Any, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Embeds every readable image of a dataset, in its order.

  Returns:
    vectors [n, D] float32 and their dataset rows [n] int32; images that cannot be read are
    reported by path and left out.

  Raises:
    UserError: no image can be read.
  """
  vectors, rows = [], []
  unreadable: list[str] = []
  with Progress(f"embed {dataset.split}", len(dataset.labels), "images") as progress:
    for batch in pipeline.eval_batches(dataset, data, batch_size):
      real = batch["index"] >= 0
      vectors.append(embed(batch["image"])[real])
      rows.append(batch["index"][real])
      bad = batch["unreadable"][batch["unreadable"] >= 0]
      unreadable.extend(dataset.ids[row] for row in bad)
      progress.add(int(real.sum()) + len(bad))
  for path in unreadable:
    logging.warning("embed: cannot read %s; left out", path)
  if unreadable:
    logging.warning("embed: %d of %d images left out", len(unreadable), len(dataset.labels))
  if not sum(map(len, rows)):
    raise UserError(f"no image of the {dataset.split} split of {dataset.name} can be read")
  return np.concatenate(vectors), np.concatenate(rows)
