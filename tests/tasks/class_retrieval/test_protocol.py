"""What training does to retrieval, and an embeddings file that cannot be evaluated."""

import re

import numpy as np
import pytest

from lafg_jax.evaluate import results
from lafg_jax.tasks.class_retrieval import protocol, train
from lafg_jax.training import metrics_log
from lafg_jax.utils.errors import UserError

# Some seconds of training that show.
LEARNS = {
  "train__steps": 300,
  "train__log_every": 50,
  "train__checkpoint_every": 300,
  "train__learning_rate": 4e-3,
  "data__classes_per_batch": 20,
  "data__images_per_class": 4,
  "model__width": 32,
  "model__embedding_dim": 32,
  "loss__alignment": "onehot",
}


def test_training_finds_more_of_unseen_classes_than_the_model_did_before(
  config_with, dataset, tmp_path, monkeypatch
):
  told = []
  monkeypatch.setattr(metrics_log.logging, "info", lambda _, *args: told.extend(map(str, args)))
  config = config_with(**LEARNS)
  train.run(config, str(tmp_path), dataset, None)
  result = protocol.run(config, str(tmp_path))
  for name in ("recall@1", "map@r"):
    assert result[name] > 2 * result["untrained"][name], (name, result)
  progress = [text for text in told if text.startswith("step 300/300 (100%)")]
  assert len(progress) == 1 and re.search(r"  [1-9]\d* img/s  ETA 0m00s$", progress[0])


@pytest.mark.parametrize("value", [True, False])
def test_queries_without_a_gallery_are_one_line(tmp_path, value):
  path = tmp_path / "some.npz"
  arrays = {"vectors": np.eye(4, dtype=np.float32), "labels": np.array([0, 0, 1, 1])}
  np.savez(path, **arrays, is_query=np.full(4, value))
  with pytest.raises(UserError, match=rf"source=.*some.npz: is_query is {value} for all 4 rows"):
    results.evaluate_file(str(path), (1,))
  np.savez(path, **arrays, is_query=np.array([True, False, True, False]))
  assert results.evaluate_file(str(path), (1,))["num_queries"] == 2
