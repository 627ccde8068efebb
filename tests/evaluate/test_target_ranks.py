"""Rankings with known answers against the full matrix, with ties and dropped rows."""

import numpy as np
import pytest

from lafg_jax.evaluate import target_ranks


def oracle(queries, gallery, k, targets, dropped, members):
  """The same by sorting the whole matrix, one query at a time."""
  scores = queries @ gallery.T
  best, subset = [], []
  for q, row in enumerate(scores):
    wrong_first = [(-row[g], g in set(targets[q]), g) for g in range(len(gallery))]
    order = [g for *_, g in sorted(wrong_first) if g != dropped[q]]
    best.append((order + [-1] * k)[:k])
    of = [g for g in order if g in set(members[q])]
    subset.append((of + [-1] * members.shape[1])[: members.shape[1]])
  return np.array(best), np.array(subset)


@pytest.mark.parametrize(("count", "size", "k"), [(5, 150, 12), (70, 300, 50), (3, 9, 20)])
def test_rankings_are_those_of_the_full_matrix_with_ties_and_dropped_references(count, size, k):
  rng = np.random.default_rng(count)
  # Small whole numbers: products are exact, and many rows tie.
  gallery = rng.integers(-1, 2, (size, 4)).astype(np.float32)
  queries = rng.integers(-2, 3, (count, 4)).astype(np.float32)
  targets = np.stack([rng.permutation(size)[:3] for _ in range(count)])
  targets[::2, 1:] = -1
  dropped = rng.integers(0, size, count)
  dropped[::3] = -1
  dropped[1] = targets[1, 0]
  members = np.stack([rng.permutation(size)[:5] for _ in range(count)])
  members[:, 0] = np.where(dropped < 0, members[:, 0], dropped)
  members[:, 1] = targets[:, 0]
  found = target_ranks.rank(
    *(queries, gallery, k),
    targets=targets,
    dropped=dropped,
    members=members,
    query_tile=32,
    gallery_tile=64,
  )
  best, subset = oracle(queries, gallery, k, targets, dropped, members)
  np.testing.assert_array_equal(found.rows, best)
  for row, (of, right) in enumerate(zip(found.members, subset, strict=True)):
    # A member that is named twice stands twice.
    assert [x for x in dict.fromkeys(of.tolist()) if x >= 0] == [x for x in right if x >= 0], row
  there = found.rows >= 0
  exact = np.take_along_axis(queries @ gallery.T, np.maximum(found.rows, 0), 1)
  np.testing.assert_array_equal(found.scores[there], exact[there])
  assert (found.scores[~there] == -np.inf).all()
