"""Batches beyond memory: rows are embedded so many at a time, and the loss sees all of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from lafg_jax.runtime import distributed, out_of_memory
from lafg_jax.utils.files import fingerprint, replacing

# What was chosen, for the next start.
FILE = "rows_per_chunk.json"
_GIB = 2**30


def in_chunks(embed: Callable[..., Any], size: int) -> Callable[..., Any]:
  """`Objective.embed` of a device's rows, at most `size` of them at a time; 0 embeds all at once.

  Forward, the activations of a chunk are dropped once its embeddings are there. Backward, each
  chunk is computed again and takes its part of the loss's gradient: gradient cache (Gao et al.,
  "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021). The
  gradient is that of the undivided batch, for 4 passes in place of 3. Chunks are as even as can be;
  the last one is filled with rows whose embeddings are dropped.
  """

  def chunked(params, averages, rows, constants, keys):
    count = len(keys)
    chunks = -(-count // size) if size else 1
    if chunks < 2:
      return embed(params, averages, rows, constants, keys)
    each = -(-count // chunks)

    def divided(x: jax.Array) -> jax.Array:
      filled = jnp.concatenate([x, x[: chunks * each - count]])
      return filled.reshape(chunks, each, *x.shape[1:])

    @jax.checkpoint
    def one(part):
      return embed(params, averages, part[0], constants, part[1])

    found = jax.lax.map(one, jax.tree.map(divided, (rows, keys)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)

  return chunked


def choose(
  wanted: int, rows: int, fixed: int, needs: Callable[[int], int], workdir: str, program: Any
) -> int:
  """How many of a device's `rows` are embedded at a time: `wanted`, or where that is 0 what fits.

  What fits is read off XLA's own plans, of which at most two are made. A number below `rows` is
  printed, and kept in the workdir for the next start.

  Args:
    fixed: bytes that a step needs however few rows are embedded at a time.
    needs: rows at a time -> bytes of the step on each device.
    program: what the plan depends on, as `fingerprint` takes it.
  """
  if wanted:
    return min(wanted, rows)
  path = Path(workdir, FILE)

  def known() -> tuple[int, int]:
    limit = out_of_memory.usable_bytes()
    kept = json.loads(path.read_text()) if path.exists() else {}
    same = kept.get("program") == fingerprint(program, rows, limit, jax.__version__)
    return limit, kept["rows_per_chunk"] if same else 0

  # Every process makes the same plans: XLA may need all of them for one.
  limit, found = distributed.agree("the memory of a device", known)
  if found:
    return found
  found = max(out_of_memory.fitting(needs, rows, limit, fixed), 1)
  if found < rows:
    text = "train: %d rows at a time of a device's %d, which fits into %.3g GiB (%s)"
    logging.info(text, found, rows, limit / _GIB, "train.rows_per_chunk")
  # Among several processes each plan costs a compilation of its own.
  if distributed.process_index() == 0 and (found < rows or distributed.process_count() > 1):
    kept = {"program": fingerprint(program, rows, limit, jax.__version__)}
    with replacing(path) as temporary:
      temporary.write_text(json.dumps(kept | {"rows_per_chunk": found}))
  return found
