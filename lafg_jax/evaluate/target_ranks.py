"""The best rows of a gallery for each query, where the right answers are known.

The tie rule is pessimistic, as in `knn.match_ranks`: a wrong row as near as a right one stands
before it. All scores of a query and a row come from one product, so that equal rows tie exactly.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lafg_jax.evaluate import knn
from lafg_jax.evaluate.counting import similarity
from lafg_jax.runtime import jax_settings


class Ranked(NamedTuple):
  """rows [Q, k] int32 of the gallery, best first, -1 beyond what there is; scores [Q, k] float32,
  -inf there; members [Q, M] int32, the picked rows of each query, ordered in the same way."""

  rows: np.ndarray
  scores: np.ndarray
  members: np.ndarray


@jax_settings.ours()
def rank(
  queries: np.ndarray,
  gallery: np.ndarray,
  k: int,
  *,
  targets: np.ndarray,
  dropped: np.ndarray,
  members: np.ndarray | None = None,
  query_tile: int = knn.QUERY_TILE,
  gallery_tile: int = knn.GALLERY_TILE,
) -> Ranked:
  """Ranks a gallery [G, D] for queries [Q, D] by the dot product, in tiles.

  Args:
    k: how many rows a query wants.
    targets: [Q, T] int, gallery rows of the right answers, -1 for none.
    dropped: [Q] int, the row that is left out of a query's ranking, -1 for none.
    members: [Q, M] int, rows of which each query also wants the order by themselves (CIRR's
      subset); -1 and the dropped row are left out and stand behind as -1.

  Raises:
    UserError: as `knn.search`.
  """
  queries, _ = knn.check_embeddings("queries", queries, False)
  placed = knn.place(gallery, gallery_tile=gallery_tile)
  count = len(queries)
  members = np.full((count, 0), -1, np.int32) if members is None else members
  # A right answer that is dropped is none.
  targets = np.where(targets == dropped[:, None], -1, targets).astype(np.int32)
  hidden = _rounded(np.concatenate([targets, dropped[:, None].astype(np.int32)], axis=1))
  wanted = _rounded(np.concatenate([targets, members.astype(np.int32)], axis=1))
  tile = knn.tile_size(query_tile, count)
  found = min(k, placed.size)
  others, indices, scores = knn.run_tiles(
    _rank, placed, tile, False, queries, hidden, wanted, k=found
  )
  of_targets = np.where(targets < 0, -np.inf, scores[:, : targets.shape[1]])
  rows = np.concatenate([indices, targets], axis=1)
  best = _order(rows, np.concatenate([others, of_targets], axis=1), targets)
  rows, values = (x[:, :found] for x in best)
  fill = ((0, 0), (0, k - found))
  members = np.where(members == dropped[:, None], -1, members)
  of_members = np.where(members < 0, -np.inf, scores[:, targets.shape[1] :][:, : members.shape[1]])
  return Ranked(
    np.pad(rows, fill, constant_values=-1).astype(np.int32),
    np.pad(values, fill, constant_values=-np.inf).astype(np.float32),
    _order(members, of_members, targets)[0].astype(np.int32),
  )


def _rounded(rows: np.ndarray) -> np.ndarray:
  """With -1 up to a multiple of 8 columns: few shapes are compiled."""
  more = -rows.shape[1] % 8 if rows.shape[1] else 8
  return np.pad(rows, ((0, 0), (0, more)), constant_values=-1)


def _order(
  rows: np.ndarray, scores: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Rows [Q, n] and scores in falling order; of equals, right answers last, then lower rows."""
  right = (rows[:, :, None] == targets[:, None, :]).any(2) & (rows >= 0)
  order = np.lexsort((rows, right, -scores), axis=1)
  rows, scores = (np.take_along_axis(x, order, 1) for x in (rows, scores))
  return np.where(scores == -np.inf, -1, rows), scores


@functools.partial(jax.jit, static_argnames=("mesh", "query_tile", "k"))
def _rank(queries, hidden, wanted, own, gallery, num_gallery, *, mesh, query_tile, k):
  """Scores and rows [Q, k] without `hidden` [Q, H], and the scores [Q, W] of the rows `wanted`."""

  def one_tile(args):
    q, hidden, wanted, _ = args
    size, at = gallery.shape[1], jnp.arange(query_tile)[:, None]

    def merge(best, tile_and_offset):
      tile, offset = tile_and_offset
      # One product for both uses: two could be compiled to different orders of summation, and a
      # target would miss its own ties.
      scores = lax.optimization_barrier(similarity(q, tile))
      column = wanted - offset
      here = (column >= 0) & (column < size) & (wanted >= 0)
      picked = jnp.take_along_axis(scores, jnp.clip(column, 0, size - 1), 1)
      kept = jnp.where(here, picked, best[2])
      index = offset + jnp.arange(size, dtype=jnp.int32)
      scores = jnp.where(index >= num_gallery, -jnp.inf, scores)
      # Columns of other tiles are out of bounds and dropped; -1 would count from the end.
      outside = (hidden < offset) | (hidden >= offset + size)
      column = jnp.where(outside, size, hidden - offset)
      scores = scores.at[at, column].set(-jnp.inf, mode="drop")
      scores, top = lax.top_k(scores, min(k, size))
      scores, of = lax.top_k(jnp.concatenate([best[0], scores], 1), k)
      rows = jnp.concatenate([best[1], offset + top.astype(jnp.int32)], 1)
      return (scores, jnp.take_along_axis(rows, of, 1), kept), None

    shape = (query_tile, k)
    best = (
      jnp.full(shape, -jnp.inf),
      jnp.full(shape, -1, jnp.int32),
      jnp.full(wanted.shape, -jnp.inf),
    )
    offsets = jnp.arange(gallery.shape[0], dtype=jnp.int32) * gallery.shape[1]
    (scores, rows, kept), _ = lax.scan(merge, best, (gallery, offsets))
    return scores, jnp.where(scores == -jnp.inf, -1, rows), kept

  return knn.map_query_tiles(one_tile, mesh, query_tile, queries, hidden, wanted, own)
