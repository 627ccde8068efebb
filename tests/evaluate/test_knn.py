"""Neighbours against faiss, ranks against a NumPy sort, and what the tiling must not change."""

import os
import subprocess
import sys
import textwrap

import faiss
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.evaluate import knn, self_ranks
from lafg_jax.utils.errors import UserError

TILE = 64


def unit(rng, n, dim):
  x = rng.normal(size=(n, dim))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def faiss_search(queries, gallery, k):
  index = faiss.IndexFlatIP(gallery.shape[1])
  index.add(gallery)
  return index.search(queries, k)


def assert_same_neighbours(found, scores, wanted, wanted_scores):
  np.testing.assert_allclose(scores, wanted_scores, atol=2e-6)
  gap = np.full(wanted_scores.shape, np.inf)
  gap[:, 1:] = wanted_scores[:, :-1] - wanted_scores[:, 1:]
  gap[:, :-1] = np.minimum(gap[:, :-1], gap[:, 1:])
  clear = gap > 1e-5
  clear[:, -1] = False  # its competitor just outside the list is not known
  assert clear.mean() > 0.5
  np.testing.assert_array_equal(found[clear], wanted[clear])


def sorted_ranks(similarity, query_labels, gallery_labels, exclude_self):
  """Ranks by sorting every row: falling similarity, and among ties non-matches first."""
  rows = []
  for i, label in enumerate(query_labels):
    keep = np.arange(len(gallery_labels)) != (i if exclude_self else -1)
    match = gallery_labels[keep] == label
    order = np.lexsort((match, -similarity[i][keep]))
    rows.append(np.flatnonzero(match[order]) + 1)
  return rows


def assert_ranks(ranks, num_matches, wanted):
  np.testing.assert_array_equal(num_matches, [len(row) for row in wanted])
  assert ranks.shape == (len(wanted), max(len(row) for row in wanted))
  for got, row in zip(ranks, wanted, strict=True):
    r = len(row)
    assert (got[r:] == 0).all()
    assert list(got[:1]) == list(row[:1]) or r == 0
    exact = row <= r
    np.testing.assert_array_equal(got[:r][exact], row[exact])
    assert (got[:r][~exact] > r).all()


@pytest.mark.parametrize("num_gallery", [1, 63, 64, 65, 127, 128, 129, 300])
@pytest.mark.parametrize("num_queries", [1, 64, 130])
def test_neighbours_equal_faiss(num_queries, num_gallery):
  rng = np.random.default_rng(num_queries * 1000 + num_gallery)
  queries, gallery = unit(rng, num_queries, 24), unit(rng, num_gallery, 24)
  k = min(10, num_gallery)
  scores, found = knn.search(queries, gallery, k, query_tile=TILE, gallery_tile=TILE)
  assert scores.dtype == np.float32 and found.dtype == np.int32
  if num_gallery == 1:
    assert (found == 0).all()
    np.testing.assert_allclose(scores[:, 0], queries @ gallery[0], atol=2e-6)
  else:
    assert_same_neighbours(found, scores, *faiss_search(queries, gallery, k)[::-1])


@pytest.mark.parametrize("n", [63, 64, 65, 200])
def test_exclude_self_leaves_out_only_the_query(n):
  gallery = unit(np.random.default_rng(n), n, 16)
  scores, found = knn.search(
    gallery, gallery, 12, exclude_self=True, query_tile=TILE, gallery_tile=TILE
  )
  wanted_scores, wanted = faiss_search(gallery, gallery, 13)
  assert (wanted[:, 0] == np.arange(n)).all()
  assert_same_neighbours(found, scores, wanted[:, 1:], wanted_scores[:, 1:])


def test_k_above_the_gallery_fills_with_minus_one():
  gallery = unit(np.random.default_rng(0), 5, 8)
  scores, found = knn.search(gallery, gallery, 9, exclude_self=True)
  assert scores.shape == found.shape == (5, 9)
  assert (found[:, 4:] == -1).all() and (scores[:, 4:] == -np.inf).all()
  wanted_scores, wanted = faiss_search(gallery, gallery, 5)
  assert_same_neighbours(found[:, :4], scores[:, :4], wanted[:, 1:], wanted_scores[:, 1:])


def test_equal_scores_are_ordered_by_index_across_tiles():
  gallery = np.ones((3 * TILE + 7, 4), np.float32)
  _, found = knn.search(gallery[:3], gallery, 150, query_tile=TILE, gallery_tile=TILE)
  np.testing.assert_array_equal(found, np.tile(np.arange(150), (3, 1)))


