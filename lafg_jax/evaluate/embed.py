"""Images to unit-norm embeddings, by jit over all devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from lafg_jax.data.datasets import Dataset
from lafg_jax.losses import contrastive
from lafg_jax.models import lora
from lafg_jax.models.embedder import INFERENCE, Embedder
from lafg_jax.runtime import devices, jax_settings
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.progress import Progress

Embed = Callable[[np.ndarray], np.ndarray]


def unit_embedding(embedder: Embedder, params: Any, images: jax.Array) -> jax.Array:
  """uint8 images [B, S, S, 3] to unit-norm float32 [B, D]; `params` as `inference_params` has them.

  Where they have a 'centre' [D], the mean embedding of training images (model.centre), it is
  subtracted from the embeddings of unit norm, which are scaled to unit norm again.
  Vectors [B, width] stand in for images where the embedder's backbone is `Given`.
  A pure function: what evaluation, a retriever and an export compute.
  """
  v: Any = embedder.apply({"params": params}, images)
  found = contrastive.unit(v)
  return contrastive.unit(found - params["centre"]) if "centre" in params else found


def inference_params(embedder: Embedder, params: dict[str, Any]) -> dict[str, Any]:
  """The parameters that embed an image, with LoRA merged into the kernels."""
  merged = lora.merge(params, embedder.lora_alpha)
  return {name: x for name, x in merged.items() if name in INFERENCE}


def make_embed(embedder: Embedder, params: dict[str, Any]) -> Embed:
  """A function uint8 [B, S, S, 3] -> unit-norm float32 [B, D], compiled once per B.

  Rows are spread over all local devices; B need not divide by their number.
  """
  return embedding_function(embedder)(params)


@functools.lru_cache(maxsize=8)
def embedding_function(embedder: Embedder) -> Callable[[dict[str, Any]], Embed]:
  """`make_embed` for any parameters of the embedder, compiled once for all of them."""
  spread = devices.spreading(functools.partial(unit_embedding, embedder))

  @jax_settings.ours()
  def with_params(params: dict[str, Any]) -> Embed:
    return spread(inference_params(embedder, params))

  return with_params


def embed_dataset(
  embeds: Sequence[Embed], dataset: Dataset, data: Any, batch_size: int
) -> tuple[list[np.ndarray], np.ndarray]:
  """Embeds every readable image of a dataset, in its order, by each model: decoded once for all.

  The processes of a run share the batches, `batch_size` images of all of them together, and each
  returns the whole.

  Returns:
    vectors [n, D] float32 of each model, and their dataset rows [n] int32; images that cannot be
    read are reported by path and left out.

  Raises:
    UserError: no image can be read.
  """
  # Here, so that a restored model embeds without the packages of training.
  from jax.experimental import multihost_utils

  from lafg_jax.data import pipeline

  count, share = len(dataset.labels), -(-batch_size // jax.process_count())
  mine = {"process_index": jax.process_index(), "process_count": jax.process_count()}
  vectors: list[list[np.ndarray]] = [[] for _ in embeds]
  rows = []
  with Progress(f"embed {dataset.split}", count, "images") as progress:
    for batch in pipeline.eval_batches(dataset, data, share, **mine):
      # Rows without an image stay, so that every process has the same number of rows.
      for embed, found in zip(embeds, vectors, strict=True):
        found.append(embed(batch["image"]))
      rows.append(batch["index"])
      for row in batch["unreadable"][batch["unreadable"] >= 0]:
        logging.warning("embed: cannot read %s; left out", dataset.ids[row])
      progress.add(int((batch["index"] >= 0).sum()) * jax.process_count())
  joined = ([np.concatenate(found) for found in vectors], np.concatenate(rows))
  all_vectors, all_rows = multihost_utils.process_allgather(joined, tiled=True)
  order = np.argsort(all_rows, kind="stable")
  order = order[all_rows[order] >= 0]
  if len(order) < count:
    logging.warning("embed: %d of %d images left out", count - len(order), count)
  if not len(order):
    raise UserError(f"no image of the {dataset.split} split of {dataset.name} can be read")
  return [found[order] for found in all_vectors], all_rows[order]
