"""The figures of a cell, overall and by class, counted by hand."""

import json

import numpy as np
import pytest

from lafg_jax.evaluate import metrics, results
from lafg_jax.tasks.class_retrieval import protocol
from lafg_jax.utils.errors import UserError

# On a line; 'c' has one image, which has nothing to find.
AT = np.array([0.0, 1.0, 2.1, 3.5, 9.0])
LABELS = np.array([0, 0, 1, 1, 2], np.int32)
# Dot products of unit vectors fall with the angle.
VECTORS = np.stack([np.cos(AT / 10), np.sin(AT / 10)], 1).astype(np.float32)


def test_means_by_class_and_overall(tmp_path):
  found = metrics.evaluate_embeddings(VECTORS, LABELS, (1, 2))
  evaluation = found | {"dataset": "x", "split": "test", "step": 7, "source": "checkpoint"}
  evaluation["untrained"] = {"recall@1": 0.5}
  (tmp_path / results.FILE).write_text(json.dumps(evaluation))
  arrays = {"labels": LABELS, "vectors": VECTORS, "class_names": np.array(list("abcd"))}
  np.savez(tmp_path / results.EMBEDDINGS, **arrays)
  figures = protocol.figures(str(tmp_path))
  assert figures["steps"] == 7 and figures["split"] == "test" and "untrained" not in figures
  by_class = figures["by_class"]
  assert by_class == {
    "num_queries": [2, 2, 0, 0],
    # Image 2 is nearer to 1 than to 3. R is 1, so MAP@R is the same.
    "recall@1": [1.0, 0.5, 0.0, 0.0],
    "map@r": [1.0, 0.5, 0.0, 0.0],
  }
  assert figures["num_queries"] == 5 and figures["num_queries_without_match"] == 1
  for name in ("recall@1", "map@r"):
    mean = np.average(by_class[name], weights=by_class["num_queries"])
    assert figures[name] == pytest.approx(mean)
  (tmp_path / results.EMBEDDINGS).unlink()
  with pytest.raises(UserError, match="run --stage=evaluate first"):
    protocol.figures(str(tmp_path))


def test_queries_and_gallery_stay_apart():
  asks = np.array([True, False, True, False, False])
  found = protocol.by_class_means(VECTORS, LABELS, 4, asks)
  # Image 0 finds 1; image 2 finds 1 as well, which is of another class.
  assert found["num_queries"] == [1, 1, 0, 0]
  assert found["recall@1"] == [1.0, 0.0, 0.0, 0.0]