def test_normalize_gives_cosines():
  rng = np.random.default_rng(4)
  queries, gallery = rng.normal(size=(20, 8)) * 50, rng.normal(size=(30, 8)) * 1e-3
  scores, _ = knn.search(queries, gallery, 30, normalize=True)
  lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)
  np.testing.assert_allclose(scores, -np.sort(-(queries @ gallery.T / lengths)), atol=1e-6)


@pytest.mark.parametrize("n", [63, 64, 65, 128, 200])
@pytest.mark.parametrize("exclude_self", [True, False])
def test_ranks_equal_a_sort(n, exclude_self):
  rng = np.random.default_rng(n)
  # Integers: products are exact, so that ties abound and both sides agree on them.
  x = rng.integers(-2, 3, size=(n, 5)).astype(np.float32)
  labels = rng.integers(0, 9, size=n) ** 2 - 7
  found = knn.match_ranks(
    x, labels, x, labels, exclude_self=exclude_self, query_tile=TILE, gallery_tile=TILE
  )
  assert_ranks(*found, sorted_ranks(x @ x.T, labels, labels, exclude_self))


def test_ranks_with_a_separate_gallery_and_queries_without_match():
  rng = np.random.default_rng(1)
  queries, gallery = unit(rng, 150, 6), unit(rng, 210, 6)
  query_labels, gallery_labels = rng.integers(0, 12, 150), rng.integers(3, 40, 210)
  ranks, num_matches = knn.match_ranks(
    queries, query_labels, gallery, gallery_labels, query_tile=TILE, gallery_tile=TILE
  )
  assert (num_matches == 0).any() and (num_matches > 0).any()
  similarity = queries.astype(np.float64) @ gallery.T
  assert_ranks(ranks, num_matches, sorted_ranks(similarity, query_labels, gallery_labels, False))


@settings(max_examples=25, deadline=None)
@given(
  x=hnp.arrays(np.float32, st.tuples(st.integers(2, TILE), st.just(3)),
               elements=st.integers(-3, 3).map(float)),
  seed=st.integers(0, 99),
  classes=st.integers(1, 8),
)  # fmt: skip
def test_ranks_and_neighbours_on_any_input(x, seed, classes):
  labels = np.random.default_rng(seed).integers(0, classes, len(x))
  ranks, num_matches = knn.match_ranks(x, labels, x, labels, exclude_self=True)
  similarity = x @ x.T
  assert_ranks(ranks, num_matches, sorted_ranks(similarity, labels, labels, True))

  scores, found = knn.search(x, x, 5, exclude_self=True)
  np.fill_diagonal(similarity, -np.inf)
  wanted = np.argsort(-similarity, axis=1, kind="stable")[:, :5]
  available = min(5, len(x) - 1)
  np.testing.assert_array_equal(found[:, :available], wanted[:, :available])
  np.testing.assert_array_equal(
    scores[:, :available], np.take_along_axis(similarity, wanted, 1)[:, :available]
  )
  assert (found[:, available:] == -1).all()


def test_equal_embeddings_tie_wherever_they_stand():
  # Products of real numbers are rounded; ties must hold between blocks and places in a block.
  rng = np.random.default_rng(3)
  x = np.repeat(unit(rng, 7, 129), 60, axis=0)
  labels = np.tile(np.arange(2), 210)
  ranks, _ = knn.match_ranks(
    x, labels, x, labels, exclude_self=True, query_tile=TILE, gallery_tile=TILE
  )
  # The 30 copies of the other class stand before the 29 of the query's own.
  np.testing.assert_array_equal(ranks[:, :29], np.tile(np.arange(31, 60), (420, 1)))


def test_equal_embeddings_tie_in_both_directions_of_a_block():
  rng = np.random.default_rng(3)
  distinct, which, labels = unit(rng, 7, 129), rng.permutation(420) % 7, np.arange(420) % 42
  places = self_ranks.tiles_of(labels, TILE)
  assert len(places) == 7 and self_ranks.pays(len(places), 1)
  x = distinct[which]
  ranks, num_matches = self_ranks.self_ranks(x, labels, places)
  similarity = (distinct.astype(np.float64) @ distinct.T)[which][:, which]
  np.testing.assert_array_equal(num_matches, np.full(420, 9))
  assert_ranks(ranks, num_matches, sorted_ranks(similarity, labels, labels, True))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=60), st.integers(0, 99))
