"""The figures of a cell, overall and by class, counted by hand."""

import numpy as np
import pytest

from lafg_jax.ablation import cells
from lafg_jax.data.datasets import Dataset

# On a line; 'c' has one image, which has nothing to find.
AT = np.array([0.0, 1.0, 2.1, 3.5, 9.0])
LABELS = np.array([0, 0, 1, 1, 2], np.int32)


def given(is_query=None, names=("a", "b", "c", "none")):
  ids = tuple(map(str, range(len(AT))))
  data = Dataset("x", "test", None, LABELS, names, ids, is_query=is_query)
  # Dot products of unit vectors fall with the angle.
  vectors = np.stack([np.cos(AT / 10), np.sin(AT / 10)], 1).astype(np.float32)
  return vectors, data


def test_means_by_class_and_overall():
  vectors, data = given()
  found = cells.measure(vectors, LABELS, data, np.arange(5), (1, 2))
  assert found["by_class"] == {
    "num_queries": [2, 2, 0, 0],
    # Image 2 is nearer to 1 than to 3. R is 1, so MAP@R is the same.
    "recall@1": [1.0, 0.5, 0.0, 0.0],
    "map@r": [1.0, 0.5, 0.0, 0.0],
  }
  assert found["num_queries"] == 5 and found["num_queries_without_match"] == 1
  numbers = np.array(found["by_class"]["num_queries"])
  for name in ("recall@1", "map@r"):
    assert found[name] == pytest.approx(np.average(found["by_class"][name], weights=numbers))


def test_queries_and_gallery_stay_apart():
  asks = np.array([True, False, True, False, False])
  vectors, data = given(asks)
  found = cells.measure(vectors, LABELS, data, np.arange(5), (1,))
  # Image 0 finds 1; image 2 finds 1 as well, which is of another class.
  assert found["num_queries"] == 2 and found["num_gallery"] == 3
  assert found["by_class"]["num_queries"] == [1, 1, 0, 0]
  assert found["by_class"]["recall@1"] == [1.0, 0.0, 0.0, 0.0] and found["recall@1"] == 0.5
