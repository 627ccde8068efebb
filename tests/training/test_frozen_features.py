"""The features of a frozen backbone: made once, kept across kills, and the same as the images'."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from lafg_jax.data import datasets, images, pipeline
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import objective, train
from lafg_jax.tasks.class_retrieval.batches import plan
from lafg_jax.training import checkpoints, frozen_features, step

ROOT = Path(__file__).resolve().parents[2]
# 1,200 images in files of 8, each embedded at once.
MANY_FILES = {"train.frozen_backbone": True, "evaluate.batch_size": 8, "train.steps": 2,
              "model.conv_stem": False, "model.depth": 1}  # fmt: skip
# Strikes itself, so that it is struck in time however busy the machine is.
SCRIPT = """
import json, os, pathlib, signal, sys, threading, time
from configs import synthetic
from lafg_jax.data import datasets
from lafg_jax.tasks.class_retrieval import train
from lafg_jax.training import frozen_features
config = synthetic.get_config("prototypes")
config.update_from_flattened_dict(json.loads(sys.argv[2]))
frozen_features.CHUNK = 8
dataset = datasets.load_splits(config.data, splits=("train",))["train"]
def strike():
  while len(list(pathlib.Path(sys.argv[1]).glob("features/*/[0-9]*.npz"))) < 5:
    time.sleep(0.002)
  os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=strike, daemon=True).start()
