"""The backbone as it is, and centred, beside a trained model: by hand, and measured once."""

import json

import numpy as np
import pytest

from lafg_jax.data import datasets, pipeline
from lafg_jax.evaluate import metrics, results
from lafg_jax.models import embedder as embedders
from lafg_jax.models.weights import resolve
from lafg_jax.tasks.class_retrieval import finishing, protocol, references, start, train

CHANGES = {
  "model__pretrained": "tiny_clip",
  "model__size": "auto",
  "model__pool": "auto",
  "model__options": "auto",
  "model__patch_size": 0,
  "model__layer_norm_eps": 0.0,
  "model__mean": (),
  "model__std": (),
  "model__width": 768,
  "model__depth": 12,
  "model__num_heads": 12,
  "model__mlp_dim": 3072,
  "loss__alignment": "none",
  "train__steps": 1,
  "data__num_val_classes": 6,
  "data__image_size": 48,
  "data__resize_size": 48,
  "evaluate__split": "val",
}


@pytest.mark.parametrize("dim", [0, 16])
def test_they_stand_beside_the_trained_model(config_with, tmp_path, monkeypatch, dim):
  config = resolve.resolve(config_with(**CHANGES, model__embedding_dim=dim))
  monkeypatch.setattr(finishing, "CENTRE_IMAGES", 20)
  splits = datasets.load_splits(config.data, ("train", "val"))
  train.run(config, str(tmp_path), splits["train"], None, None)
  result = protocol.run(config, str(tmp_path))
  titles = ["backbone"] * bool(dim) + ["backbone centred", "before training", "trained", "chance"]
  assert list(results.columns_of(result)) == titles
  bare = references.without_head(config)
  embedder, params = embedders.init_model(bare)

  def embedded(dataset):
    batches = pipeline.eval_batches(dataset, config.data, len(dataset.labels))
    v = embedder.apply({"params": params}, np.concatenate([x["image"] for x in batches]))
    return v / np.linalg.norm(v, axis=1, keepdims=True)

  vectors, labels = embedded(splits["val"]), splits["val"].labels
  mean = embedded(start.sample(splits["train"], 20)).mean(axis=0)
  for name, by_hand in (("backbone", vectors), ("backbone_centred", vectors - mean)):
    found = metrics.evaluate_embeddings(by_hand, labels, (1,), normalize=True)
    got = result.get(name, result["untrained"])
    assert got["map@r"] == pytest.approx(found["map@r"], abs=2e-3), name
  assert len(json.loads((tmp_path / references.UNTRAINED).read_text())) == 2 + bool(dim)
  # What is kept needs neither the weights nor the training images.
  monkeypatch.setattr(embedders, "init_model", None)
  assert protocol.run(config, str(tmp_path)) == result


def test_other_training_images_leave_the_centred_backbone_out(config_with, tmp_path, caplog):
  config = resolve.resolve(config_with(**CHANGES, model__embedding_dim=0))
  dataset = datasets.load_splits(config.data, ("train",))["train"]
  train.run(config, str(tmp_path), start.sample(dataset, 60), None, None)
  result = protocol.run(config, str(tmp_path))
  assert "untrained" in result and "backbone_centred" not in result
  assert any("the centred backbone is left out" in line for line in caplog.messages)
