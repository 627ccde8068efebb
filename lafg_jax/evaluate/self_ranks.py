"""Ranks of true matches where queries and gallery are one set: each product serves both directions.

The similarity of a and b is that of b and a, so that only half of the blocks of the matrix of all
similarities are computed. Every block is compared with the thresholds of its rows, and turned, with
those of its columns. Tiles hold whole classes: a query's matches, which are its thresholds, stand
in one block on the diagonal.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lafg_jax.evaluate.counting import CHUNK, add_counts, put, similarity


def tiles_of(labels: np.ndarray, tile: int) -> np.ndarray | None:
  """Rows of the set for each place of each tile, [T, tile] int32, -1 where a place stays empty.

  Tiles hold whole classes. None where a class has more rows than a quarter of a tile: much of the
  tiles could stay empty then.
  """
  order = np.argsort(labels, kind="stable")
  counts = np.unique(labels, return_counts=True)[1]
  if counts.max() > tile // 4:
    return None
  places, used, at = [np.full(tile, -1, np.int32)], 0, 0
  for count in counts.tolist():
    if used + count > tile:
      places.append(np.full(tile, -1, np.int32))
      used = 0
    places[-1][used : used + count] = order[at : at + count]
    used, at = used + count, at + count
  return np.stack(places)


def pays(num_tiles: int, num_devices: int) -> bool:
  """Whether this takes fewer products than all blocks, shared by the devices.

  Each device computes the T blocks on the diagonal, and its part of the others.
  """
  return (num_tiles - 1) / (2 * num_devices) + 1 < num_tiles / num_devices


def self_ranks(
  x: np.ndarray, labels: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Ranks [n, max(R)] of each row's true matches among all others, and R, as `knn.match_ranks`.

  Args:
    x: [n, D] float32 embeddings.
    labels: [n] integers.
    places: [T, tile] of `tiles_of`.
  """
  there = places >= 0
  tiled = np.where(there[..., None], x[places], np.float32(0))
  classes = np.where(there, np.unique(labels, return_inverse=True)[1][places], -1).astype(np.int32)
  sizes = np.bincount(classes[there])
  num_matches = np.where(there, sizes[classes] - 1, 0).astype(np.int32)
  most = max(int(num_matches.max()), 1)
  mesh = Mesh(np.array(jax.devices()), ("devices",))
  found = _ranks(
    *(put(array, mesh) for array in (tiled, classes, num_matches)),
    put(_blocks(len(places), mesh.size), mesh, "devices"),
    mesh=mesh,
    # Two chunks at least: with one, XLA drops the loop over them, fuses the turned block into the
    # comparison, and takes twice as long (seen on the CPU).
    width=max(-(-most // CHUNK), 2) * CHUNK,
  )
  ranks, matches = np.empty((len(x), most), np.int32), np.empty(len(x), np.int32)
  ranks[places[there]] = np.asarray(found)[there][:, :most]
  matches[places[there]] = num_matches[there]
  return ranks, matches


def _blocks(num_tiles: int, num_devices: int) -> np.ndarray:
  """The blocks above the diagonal that each device computes, [devices, b, 2]; -1 fills up."""
  pairs = np.stack(np.triu_indices(num_tiles, 1), axis=1)
  # Near blocks first: a match that they rank beyond R need not be looked at in others.
  pairs = pairs[np.argsort(pairs[:, 1] - pairs[:, 0], kind="stable")]
  each = -(-len(pairs) // num_devices)
  filled = np.full((each * num_devices, 2), -1, np.int32)
  filled[: len(pairs)] = pairs
  return filled.reshape(each, num_devices, 2).swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames=("mesh", "width"))
def _ranks(tiled, classes, num_matches, blocks, *, mesh, width):
  """Ranks [T, t, width] for tiles [T, t, D] and the blocks [devices, b, 2]."""
  num_tiles, tile, _ = tiled.shape
  slot = jnp.arange(width, dtype=jnp.int32)
  empty = jnp.sum(classes < 0, axis=1, dtype=jnp.int32)  # [T]

  def pick(i, scores, thresholds, counts):
    own = classes[i]
    row = jnp.arange(tile, dtype=jnp.int32)
    alike = own[:, None] == own
    # A tile is sorted by class: the matches of a row are a range around it.
    first = jnp.argmax(alike, axis=1).astype(jnp.int32)
    at = first[:, None] + slot
    at += at >= row[:, None]
    picked = jnp.take_along_axis(scores, jnp.minimum(at, tile - 1), axis=1)
    limits = jnp.where(slot < num_matches[i][:, None], picked, -jnp.inf)
    limits = jnp.sort(limits, axis=1, descending=True)
    others = jnp.where(alike, -jnp.inf, scores)
    # All devices need the thresholds, and one of them counts.
    mine = i % lax.axis_size("devices") == lax.axis_index("devices")
    counts = _add(counts, limits, others, i, empty[i], jnp.where(mine, num_matches[i], 0))
    return thresholds.at[i].set(limits), counts

  def count(i, j, scores, thresholds, counts):
    counts = _add(counts, thresholds[i], scores, i, empty[j], num_matches[i])
    # Turned before it is compared: as part of the comparison, turning takes 30 times as long.
    turned = lax.optimization_barrier(scores.T)
    return thresholds, _add(counts, thresholds[j], turned, j, empty[i], num_matches[j])

  def _add(counts, limits, scores, i, empty, matches):
    return counts.at[i].set(add_counts(counts[i], scores, limits, matches[:, None], empty))

  def on_device(blocks):
    blocks = blocks[0]
    diagonal = jnp.arange(num_tiles, dtype=jnp.int32)
    steps = jnp.concatenate([jnp.stack([diagonal, diagonal], axis=1), blocks])

    def step(k, carry):
      i, j = steps[k, 0], steps[k, 1]
      # One product for both phases: two could be compiled to different orders of summation, and a
      # threshold would miss its own ties.
      scores = lax.optimization_barrier(similarity(tiled[i], tiled[j]))
      return lax.cond(
        i == j, lambda *x: pick(i, *x), lambda *x: count(i, j, *x), scores, *carry
      )  # fmt: skip

    shape = (num_tiles, tile, width)
    carry = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
    _, counts = lax.fori_loop(0, num_tiles + jnp.sum(blocks[:, 0] >= 0), step, carry)
    return lax.psum(counts, "devices")

  sharded = jax.shard_map(
    on_device, mesh=mesh, in_specs=P("devices"), out_specs=P(), check_vma=False
  )
  counts = sharded(blocks)
  return jnp.where(slot < num_matches[..., None], slot + 1 + counts, 0)