def test_tiles_hold_whole_classes(sizes, seed):
  labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 7, sizes))
  places = self_ranks.tiles_of(labels, TILE)
  np.testing.assert_array_equal(np.sort(places[places >= 0]), np.arange(len(labels)))
  for label in np.unique(labels):
    assert len({k for k, tile in enumerate(places) if label in labels[tile[tile >= 0]]}) == 1
  assert self_ranks.tiles_of(np.append(labels, [0] * 17), TILE) is None, "a class of a quarter tile"


def test_negative_similarities_are_told_from_empty_places():
  # A query's match may be less alike than an empty place, whose similarity is 0.
  x = np.array([[1.0], [-1.0]] * 50, np.float32)
  labels = np.arange(100) // 4
  places = self_ranks.tiles_of(labels, TILE)
  ranks, num_matches = self_ranks.self_ranks(x, labels, places)
  assert (places < 0).sum() == 28
  np.testing.assert_array_equal(num_matches, np.full(100, 3))
  assert_ranks(ranks, num_matches, sorted_ranks(x @ x.T, labels, labels, True))


def test_eight_devices_give_the_result_of_one(tmp_path):
  rng = np.random.default_rng(5)
  x, labels = unit(rng, 1300, 12), rng.permutation(1300) // 10
  np.savez(tmp_path / "in.npz", x=x, labels=labels)
  code = textwrap.dedent(f"""
    import jax, numpy as np
    from lafg_jax.evaluate import knn
    assert len(jax.devices()) == 8, jax.devices()
    data = np.load({str(tmp_path / "in.npz")!r})
    x, labels = data["x"], data["labels"]
    kw = dict(exclude_self=True, query_tile=64, gallery_tile=64)
    ranks, num_matches = knn.match_ranks(x, labels, x, labels, **kw)
    scores, found = knn.search(x, x, 20, **kw)
    few, _ = knn.search(x[:3], x, 4)
    np.savez({str(tmp_path / "out.npz")!r}, ranks=ranks, num_matches=num_matches,
             scores=scores, found=found, few=few)
  """)
  flags = "--xla_force_host_platform_device_count=8"
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
  env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
  subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=1000)
  eight = np.load(tmp_path / "out.npz")
  kw = {"exclude_self": True, "query_tile": 64, "gallery_tile": 64}
  ranks, num_matches = knn.match_ranks(x, labels, x, labels, **kw)
  scores, found = knn.search(x, x, 20, **kw)
  np.testing.assert_array_equal(eight["num_matches"], num_matches)
  assert self_ranks.pays(len(self_ranks.tiles_of(labels, 64)), 8)
  # A rank above R is only known to be above R.
  most = num_matches[:, None] + 1
  np.testing.assert_array_equal(np.minimum(eight["ranks"], most), np.minimum(ranks, most))
  np.testing.assert_array_equal(eight["found"], found)
  np.testing.assert_allclose(eight["scores"], scores, atol=1e-6)
  np.testing.assert_allclose(eight["few"], faiss_search(x[:3], x, 4)[0], atol=2e-6)


