"""Weights between start and trained, and centring: by hand, after a kill, restored and exported."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from jax import export as jax_export

import lafg_jax
from lafg_jax import export
from lafg_jax.data import datasets, images
from lafg_jax.evaluate import metrics, results
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import finishing, objective, protocol, start, train
from lafg_jax.tasks.class_retrieval.default import validate
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import UserError

CHANGES = {
  "data__num_val_classes": 8,
  "loss__alignment": "onehot",
  "model__head_init": "identity",
  "model__centre": True,
  "train__interpolate": -1.0,
  "train__freeze": "backbone/block_0/mlp_1",
  "train__steps": 3,
  "train__checkpoint_every": 1,
  "train__learning_rate": 0.02,
}


@pytest.fixture(scope="module")
def run(config_with, tmp_path_factory):
  config, workdir = config_with(**CHANGES), tmp_path_factory.mktemp("run")
  splits = datasets.load_splits(config.data, ("train", "val"))
  assert train.run(config, str(workdir), splits["train"], None, splits["val"]) == (3, False)
  return config, workdir, splits


def flat(tree):
  return checkpoints.flatten(tree)


def by_hand(config, params, alpha, before, pictures):
  """Unit embeddings of the weights between, of crops of `pictures`."""
  between = {
    path: before[path] + np.float32(alpha) * (x - before[path])
    for path, x in params.items()
    if path.startswith(("backbone", "embedding"))
  }
  crops = np.stack([images.resize_centre_crop(x, 16, 16) for x in pictures])
  nested = checkpoints.subtree({f"p/{path}": x for path, x in between.items()}, "p")
  v = np.asarray(jax.jit(embedders.build(config.model).apply)({"params": nested}, crops))
  return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_alpha_is_the_best_on_validation_classes_and_all_of_it_is_written_down(run):
  config, workdir, splits = run
  written = json.loads((workdir / finishing.FILE).read_text())
  assert [row["alpha"] for row in written["validation"]] == list(finishing.ALPHAS)
  maps = [row["val_map@r"] for row in written["validation"]]
  assert written["alpha"] == finishing.ALPHAS[int(np.argmax(maps))] and written["step"] == 3
  before = flat(objective.build(config, len(splits["train"].class_names), None).params)
  trained = flat(checkpoints.subtree(checkpoints.read(str(workdir), 3)[0], "state/params"))
  few, val = start.sample(splits["train"], start.CENTRE_IMAGES), splits["val"]
  for row in written["validation"]:
    mean = by_hand(config, trained, row["alpha"], before, few.images).mean(axis=0)
    centred = by_hand(config, trained, row["alpha"], before, val.images) - mean
    found = metrics.evaluate_embeddings(centred, val.labels, (1,), normalize=True)
    assert row["val_map@r"] == pytest.approx(found["map@r"], abs=2e-3)
  arrays, meta = checkpoints.read(str(workdir), 3, checkpoints.FINAL)
  assert meta["alpha"] == written["alpha"] and not any("opt_state" in path for path in arrays)
  alpha = written["alpha"]
  mean = by_hand(config, trained, alpha, before, few.images).mean(axis=0)
  np.testing.assert_allclose(arrays["state/params/centre"], mean, atol=1e-5)
  for path, x in trained.items():
    moves = path.startswith(("backbone", "embedding"))
    expected = (1 - alpha) * before[path] + alpha * x if moves else x
    np.testing.assert_allclose(arrays[f"state/params/{path}"], expected, atol=1e-6, err_msg=path)
    if "block_0/mlp_1" in path:
      np.testing.assert_array_equal(arrays[f"state/params/{path}"], before[path])


def test_evaluation_retriever_and_both_exports_give_these_embeddings(run, tmp_path):
  config, workdir, splits = run
  pictures = [splits["val"].images[k] for k in range(3)]
  arrays = checkpoints.read(str(workdir), 3, checkpoints.FINAL)[0]
  params = flat(checkpoints.subtree(arrays, "state/params"))
  expected = by_hand(config, params, 1.0, params, pictures) - params["centre"]
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  retriever = lafg_jax.load_retriever(str(workdir))
  np.testing.assert_allclose(retriever.embed(pictures), expected, atol=1e-5)
  export.export(str(workdir), str(tmp_path / "out"), ("safetensors", "stablehlo"))
  exported = lafg_jax.load_retriever(str(tmp_path / "out"))
  np.testing.assert_array_equal(exported.embed(pictures), retriever.embed(pictures))
  program = jax_export.deserialize(bytearray((tmp_path / "out/model.stablehlo").read_bytes()))
  crops = np.stack([images.resize_centre_crop(x, 16, 16) for x in pictures])
  np.testing.assert_allclose(program.call(crops), expected, atol=1e-5)
  config = config.copy_and_resolve_references()
  config.evaluate.split = "val"
  protocol.run(config, str(workdir))
  vectors = np.load(workdir / results.EMBEDDINGS)["vectors"][:3]
  np.testing.assert_allclose(vectors, expected, atol=1e-5)
  card = (tmp_path / "out/README.md").read_text()
  assert "between those before training and those after it" in card and "mean embedding" in card


def test_the_trained_weights_stand_beside_those_between_them_and_the_start(run, tmp_path):
  config, _, splits = run
  config = config.copy_and_resolve_references()
  config.train.update(interpolate=0.5, steps=2)
  config.model.centre = False
  train.run(config, str(tmp_path), splits["train"], None, splits["val"])
  config.evaluate.split = "val"
  config.evaluate.references = False
  found, trained = protocol.run(config, str(tmp_path)), tmp_path / "checkpoints/2"
  params = flat(checkpoints.subtree(checkpoints.read(str(tmp_path), 2)[0], "state/params"))
  before = flat(objective.build(config, len(splits["train"].class_names), None).params)
  for name, alpha in (("map@r", 0.5), ("as_trained", 1.0)):
    vectors = by_hand(config, params, alpha, before, splits["val"].images)
    expected = metrics.evaluate_embeddings(vectors, splits["val"].labels, (1,), normalize=True)
    value = found[name] if name == "map@r" else found[name]["map@r"]
    assert value == pytest.approx(expected["map@r"], abs=2e-3)
  assert "untrained" not in found
  head = results.table(found).splitlines()[1]
  assert re.split(r"  +", head)[1:] == ["checkpoint", "without interpolation", "chance"]
  # Where they are gone, the others are evaluated all the same.
  shutil.rmtree(trained)
  assert "as_trained" not in protocol.run(config, str(tmp_path))


def test_a_kill_at_any_moment_ends_in_the_same_bits(run, tmp_path):
  config, workdir, splits = run
  both = splits["train"], None, splits["val"]
  whole = checkpoints.read(str(workdir), 3, checkpoints.FINAL)[0]
  shutil.copytree(workdir, tmp_path / "copy")
  for gone in ("checkpoints/3", "final"), ("final",), ():
    for name in gone:
      shutil.rmtree(tmp_path / "copy" / name)
    assert train.run(config, str(tmp_path / "copy"), *both) == (3, False)
    again, meta = checkpoints.read(str(tmp_path / "copy"), 3, checkpoints.FINAL)
    assert again.keys() == whole.keys()
    for path, x in whole.items():
      np.testing.assert_array_equal(x, again[path], err_msg=path)
  # Of another run it is made again.
  shutil.rmtree(tmp_path / "copy/checkpoints")
  config = config.copy_and_resolve_references()
  config.seed, config.train.interpolate = 5, 0.5
  train.run(config, str(tmp_path / "copy"), *both)
  other, meta = checkpoints.read(str(tmp_path / "copy"), 3, checkpoints.FINAL)
  assert meta["alpha"] == 0.5 and meta["config"]["seed"] == 5
  assert not np.array_equal(other["state/params/centre"], whole["state/params/centre"])


def test_the_update_of_lora_is_scaled_and_not_its_factors():
  rng = np.random.default_rng(0)
  w, a, b = (rng.standard_normal(shape).astype("f") for shape in ((4, 6), (4, 2), (2, 6)))
  trained = {"backbone": {"q": w}, "lora": {"q": {"a": a, "b": b}}, "projectors": {"image": w}}
  begun = {
    "backbone": {"q": w},
    "lora": {"q": {"a": a + 1, "b": 0 * b}},
    "projectors": {"image": b},
  }
  found = finishing.between(begun, trained, 0.25)
  np.testing.assert_allclose(
    found["lora"]["q"]["a"] @ found["lora"]["q"]["b"], a @ b / 4, rtol=1e-5
  )
  np.testing.assert_array_equal(found["backbone"]["q"], w)
  np.testing.assert_array_equal(found["projectors"]["image"], w)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"train__interpolate": -1.0}, "interpolate=auto: no classes are held out"),
    ({"train__interpolate": 1.5}, "interpolate=1.5: it takes a number from 0 to 1, or auto"),
    ({"model__centre": True}, "train.keep_best: model.centre makes its weights of the last step"),
    ({"train__interpolate": 0.5}, "train.keep_best: train.interpolate makes"),
  ],
)
def test_what_cannot_be_is_one_line(config_with, changes, says):
  best = {"train__keep_best": True, "train__validate_every": 3, "data__num_val_classes": 4}
  config = config_with(**(best if "keep_best" in says else {}), **changes)
  with pytest.raises(UserError, match=says):
    validate(config, ["train", "evaluate"])
