"""Exact k-nearest-neighbour search and ranks of true matches, in tiles over all devices.

Similarity is the dot product (the cosine for unit-norm embeddings). Queries are sharded over a
one-dimensional mesh of devices, the gallery is replicated, and every device walks
[query_tile, gallery_tile] blocks of similarities: the full [Q, G] matrix never exists. Ranks are
counted by all processes of a run together, each with the same arguments; a search runs on the
devices of one process.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lafg_jax.evaluate import self_ranks
from lafg_jax.evaluate.counting import CHUNK, LANES, add_counts, put, similarity
from lafg_jax.runtime import jax_settings
from lafg_jax.utils import padding
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import unit_or_zero

QUERY_TILE = 512
GALLERY_TILE = 2048
_MAX_TILE = 1 << 16


class Placed(NamedTuple):
  """A gallery that lies on the devices of this process already, to be searched again and again.

  blocks: [T, t, D] on every device. size: G. largest: the norm of its longest row.
  """

  blocks: jax.Array
  size: int
  largest: float


@jax_settings.ours()
def place(
  gallery: np.ndarray, *, normalize: bool = False, gallery_tile: int = GALLERY_TILE
) -> Placed:
  """Copies a gallery [G, D] to the devices. Arguments and errors are those of `search`."""
  found, norms = check_embeddings("gallery", gallery, normalize)
  return _place(found, gallery_tile, jax.local_devices(), float(norms.max()))


@jax_settings.ours()
def search(
  queries: np.ndarray,
  gallery: np.ndarray | Placed,
  k: int,
  *,
  exclude_self: bool = False,
  normalize: bool = False,
  query_tile: int = QUERY_TILE,
  gallery_tile: int = GALLERY_TILE,
) -> tuple[np.ndarray, np.ndarray]:
  """The k nearest gallery rows of every query, nearest first.

  Args:
    queries: [Q, D] embeddings, computed with as float32.
    gallery: [G, D] embeddings, or what `place` made of them, which saves the copy each time.
    k: neighbours wanted per query; may be larger than G.
    exclude_self: query i is gallery row i, and is left out of its own neighbours.
    normalize: scale every embedding to unit norm first.
    query_tile: queries per block and device, at most. Fewer queries are rounded up to a power of 2
      of at least 8, or stay one, so that searches of any size share a few compiled programs.
    gallery_tile: gallery rows per block; rounded up to a multiple of 64, at most 65,536. A placed
      gallery has its own.

  Returns:
    Scores [Q, k] float32 in falling order and gallery indices [Q, k] int32. Equal scores are
    ordered by the lower index. Entries beyond what is available have index -1 and score -inf.

  Raises:
    UserError: on empty, mismatched or non-finite embeddings, or k below 1.
  """
  if k < 1:
    raise UserError(f"k is {k}; ask for at least 1 neighbour")
  if isinstance(gallery, Placed):
    placed, (queries, norms) = gallery, check_embeddings("queries", queries, normalize)
    shape = placed.size, placed.blocks.shape[2]
    _check_shapes(queries, shape, exclude_self, norms.max() * placed.largest)
  else:
    queries, gallery = _check_pair(queries, gallery, exclude_self, normalize)
    placed = _place(gallery, gallery_tile, jax.local_devices())
  count, devices, found = len(queries), len(jax.local_devices()), min(k, placed.size)
  # One query is a product of a matrix and a vector, which CPUs do in half the time of 2 to 8 rows.
  few = 1 if count <= devices else max(8, padding.few_sizes(-(-count // devices)))
  tile = min(tile_size(query_tile, count), few)
  scores, indices = run_tiles(_search, placed, tile, exclude_self, queries, k=found)
  fill = ((0, 0), (0, k - found))
  return np.pad(scores, fill, constant_values=-np.inf), np.pad(indices, fill, constant_values=-1)


@jax_settings.ours()
def match_ranks(
  queries: np.ndarray,
  query_labels: np.ndarray,
  gallery: np.ndarray,
  gallery_labels: np.ndarray,
  *,
  exclude_self: bool = False,
  normalize: bool = False,
  query_tile: int = QUERY_TILE,
  gallery_tile: int = GALLERY_TILE,
) -> tuple[np.ndarray, np.ndarray]:
  """Ranks at which each query's true matches are retrieved, without sorting the gallery.

  A query's R true matches are the gallery rows of its label (itself left out). Their similarities
  are thresholds, and the rank of the j-th best match is j + (the number of non-matching rows whose
  similarity is at least the j-th threshold). The tie rule is pessimistic: a non-match that ties
  with a match stands before it, so that collapsed embeddings do not score by luck of the order.
  Thresholds and counts come from one and the same matrix product in the compiled program, so that
  equal embeddings tie exactly.

  Args:
    query_labels: [Q] integers.
    gallery_labels: [G] integers, of the same numbering. The other arguments are those of `search`;
      with exclude_self a query is neither match nor non-match of itself.

  Returns:
    Ranks [Q, max(R)] int32, counted from 1 and rising along each row, 0 beyond the query's R;
    and R itself, [Q] int32. The first rank is always exact. The others are exact up to R; a rank
    above R may be a smaller number that is also above R (no metric at R needs it).

  Raises:
    UserError: on empty, mismatched or non-finite input.
  """
  queries, gallery = _check_pair(queries, gallery, exclude_self, normalize)
  query_labels = _check_labels("query_labels", query_labels, len(queries))
  gallery_labels = _check_labels("gallery_labels", gallery_labels, len(gallery))
  if exclude_self and not np.array_equal(query_labels, gallery_labels):
    raise UserError("exclude_self: query i must be gallery row i, but their labels differ")

  if exclude_self and np.array_equal(queries, gallery):
    # Square tiles of the same number of similarities.
    tile = tile_size(math.isqrt(query_tile * gallery_tile), len(gallery))
    places = self_ranks.tiles_of(gallery_labels, tile)
    if places is not None and self_ranks.pays(len(places), jax.device_count()):
      return self_ranks.self_ranks(gallery, gallery_labels, places)

  # Sorted by label, a query's matches are one range of the gallery, and the ranges of
  # neighbouring queries overlap: few blocks hold all the thresholds of a query tile.
  query_order = np.argsort(query_labels, kind="stable")
  gallery_order = np.argsort(gallery_labels, kind="stable")
  query_labels, gallery_labels = query_labels[query_order], gallery_labels[gallery_order]
  start = np.searchsorted(gallery_labels, query_labels, "left")
  stop = np.searchsorted(gallery_labels, query_labels, "right")
  placed = _place(gallery[gallery_order], gallery_tile, jax.devices())
  tile = tile_size(query_tile, len(queries), jax.device_count())
  sorted_ranks = run_tiles(
    *(_ranks, placed, tile, exclude_self, queries[query_order], start, stop),
    max_matches=_round_up(max(int((stop - start).max()), 1), CHUNK),
  )
  num_matches = np.empty(len(queries), np.int32)
  num_matches[query_order] = stop - start - exclude_self
  ranks = np.empty((len(queries), num_matches.max()), np.int32)
  ranks[query_order] = sorted_ranks[:, : ranks.shape[1]]
  return ranks, num_matches


def _place(gallery, gallery_tile, devices, largest=np.inf) -> Placed:
  tile = tile_size(gallery_tile, len(gallery))
  blocks = _pad(gallery, tile, 0).reshape(-1, tile, gallery.shape[1])
  return Placed(put(blocks, Mesh(np.array(devices), ("devices",))), len(gallery), largest)


def run_tiles(program, placed, query_tile, exclude_self, *of_queries, **static):
  """What a jitted program finds for the queries, as NumPy arrays [Q, ...].

  It gets the arrays of_queries [Q, ...] and each query's own gallery row (-1: none), all sharded,
  and the gallery as [tiles, tile, D] on every device.
  """
  count = len(of_queries[0])
  own = np.arange(count) if exclude_self else np.full(count, -1)
  mesh = placed.blocks.sharding.mesh
  padded = [_pad(x, query_tile * mesh.size, 0) for x in of_queries]
  padded.append(_pad(own, query_tile * mesh.size, -1))
  found = program(
    *(put(x, mesh, "devices") for x in padded),
    *(placed.blocks, np.int32(placed.size)),
    mesh=mesh,
    query_tile=query_tile,
    **static,
  )
  return jax.tree.map(lambda x: np.asarray(x)[:count], found)


@functools.partial(jax.jit, static_argnames=("mesh", "query_tile", "k"))
def _search(queries, own, gallery, num_gallery, *, mesh, query_tile, k):
  """Scores and indices [Q, k] for padded queries [Q, D] and gallery tiles [T, t, D]."""

  def one_tile(args):
    q, own = args

    def merge(best, tile_and_offset):
      tile, offset = tile_and_offset
      index = offset + jnp.arange(tile.shape[0], dtype=jnp.int32)
      hidden = (index >= num_gallery) | (index == own[:, None])
      scores = jnp.where(hidden, -jnp.inf, similarity(q, tile))
      # top_k keeps the first of equals, and the earlier tiles' indices, all lower, come first.
      scores, at = lax.top_k(scores, min(k, tile.shape[0]))
      scores, kept = lax.top_k(jnp.concatenate([best[0], scores], 1), k)
      indices = jnp.concatenate([best[1], offset + at.astype(jnp.int32)], 1)
      return (scores, jnp.take_along_axis(indices, kept, 1)), None

    shape = (query_tile, k)
    best = jnp.full(shape, -jnp.inf), jnp.full(shape, -1, jnp.int32)
    offsets = jnp.arange(gallery.shape[0], dtype=jnp.int32) * gallery.shape[1]
    (scores, indices), _ = lax.scan(merge, best, (gallery, offsets))
    return scores, jnp.where(scores == -jnp.inf, -1, indices)

  return map_query_tiles(one_tile, mesh, query_tile, queries, own)


@functools.partial(jax.jit, static_argnames=("mesh", "query_tile", "max_matches"))
def _ranks(queries, start, stop, own, gallery, num_gallery, *, mesh, query_tile, max_matches):
  """Ranks [Q, max_matches] for padded queries [Q, D] and gallery tiles [T, t, D].

  The matches of query i are the gallery rows start[i]..stop[i]-1 without own[i] (-1: none).
  """
  num_tiles, gallery_tile, _ = gallery.shape
  slot = jnp.arange(max_matches, dtype=jnp.int32)

  def one_tile(args):
    q, start, stop, own = (x if x.ndim == 2 else x[:, None] for x in args)
    num_matches = stop - start - (own >= 0)
    some = stop > start
    first = jnp.min(jnp.where(some, start, num_gallery)) // gallery_tile
    last = jnp.max(jnp.where(some, stop - 1, 0)) // gallery_tile
    num_picks = jnp.where(jnp.any(num_matches > 0), last - first + 1, 0)

    def pick(i, scores, thresholds, counts):
      row = start + slot
      here = (row < stop) & (row != own) & (row // gallery_tile == first + i)
      picked = jnp.take_along_axis(scores, row % gallery_tile, 1)
      thresholds = jnp.where(here, picked, thresholds)
      fall = functools.partial(jnp.sort, axis=1, descending=True)
      return lax.cond(i == num_picks - 1, fall, lambda x: x, thresholds), counts

    def count(i, scores, thresholds, counts):
      row = (i - num_picks) * gallery_tile + jnp.arange(gallery_tile, dtype=jnp.int32)
      scores = jnp.where((row >= num_gallery) | ((row >= start) & (row < stop)), -jnp.inf, scores)
      return thresholds, add_counts(counts, scores, thresholds, num_matches)

    def step(i, carry):
      picking = i < num_picks
      tile = jnp.where(picking, first + i, i - num_picks)
      # One product for both phases: two could be compiled to different orders of summation, and a
      # threshold would miss its own ties.
      scores = lax.optimization_barrier(similarity(q, gallery[tile]))
      return lax.cond(picking, pick, count, i, scores, *carry)

    shape = (query_tile, max_matches)
    carry = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
    num_steps = jnp.where(num_picks > 0, num_picks + num_tiles, 0)
    _, counts = lax.fori_loop(0, num_steps, step, carry)
    return jnp.where(slot < num_matches, slot + 1 + counts, 0)

  return map_query_tiles(one_tile, mesh, query_tile, queries, start, stop, own)


def map_query_tiles(function, mesh, query_tile, *arrays):
  """Applies the function to each [query_tile, ...] part of arrays sharded over the mesh."""

  def on_device(*arrays):
    tiles = tuple(x.reshape(-1, query_tile, *x.shape[1:]) for x in arrays)
    merged = lax.map(function, tiles)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), merged)

  # The functions close over the gallery, which shard_map replicates. Results are gathered, since
  # every process of a pod computes the metrics.
  sharded = jax.shard_map(
    on_device, mesh=mesh, in_specs=P("devices"), out_specs=P("devices"), check_vma=False
  )
  return lax.with_sharding_constraint(sharded(*arrays), NamedSharding(mesh, P()))


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def tile_size(wanted: int, num_rows: int, num_devices: int = 1) -> int:
  if wanted < 1:
    raise UserError(f"a tile of {wanted} rows is impossible; query_tile, gallery_tile must be >= 1")
  return _round_up(min(wanted, _MAX_TILE, -(-num_rows // num_devices)), LANES)


def _pad(x: np.ndarray, multiple: int, value: float) -> np.ndarray:
  x = x.astype(np.float32 if x.dtype.kind == "f" else np.int32, copy=False)
  fill = [(0, _round_up(len(x), multiple) - len(x))] + [(0, 0)] * (x.ndim - 1)
  return np.pad(x, fill, constant_values=value)


def _check_pair(queries, gallery, exclude_self, normalize):
  """Both [n, D] float32, checked, and of unit norm if `normalize` is set."""
  found, norms = check_embeddings("queries", queries, normalize)
  if queries is gallery:
    gallery, gallery_norms = found, norms
  else:
    gallery, gallery_norms = check_embeddings("gallery", gallery, normalize)
  _check_shapes(found, gallery.shape, exclude_self, norms.max() * gallery_norms.max())
  return found, gallery


def _check_shapes(queries, gallery_shape, exclude_self, largest):
  """Raises UserError where queries and gallery do not belong together; see `search`."""
  count, width = gallery_shape
  if queries.shape[1] != width:
    raise UserError(
      f"queries have {queries.shape[1]} dimensions and the gallery {width};"
      " embed both with the same model"
    )
  if exclude_self and len(queries) != count:
    raise UserError(
      f"exclude_self: {len(queries)} queries and {count} gallery rows;"
      " query i must be gallery row i"
    )
  if largest > np.finfo(np.float32).max / 2:
    raise UserError("embeddings are so large that their products overflow; pass normalize=True")


def check_embeddings(name, x, normalize):
  """The embeddings [n, D] float32, and their norms [n] float64."""
  with np.errstate(over="ignore"):  # what does not fit float32 is reported as non-finite
    x = np.ascontiguousarray(x, np.float32)
  if x.ndim != 2 or not x.size:
    raise UserError(f"{name}: embeddings must be a non-empty [n, D] array, but are {x.shape}")
  broken = int((~np.isfinite(x).all(1)).sum())
  if broken:
    raise UserError(f"{name}: {broken} of {len(x)} embeddings are not finite; check the model")
  norms = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
  if normalize:
    zero = int((norms == 0).sum())
    if zero:
      raise UserError(f"{name}: {zero} of {len(x)} embeddings are zero and have no direction")
    x, norms = unit_or_zero(x).astype(np.float32), np.ones_like(norms)
  return x, norms


def _check_labels(name, labels, length):
  labels = np.asarray(labels)
  if labels.shape != (length,):
    raise UserError(f"{name}: shape {labels.shape} does not fit {length} embeddings")
  if not np.issubdtype(labels.dtype, np.integer):
    raise UserError(f"{name}: labels must be integers, not {labels.dtype}")
  return labels