def program_arguments(n, dim):
  """Abstract arguments of the two jitted programs for n queries and n gallery rows."""
  rows = jax.ShapeDtypeStruct((n,), jnp.int32)
  queries = jax.ShapeDtypeStruct((n, dim), jnp.float32)
  gallery = jax.ShapeDtypeStruct((n // TILE, TILE, dim), jnp.float32)
  count = jax.ShapeDtypeStruct((), jnp.int32)
  return queries, rows, gallery, count


@pytest.mark.parametrize("program", ["search", "ranks", "self_ranks"])
def test_the_full_matrix_is_never_held(program):
  n = 4096
  queries, rows, gallery, count = program_arguments(n, 8)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("devices",))
  fixed = {"mesh": mesh, "query_tile": TILE}
  if program == "search":
    lowered = knn._search.lower(queries, rows, gallery, count, k=10, **fixed)
  elif program == "self_ranks":
    tiled = jax.ShapeDtypeStruct((n // TILE, TILE, 8), jnp.float32)
    of_row = jax.ShapeDtypeStruct((n // TILE, TILE), jnp.int32)
    blocks = jax.ShapeDtypeStruct((1, n * (n // TILE - 1) // TILE // 2, 2), jnp.int32)
    lowered = self_ranks._ranks.lower(tiled, of_row, of_row, blocks, mesh=mesh, width=16)
  else:
    lowered = knn._ranks.lower(queries, rows, rows, rows, gallery, count, max_matches=16, **fixed)
  used = lowered.compile().memory_analysis()
  assert 0 < used.output_size_in_bytes < n * n // 16
  assert used.temp_size_in_bytes < n * n // 4  # the matrix in float32 would take 4 * n * n


def test_a_second_call_of_the_same_shape_does_not_compile():
  rng = np.random.default_rng(8)
  sizes = []
  for _ in range(3):
    x, labels = unit(rng, 90, 7), rng.permutation(90) // 9
    knn.search(x, x, 6, exclude_self=True)
    knn.match_ranks(x, labels, x, labels, exclude_self=True)
    sizes.append((knn._search._cache_size(), knn._ranks._cache_size()))
  assert sizes[0] == sizes[1] == sizes[2]
  assert min(sizes[0]) > 0


def bad(change):
  x = np.eye(6, 4, dtype=np.float32) + 1
  labels = np.arange(6) // 2
  given = {"queries": x, "query_labels": labels, "gallery": x, "gallery_labels": labels}
  return {**given, **change}


NAN = np.ones((6, 4), np.float32)
NAN[[1, 4], 2] = np.nan


@pytest.mark.parametrize(
  "change, words",
  [
    ({"queries": NAN}, "queries: 2 of 6 .* not finite"),
    ({"gallery": np.full((6, 4), 1e300)}, "gallery: 6 of 6 .* not finite"),
    ({"gallery": np.ones((6, 5))}, "4 dimensions and the gallery 5"),
    ({"queries": np.zeros((0, 4))}, "queries: .* non-empty"),
    ({"gallery": np.ones(6)}, "gallery: .*n, D"),
    ({"queries": np.full((6, 4), 1e20), "gallery": np.full((6, 4), 1e20)}, "overflow"),
    ({"query_labels": np.arange(5)}, "query_labels: shape"),
    ({"gallery_labels": np.ones((6, 1), int)}, "gallery_labels: shape"),
    ({"gallery_labels": np.ones(6)}, "must be integers"),
    ({"gallery_labels": np.arange(6), "exclude_self": True}, "labels differ"),
    ({"queries": np.ones((3, 4)), "query_labels": np.arange(3), "exclude_self": True}, "3 queries"),
    ({"queries": np.zeros((6, 4)), "normalize": True}, "6 of 6 embeddings are zero"),
    ({"query_tile": 0}, "tile of 0"),
  ],
)
def test_bad_input_is_one_line(change, words):
  with pytest.raises(UserError, match=words) as error:
    knn.match_ranks(**bad(change))
  assert "\n" not in str(error.value)


def test_search_refuses_k_below_one():
  with pytest.raises(UserError, match="k is 0"):
    knn.search(np.ones((2, 3)), np.ones((2, 3)), 0)


def test_a_placed_gallery_is_searched_as_the_gallery_itself():
  rng = np.random.default_rng(2)
  queries, gallery = unit(rng, 37, 24), unit(rng, 500, 24)
  placed = knn.place(gallery, gallery_tile=TILE)
  for count in (1, 7, 37):
    scores, found = knn.search(queries[:count], placed, 9)
    wanted = faiss_search(queries[:count], gallery, 9)
    assert_same_neighbours(found, scores, *wanted[::-1])
  scores, found = knn.search(queries[:2], placed, 600)
  assert (found[:, 500:] == -1).all() and (found[:, :500] >= 0).all()
  with pytest.raises(UserError, match="5 dimensions and the gallery 24"):
    knn.search(queries[:, :5], placed, 3)
  with pytest.raises(UserError, match="overflow"):
    knn.search(queries * 1e38, knn.place(gallery * 1e38), 3)


def test_searches_of_any_size_share_few_programs():
  rng = np.random.default_rng(2)
  placed = knn.place(unit(rng, 300, 11))
  before = knn._search._cache_size()
  for count in range(1, 70):
    queries = unit(rng, count, 11)
    found = knn.search(queries, placed, 5)
    # The program of one query finds what those of many find.
    one = knn.search(queries[:1], placed, 5)
    np.testing.assert_allclose(one[0][0], found[0][0], atol=1e-6)
    np.testing.assert_array_equal(one[1][0], found[1][0])
  assert knn._search._cache_size() - before <= 6, "1, 8, 16, 32, 64 and 128 queries"
