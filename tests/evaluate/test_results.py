"""Embeddings from elsewhere: what an .npz may hold, and what is refused in one line."""

import numpy as np
import pytest

from lafg_jax.evaluate import results
from lafg_jax.utils.errors import UserError

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((12, 4)).astype(np.float32)
LABELS = np.repeat([3, 1, 2], 4)
NAMES = np.array(["owl", "ash", "été"])[LABELS - 1]


def evaluated(folder, **arrays):
  path = folder / "some.npz"
  np.savez(path, **{"vectors": VECTORS, "labels": LABELS} | arrays)
  result = results.evaluate_file(str(path), (1, 2))
  return {name: result[name] for name in (*results.names_of(result), "num_classes", "num_queries")}


def by_hand():
  """Recall@1 by the cosine, without this package."""
  x = VECTORS.astype(np.float64)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  cosines = x @ x.T - 3 * np.eye(12)
  return np.mean(LABELS[cosines.argmax(1)] == LABELS)


SAME = {
  "int8": {"labels": LABELS.astype(np.int8)},
  "uint64": {"labels": LABELS.astype(np.uint64) + np.uint64(2**63)},
  "far apart": {"labels": LABELS * 10**12 - 7},
  "whole floats": {"labels": LABELS.astype(np.float16)},
  "column": {"labels": LABELS[:, None]},
  "row": {"labels": LABELS[None]},
  "text": {"labels": NAMES},
  "text column": {"labels": NAMES[:, None]},
  "bytes": {"labels": np.char.encode(NAMES, "utf-8")},
  "float64": {"vectors": VECTORS.astype(np.float64)},
  "scaled": {"vectors": 1e-4 * VECTORS * np.arange(1, 13)[:, None]},
  "big-endian": {"vectors": VECTORS.astype(">f4"), "labels": LABELS.astype(">i8")},
  "more arrays": {"paths": NAMES, "classes": np.array([None])},
}


@pytest.mark.parametrize("what", SAME)
def test_labels_and_vectors_of_any_sort_give_the_same_figures(tmp_path, what):
  want = evaluated(tmp_path)
  assert want["recall@1"] == pytest.approx(by_hand()) and want["num_classes"] == 3
  assert evaluated(tmp_path, **SAME[what]) == pytest.approx(want)


def test_half_precision_and_queries_of_zeros_and_ones(tmp_path):
  half = evaluated(tmp_path, vectors=VECTORS.astype(np.float16))
  assert half["recall@1"] == pytest.approx(by_hand(), abs=0.1)
  asks = np.arange(12) % 4 == 0
  want = evaluated(tmp_path, is_query=asks)
  assert want["num_queries"] == 3
  for same in (asks.astype(np.int64), asks[:, None], asks.astype(np.uint8)):
    assert evaluated(tmp_path, is_query=same) == want


NAN = np.where(np.arange(12)[:, None] == 2, np.nan, VECTORS)
ONE_LINE = {
  "objects": ({"labels": NAMES.astype(object)}, "labels is an array of Python objects"),
  "vectors of objects": ({"vectors": VECTORS.astype(object)}, "vectors is an array of Python obj"),
  "halves": ({"labels": LABELS / 2}, "labels are float64 .12,. with values that are not whole"),
  "NaN label": ({"labels": np.full(12, np.nan)}, "values that are not whole"),
  "too few": ({"labels": LABELS[:-1]}, "a whole number or a text for each of 12 vectors"),
  "one-hot": ({"labels": np.eye(3)[LABELS - 1]}, r"labels are float64 \(12, 3\)"),
  "dates": ({"labels": LABELS.astype("datetime64[D]")}, r"labels are datetime64\[D\]"),
  "empty": ({"vectors": VECTORS[:0], "labels": LABELS[:0]}, r"vectors are float32 \(0, 4\), not"),
  "flat": ({"vectors": VECTORS[:, 0]}, r"vectors are float32 \(12,\), not real numbers \[n, D\]"),
  "maps": ({"vectors": VECTORS[..., None, None]}, r"vectors are float32 \(12, 4, 1, 1\)"),
  "complex": ({"vectors": VECTORS * 1j}, "vectors are complex"),
  "NaN": ({"vectors": NAN}, "source=.*some.npz: .*1 of 12 embeddings are not finite"),
  "zeros": ({"vectors": 0 * VECTORS}, "source=.*some.npz: .*(zero|finite)"),
  "all alone": ({"labels": np.arange(12)}, "source=.*some.npz: no query has another image"),
  "is_query": ({"is_query": np.arange(12)}, "is_query is int64"),
}  # fmt: skip


@pytest.mark.parametrize("what", ONE_LINE)
def test_anything_else_is_one_line(tmp_path, what):
  arrays, says = ONE_LINE[what]
  with pytest.raises(UserError, match=says) as error:
    evaluated(tmp_path, **arrays)
  assert "\n" not in str(error.value) and "some.npz" in str(error.value)


def test_arrays_of_other_names_and_files_of_other_kinds(tmp_path):
  np.savez(tmp_path / "a.npz", features=VECTORS, y=LABELS)
  with pytest.raises(
    UserError, match=r"a\.npz lacks an array .vectors and labels.; it has features, y"
  ):
    results.evaluate_file(str(tmp_path / "a.npz"), (1,))
  np.save(tmp_path / "b.npy", VECTORS)
  (tmp_path / "c.npz").write_bytes(b"no archive")
  for name in ("b.npy", "c.npz"):
    with pytest.raises(UserError, match=f"{name} is damaged or no npz file"):
      results.evaluate_file(str(tmp_path / name), (1,))
