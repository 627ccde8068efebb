"""A head that starts from training images: computed once, kept, the same after a kill."""

import shutil

import numpy as np
import pytest
from sklearn.decomposition import PCA

from lafg_jax.data import pipeline
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import checks, protocol, start, train
from lafg_jax.tasks.class_retrieval.default import validate
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import UserError

CHANGES = {
  "model__head_init": "pca",
  "model__embedding_dim": 4,
  "loss__alignment": "none",
  "train__steps": 2,
  "train__checkpoint_every": 1,
}


@pytest.fixture(scope="module")
def run(config_with, dataset, tmp_path_factory):
  config, workdir = config_with(**CHANGES), tmp_path_factory.mktemp("run")
  assert train.run(config, str(workdir), dataset, None) == (2, False)
  return config, workdir


def test_the_head_has_the_components_of_training_features(run, dataset):
  config, workdir = run
  head = start.kept_head(str(workdir))
  few = start.sample(dataset, start.HEAD_IMAGES)
  batches = pipeline.eval_batches(few, config.data, len(few.labels))
  images = np.concatenate([batch["image"] for batch in batches])
  plain = config.copy_and_resolve_references()
  plain.model.update(embedding_dim=0, head_init="random")
  embedder, params = embedders.init_model(plain)
  features = np.asarray(embedder.apply({"params": params}, images), np.float64)
  expected = PCA(4).fit_transform(features)
  found = features @ head["kernel"] + head["bias"]
  signs = np.sign((found * expected).sum(axis=0))
  np.testing.assert_allclose(found, expected * signs, atol=1e-3 * np.abs(expected).max())


def test_a_run_that_goes_on_reads_it_and_ends_in_the_same_bits(run, dataset, tmp_path, monkeypatch):
  config, workdir = run
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  shutil.rmtree(copy / checkpoints.FOLDER / "2")
  monkeypatch.setattr(start, "_features", None)
  assert train.run(config, str(copy), dataset, None) == (2, False)
  before, after = (checkpoints.read(str(x), 2)[0] for x in (workdir, copy))
  for path, x in before.items():
    np.testing.assert_array_equal(x, after[path], err_msg=path)


def test_the_model_before_training_has_that_head(run, dataset, tmp_path, caplog):
  config, workdir = run
  with_file, without = tmp_path / "with", tmp_path / "without"
  for folder in (with_file, without):
    shutil.copytree(workdir, folder)
  (without / start.FILE).unlink()
  result = protocol.run(config, str(with_file))
  assert "untrained" not in protocol.run(config, str(without))
  asked = config.copy_and_resolve_references()
  asked.evaluate.source = "untrained"
  # It makes the head anew, where no run has.
  again = protocol.run(asked, str(without))
  assert (without / start.FILE).exists()
  for name, value in result["untrained"].items():
    assert again[name] == pytest.approx(value, abs=1e-6)


def test_a_sample_is_of_all_classes(dataset):
  few = start.sample(dataset, 80)
  assert len(few.labels) == len(few.ids) == 80 and len(set(few.ids)) == 80
  assert set(few.labels.tolist()) == set(dataset.labels.tolist())


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"model__head_init": "pca", "model__embedding_dim": 0}, "head_init=pca: without an embedding"),
    ({"model__head_init": "identity", "model__embedding_dim": 8}, "the backbone's width is 16"),
    ({"model__head_init": "pca", "model__embedding_dim": 20}, "features of 16 numbers"),
  ],
)
def test_what_cannot_be_is_one_line_before_work_starts(config_with, changes, says):
  config = config_with(**changes)
  with pytest.raises(UserError, match=says):
    validate(config, ["train"])
    checks.parameters(config)
