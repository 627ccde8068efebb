"""The step: the same on any number of devices, and compiled once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from lafg_jax.tasks.class_retrieval import objective, train
from lafg_jax.training import checkpoints
from lafg_jax.training import step as train_step

ROOT = Path(__file__).resolve().parents[2]
# A run of the loop that check_devices.py repeats on 8 devices; SGD does not blow up small sums.
LOOP = {
  "loss.alignment": "orthogonal",
  "data.images_per_class": 3,
  "train.steps": 3,
  "train.checkpoint_every": 3,
  "train.optimizer": "sgd",
  "train.learning_rate": 0.1,
  "train.ema": 0.5,
  "train.layer_decay": 0.7,
  "loss.start_distance": 0.05,
  "model.head_init": "identity",
  # What comes after the last step.
  "model.centre": True,
  "train.interpolate": 0.5,
}


def test_eight_devices_train_as_one(tmp_path, dataset, config_with, small):
  # The device count is fixed when jax starts: a process of its own.
  script = Path(__file__).parent / "check_devices.py"
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
    "PYTHONPATH": str(ROOT),
  }
  done = subprocess.run(
    [sys.executable, str(script), str(tmp_path / "eight"), json.dumps(small | LOOP)],
    env=environment,
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stderr
  report = json.loads(done.stdout.splitlines()[-1])
  assert report["devices"] == 8
  cases = [case["case"] for case in report["cases"]]
  assert [100, 9, "prototype", "mean", "sum", 0, 1] in cases
  assert [5, 3, "prototype", "mean", "mean", 2, 1] in cases, "none with LoRA"
  assert [5, 3, "orthogonal", "mean", "mean", 0, 0, "proxy_anchor"] in cases
  assert [5, 3, "none", "mean", "sum", 0, 0, "pairwise", "vocabulary"] in cases
  assert report["cases"][-1]["rows_per_chunk"] == 50, (
    "113 rows a device: 38 at a time, twice, and 37"
  )
  for case in report["cases"]:
    assert case["loss_error"] < 1e-5, case
    assert case["gradient_error"] < 1e-5, case
    assert case["worst_leaf_error"] < 1e-4, case
  # The loop itself, from sampling to checkpoint: 15 rows are padded to 16 there.
  assert jax.device_count() == 1
  config = config_with()
  config.update_from_flattened_dict(LOOP)
  train.run(config, str(tmp_path / "one"), dataset, None)
  for where in (checkpoints.FOLDER, checkpoints.FINAL):
    one, eight = (checkpoints.read(str(tmp_path / name), 3, where)[0] for name in ("one", "eight"))
    assert any("ema" in path or "centre" in path for path in one)
    for path, x in one.items():
      np.testing.assert_allclose(eight[path], x, rtol=1e-5, atol=1e-6, err_msg=path)


def test_the_step_compiles_once(dataset, prototypes, config_with):
  config = config_with()
  made = objective.build(config, len(dataset.class_names), prototypes)
  optimizer, state = train_step.init_state(made, config.train)
  step = jax.jit(train_step.make_step(made, optimizer, config.train, axis=None))
  rng = np.random.default_rng(0)
  for _ in range(3):
    batch = {
      "image": rng.integers(0, 256, (10, 16, 16, 3), np.uint8),
      "label": rng.integers(0, 40, 10).astype(np.int32),
    }
    state, _ = step(state, batch, made.constants, 0)
  assert step._cache_size() == 1