train.run(config, sys.argv[1], dataset, None)
"""


def test_loss_and_head_gradient_are_those_of_the_whole_model(
  tmp_path, config_with, dataset, prototypes
):
  config = config_with(train__frozen_backbone=True, model__embedding_norm="layer")
  config.model.conv_stem, config.model.depth = False, 1
  made = objective.build(config, len(dataset.class_names), prototypes)
  averages = step.init_state(made, config.train)[1].averages
  embedder, key = embedders.build(config.model), step.step_key(0, 0)
  cached = frozen_features.features(config, str(tmp_path), dataset, embedder, made.params)
  batch = next(frozen_features.batches(config, dataset, cached, 0))
  crops = np.stack([images.resize_centre_crop(dataset.images[i], 16, 16) for i in batch["index"]])
  # The whole model, backbone and all, without anything that this mode does.
  loss = step.make_loss(made._replace(embed_reads={"image": None}), axis=None)
  whole = jax.jit(jax.value_and_grad(loss, has_aux=True))
  pictures = {"image": crops, "label": batch["label"]}
  (value, _), expected = whole(made.params, averages, pictures, made.constants, key)
  grads, metrics = jax.jit(step.make_gradients(made, config.train, axis=None))(
    made.params,
    averages,
    {"feature": batch["feature"], "label": batch["label"]},
    made.constants,
    key,
  )
  assert set(grads) == {"embedding", "projectors"}
  assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
  assert np.abs(expected["embedding"]["kernel"]).max() > 1e-3
  for part, path in (("embedding", "kernel"), ("embedding", "bias"), ("projectors", "image")):
    np.testing.assert_allclose(grads[part][path], expected[part][path], rtol=1e-3, atol=1e-5)


def test_the_batches_are_those_of_the_images(config_with, dataset):
  config = config_with(train__steps=3, train__feature_views=2)
  count = len(dataset.labels)
  vectors = np.stack([np.arange(count), np.arange(count)], axis=1)[..., None] * [[1.0], [-1.0]]
  cached = (vectors.astype(np.float32), np.arange(count, dtype=np.int32))
  ours = list(frozen_features.batches(config, dataset, cached, 1))
  theirs = list(
    pipeline.train_batches(
      dataset,
      config.data,
      plan(dataset, config.data, config.seed),
      seed=config.seed,
      start_step=1,
      num_steps=2,
    )
  )
  assert len(ours) == len(theirs) == 2
  for mine, other in zip(ours, theirs, strict=True):
    for name in ("label", "index", "unreadable"):
      np.testing.assert_array_equal(mine[name], other[name])
      assert mine[name].dtype == other[name].dtype
    np.testing.assert_array_equal(np.abs(mine["feature"][:, 0]), other["index"])
  signs = np.concatenate([np.sign(batch["feature"]) for batch in ours])
  assert {-1.0, 1.0} <= set(signs.ravel()), "one view is never shown"


def of_files(folder, unreadable):
  """Seven images of two classes as files; one cannot be read."""
  rng = np.random.default_rng(0)
  paths = [str(folder / f"{i}.png") for i in range(7)]
  for i, path in enumerate(paths):
    Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).save(path)
    if i == unreadable:
      Path(path).write_bytes(b"no image")
  labels = np.array([0, 0, 0, 1, 1, 1, 1], np.int32)
  return datasets.Dataset("few", "train", np.array(paths), labels, ("a", "b"), tuple(paths), False)


def test_views_are_always_the_same_and_another_image_stands_in(config_with, tmp_path):
  data = config_with(data__train_crop="random_resized").data
  few = of_files(tmp_path, unreadable=1)

  def views(ranges, count=3):
    batches = pipeline.view_batches(few, data, ranges, 6, views=count, seed=5)
    pairs = zip(batches, ranges, strict=True)
    return [(batch["image"][: last - first], batch["index"]) for batch, (first, last) in pairs]

  whole = np.concatenate([x for x, _ in views([(0, 6), (6, 12), (12, 18), (18, 21)])])
  assert whole.shape == (21, 16, 16, 3)
  (part, index), (last, padded) = views([(7, 13), (20, 21)])
  np.testing.assert_array_equal(part, whole[7:13])
  np.testing.assert_array_equal(last, whole[20:])
  assert index.tolist() == [2, 2, 3, 3, 3, 4] and padded.tolist() == [6] + 5 * [-1]
  assert not np.array_equal(whole[0], whole[1])
  (centre, shown), *_ = views([(0, 3)], count=0)
  assert shown.tolist() == [0, 2, 2, -1, -1, -1]
  for row, crop in zip((0, 2, 2), centre, strict=True):
    np.testing.assert_array_equal(crop, images.resize_centre_crop(Image.open(few.ids[row]), 16, 16))


def test_only_what_makes_the_features_makes_them_again(config_with, tmp_path):
  few = of_files(tmp_path, unreadable=-1)
  backbone = {"kernel": np.ones((2, 2), np.float32)}

  def key(dataset=few, weights=backbone, **changes):
    return frozen_features._key(config_with(**changes), dataset, weights)

  same = [key(), key(train__steps=99), key(model__embedding_dim=4), key(seed=1)]
  views = [key(train__feature_views=2), key(train__feature_views=2, seed=1)]
  others = [
    key(data__resize_size=32),
    key(data__pad="target"),
    key(model__pool="gem"),
    key(model__mean=(0.1, 0.5, 0.5)),
  ]
  others += [key(weights={"kernel": np.zeros((2, 2), np.float32)})]
  Path(few.ids[2]).write_bytes(b"another image")
  others.append(key())
  assert len(set(same)) == 1
  assert len(set(same + views + others)) == 1 + len(views) + len(others)


def test_a_kill_while_features_are_made_costs_no_more_than_one_file(
  tmp_path, config_with, small, dataset, monkeypatch, caplog
):
  changes = small | MANY_FILES | {"loss.alignment": "none"}
  command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), json.dumps(changes)]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == -signal.SIGKILL, done.stderr
  kept = sorted(tmp_path.glob("run/features/*/[0-9]*.npz"))
  assert 5 <= len(kept) < 150, done.stderr
  damaged = kept[2]
  damaged.write_bytes(damaged.read_bytes()[:-50])
  times = {path: path.stat().st_mtime_ns for path in kept if path != damaged}
  monkeypatch.setattr(frozen_features, "CHUNK", 8)
  config = config_with()
  config.update_from_flattened_dict(changes)
  with caplog.at_level("INFO", logger="absl"):
    assert train.run(config, str(tmp_path / "run"), dataset, None) == (2, False)
  assert f"features: {len(kept) - 1} of 150 files are there already" in caplog.text
  assert f"{damaged} does not read whole" in caplog.text
  assert all(path.stat().st_mtime_ns == then for path, then in times.items())
  params = checkpoints.subtree(checkpoints.read(str(tmp_path / "run"), 2)[0], "state/params")
  embedder = embedders.build(config.model)
  resumed, rows = frozen_features.features(config, str(tmp_path / "run"), dataset, embedder, params)
  unbroken, _ = frozen_features.features(config, str(tmp_path / "new"), dataset, embedder, params)
  np.testing.assert_array_equal(resumed, unbroken)
  np.testing.assert_array_equal(rows, np.arange(len(dataset.labels)))
  names = [path.name for path in sorted(kept[0].parent.iterdir()) if path.suffix == ".npz"]
  assert [n for n in names if n[0] != "."] == [f"{i:05d}.npz" for i in range(150)]
  assert (
    len(list(itertools.islice(frozen_features.batches(config, dataset, (resumed, rows), 0), 9)))
    == 2
  )
