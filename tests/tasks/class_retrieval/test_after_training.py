"""Other weights of a run that is done: made of the same training, and never those of another."""

import json
import shutil

import numpy as np
import pytest

import lafg_jax
from lafg_jax import stages
from lafg_jax.tasks.class_retrieval import default, finishing, protocol, references, variants
from lafg_jax.tasks.class_retrieval import stages as task_stages
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import UserError

CLASSES, IMAGES, WIDTH = 8, 6, 10


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  rng = np.random.default_rng(1)
  labels = np.repeat(np.arange(CLASSES), IMAGES)
  x = rng.standard_normal((CLASSES, WIDTH))[labels] + rng.standard_normal((len(labels), WIDTH)) + 1
  path = tmp_path_factory.mktemp("file") / "birds.npz"
  np.savez(path, features=x.astype(np.float32), labels=labels)
  return path


def config_of(file, **changes):
  config = default.own_features()
  config.data.manifest = str(file)
  config.model.centre = False
  config.train.update(steps=4, checkpoint_every=2, log_every=2, learning_rate=0.1, interpolate=0.5)
  config.update_from_flattened_dict({key.replace("__", "."): x for key, x in changes.items()})
  return config


def run(config, workdir, names=None):
  """evaluation.json, after a run."""
  names = names or default.default_names(config)
  default.validate(config, names)
  resolved, wanted = task_stages.plan(config, str(workdir), names)
  assert stages.run_all(wanted, resolved, str(workdir))
  return json.loads((workdir / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def half_way(file, tmp_path_factory):
  """A run of alpha 0.5, which nobody changes."""
  workdir = tmp_path_factory.mktemp("half")
  run(config_of(file), workdir)
  return workdir


@pytest.fixture
def workdir(half_way, tmp_path):
  shutil.copytree(half_way, tmp_path / "run")
  return tmp_path / "run"


def by_hand(file, workdir, alpha, centred=False):
  """Unit embeddings of the test half by the weights between the identity and the trained head."""
  arrays = checkpoints.require(str(workdir))[0]
  kernel, bias = (arrays[f"state/params/embedding/{x}"] for x in ("kernel", "bias"))
  stored = np.load(file)
  v = stored["features"].astype(np.float64)
  v = (1 - alpha) * v + alpha * (v @ kernel + bias)
  v /= np.linalg.norm(v, axis=1, keepdims=True)
  train = stored["labels"] < CLASSES // 2
  v = v[~train] - (v[train].mean(axis=0) if centred else 0)
  return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.mark.parametrize(
  ("alpha", "centre"), [(0.25, False), (0.5, True), (1.0, False), (1.0, True), (0.5, False)]
)
def test_other_weights_are_made_of_the_same_training(file, workdir, alpha, centre):
  trained = (workdir / "checkpoints/4/meta/metadata").read_bytes()
  run(config_of(file, train__interpolate=alpha, model__centre=centre), workdir)
  assert (workdir / "checkpoints/4/meta/metadata").read_bytes() == trained, "nothing trains again"
  expected = by_hand(file, workdir, alpha, centre)
  np.testing.assert_allclose(np.load(workdir / "embeddings.npz")["vectors"], expected, atol=1e-5)
  of_test = np.load(file)["features"][-len(expected) :]
  retriever = lafg_jax.load_retriever(str(workdir))
  np.testing.assert_allclose(retriever.embed(of_test), expected, atol=1e-5)
  wanted = alpha != 1 or centre
  assert checkpoints.steps(str(workdir), checkpoints.FINAL) == ([4] if wanted else [])


def test_an_evaluation_alone_refuses_other_weights(file, workdir):
  config = config_of(file, train__interpolate=0.25)
  with pytest.raises(UserError, match=r"train.interpolate: 0.5 -> 0.25"):
    run(config, workdir, ["evaluate"])


def test_weights_made_of_another_run_are_not_taken_for_the_newest(file, workdir, tmp_path):
  """A run was started anew over an old one and stopped between its last step and its end."""
  run(config_of(file, seed=3), tmp_path / "other")
  shutil.rmtree(workdir / "checkpoints")
  shutil.copytree(tmp_path / "other/checkpoints", workdir / "checkpoints")
  of_test = np.load(file)["features"][-CLASSES // 2 * IMAGES :]
  retriever = lafg_jax.load_retriever(str(workdir))
  np.testing.assert_allclose(
    retriever.embed(of_test), by_hand(file, tmp_path / "other", 1.0), atol=1e-5
  )
  # Nor are such trained weights those behind the final ones.
  assert protocol._as_trained(str(workdir), checkpoints.read(str(workdir), 4, "final")[1]) == {}


def test_a_damaged_checkpoint_leaves_the_trained_weights_out(file, workdir, caplog):
  before = run(config_of(file), workdir)
  for path in (workdir / "checkpoints/4/arrays").rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:-1])
  (workdir / "evaluation.json").unlink()
  found = run(config_of(file), workdir, ["evaluate"])
  assert "as_trained" in before and found == {k: x for k, x in before.items() if k != "as_trained"}
  assert any("the trained weights are left out" in line for line in caplog.messages)


def test_the_pretrained_backbone_is_measured_as_it_is(file, tmp_path):
  found = [
    run(
      config_of(file, evaluate__source=source, model__centre=centre),
      tmp_path / f"{source}-{centre}",
      ["evaluate"],
    )
    for source, centre in (("pretrained", False), ("pretrained", True), ("untrained", True))
  ]
  assert found[0]["map@r"] == found[1]["map@r"] != found[2]["map@r"]


def of_cell(config):
  """The hashes of what decides a cell of the study of an untrained model."""
  return variants.decided_by(config, False, lambda asked, make: make())[2]


def test_a_centre_or_head_of_other_training_images_is_another_model(file, tmp_path):
  for changes in ({"model__centre": True}, {"model__head_init": "pca", "model__embedding_dim": 4}):
    config = config_of(file, evaluate__source="untrained", train__interpolate=1.0, **changes)
    asked, content = [task_stages._evaluate_inputs(config, str(tmp_path))], [of_cell(config)]
    config.data.max_train_classes = 2
    assert task_stages._evaluate_inputs(config, str(tmp_path)) not in asked
    assert of_cell(config) not in content
  resolved, _ = task_stages.plan(config, str(tmp_path), ["evaluate"])
  meta = {"made_of": {"the pretrained weights": None}, "dataset": {"content": "a"}}
  other = meta | {"dataset": {"content": "b"}}
  assert (
    references.hashes(resolved, meta)["untrained"]
    != references.hashes(resolved, other)["untrained"]
  )


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"model__embedding_dim": 4}, "head_init=identity: the backbone's width is 10"),
    ({"model__embedding_dim": 40, "model__head_init": "pca"}, "have as many components"),
  ],
)
def test_a_head_that_cannot_be_is_refused_before_it_is_evaluated(file, tmp_path, changes, says):
  config = config_of(file, evaluate__source="untrained", **changes)
  with pytest.raises(UserError, match=says):
    task_stages.plan(config, str(tmp_path), ["evaluate"])


def test_the_table_of_alphas_goes_with_the_run_that_made_it(file, tmp_path):
  held = {"data__num_val_classes": 2}
  run(config_of(file, train__interpolate=-1.0, **held), tmp_path)
  assert (tmp_path / finishing.FILE).exists()
  run(config_of(file, train__interpolate=0.25, **held), tmp_path)
  assert not (tmp_path / finishing.FILE).exists()
