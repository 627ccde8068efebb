"""Similarities of a block, and how many of them reach the thresholds of each row."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

LANES = 64  # the columns of a block are a multiple of this: counts add up in whole vectors
CHUNK = 8  # thresholds that are compared in one pass over a block


def put(x: np.ndarray, mesh: Mesh, *axes: str) -> jax.Array:
  """An array on the devices of all processes, each of which has the whole of x."""
  return jax.make_array_from_callback(x.shape, NamedSharding(mesh, P(*axes)), lambda at: x[at])


def similarity(rows, columns):
  """Dot products [r, c] of embeddings [r, D] and [c, D]."""
  # HIGHEST: TF32 or bfloat16 products would make the ranks depend on the accelerator.
  return jnp.dot(rows, columns.T, precision=lax.Precision.HIGHEST)


def add_counts(counts, scores, thresholds, num_matches, empty=0):
  """Adds to counts [q, R] the number of scores [q, t] at or above thresholds [q, R] (falling).

  num_matches: [q, 1], of each query. empty: how many of the columns hold nothing and score 0, which
  are not counted.
  """
  slot = jnp.arange(counts.shape[1], dtype=jnp.int32)
  # A match whose rank has already passed R cannot come back, nor can any after it.
  needed = (slot < num_matches) & ((slot == 0) | (slot + 1 + counts <= num_matches))
  num_needed = jnp.max(jnp.sum(needed, 1, dtype=jnp.int32))

  def chunk(c, counts):
    limit = lax.dynamic_slice_in_dim(thresholds, c * CHUNK, CHUNK, 1)
    old = lax.dynamic_slice_in_dim(counts, c * CHUNK, CHUNK, 1)
    new = old + _count_at_least(scores, limit) - empty * (limit <= 0)
    return lax.dynamic_update_slice_in_dim(counts, new, c * CHUNK, 1)

  return lax.fori_loop(0, -(-num_needed // CHUNK), chunk, counts)


def _count_at_least(scores, limits):
  """Number of scores [q, t] at or above each of limits [q, c], as [q, c] int32."""
  folded = scores.reshape(scores.shape[0], 1, -1, LANES)
  above = (folded >= limits[:, :, None, None]).astype(jnp.int16)
  # Short integers, reduced along whole vectors first, make the count nearly free beside the
  # product; t / LANES is far below their range.
  return above.sum(2, dtype=jnp.int16).sum(2, dtype=jnp.int32)
