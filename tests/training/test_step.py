"""The step: the loss of a global batch, its targets, and the same on any number of devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lafg_jax.training import checkpoints, loop
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
}


def test_eight_devices_train_as_one(tmp_path, dataset, config_with, small):
  # The device count is fixed when jax starts: a process of its own.
  script = Path(__file__).parent / "check_devices.py"
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8",
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
  for case in report["cases"]:
    assert case["loss_error"] < 1e-5, case
    assert case["gradient_error"] < 1e-5, case
    assert case["worst_leaf_error"] < 1e-4, case
  # The loop itself, from sampling to checkpoint: 15 rows are padded to 16 there.
  assert jax.device_count() == 1
  config = config_with()
  config.update_from_flattened_dict(LOOP)
  loop.run(config, str(tmp_path / "one"), dataset, None)
  one, eight = (checkpoints.read(str(tmp_path / name), 3)[0] for name in ("one", "eight"))
  for path, x in one.items():
    np.testing.assert_allclose(eight[path], x, rtol=1e-5, atol=1e-6, err_msg=path)


def test_controls_start_as_full_does(config_with):
  """They differ from it in nothing but the text: to the bit, all that both of them have."""
  full = train_step.init_state(config_with(), 40, 24)[2].params
  assert set(full["projectors"]) == {"image", "text"}
  for alignment in ("orthogonal", "onehot"):
    control = train_step.init_state(config_with(loss__alignment=alignment), 40, None)[2].params
    for name in ("backbone", "embedding"):
      jax.tree.map(np.testing.assert_array_equal, control[name], full[name])
    np.testing.assert_array_equal(control["projectors"]["image"], full["projectors"]["image"])
  shuffled = train_step.init_state(config_with(language__shuffle=True), 40, 24)[2].params
  jax.tree.map(np.testing.assert_array_equal, shuffled, full)


def test_beta_means_the_same_under_sum_and_mean_and_for_every_m(dataset, prototypes, config_with):
  """L = L_aux + beta L_ali with L_aux a mean over slot pairs, m(m-1) times that under `sum`."""
  rng = np.random.default_rng(0)
  embedder, _, state = train_step.init_state(config_with(), len(dataset.class_names), 24)
  for m in (2, 3):
    batch = {
      "image": rng.integers(0, 256, (5 * m, 16, 16, 3), np.uint8),
      "label": np.tile(np.arange(5, dtype=np.int32), m),
    }
    totals = {}
    for reduction in ("sum", "mean"):
      config = config_with(loss__reduction=reduction, loss__beta=0.7, data__images_per_class=m)
      targets = train_step.alignment_targets(config, len(dataset.class_names), prototypes)
      total, metrics = jax.jit(train_step.make_loss(embedder, config, axis=None))(
        state.params, state.mean_projectors, batch, targets
      )
      scale = m * (m - 1) if reduction == "sum" else 1
      expected = metrics["l_aux"] + 0.7 * scale * metrics["l_ali"]
      np.testing.assert_allclose(total, expected, rtol=1e-6)
      totals[reduction] = total / scale
    np.testing.assert_allclose(totals["sum"], totals["mean"], rtol=1e-5)


def test_alignment_targets(dataset, prototypes, config_with):
  count = len(dataset.class_names)
  scaled = train_step.alignment_targets(
    config_with(loss__alignment="distribution"), count, prototypes
  )
  assert np.std(scaled["prototypes"]) == pytest.approx(1, abs=1e-5)
  raw = train_step.alignment_targets(
    config_with(loss__alignment="distribution", loss__unit_variance=False), count, prototypes
  )
  np.testing.assert_array_equal(raw["prototypes"], prototypes.prototypes)
  words = train_step.alignment_targets(config_with(loss__alignment="vocabulary"), count, prototypes)
  np.testing.assert_array_equal(words["vocabulary"], prototypes.vocabulary)
  mean = prototypes.vocabulary.mean(axis=0)
  for c, n in ((0, 0), (7, 3)):
    x, y = prototypes.queries[c] - mean, prototypes.vocabulary[n] - mean
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert words["attribute_cosine"][c, n] == pytest.approx(expected, abs=1e-5)
  assert (
    set(train_step.alignment_targets(config_with(loss__alignment="none"), count, None)) == set()
  )


def test_the_step_compiles_once(dataset, prototypes, config_with):
  config = config_with()
  embedder, optimizer, state = train_step.init_state(config, len(dataset.class_names), 24)
  step = jax.jit(train_step.make_step(embedder, optimizer, config, axis=None))
  targets = train_step.alignment_targets(config, len(dataset.class_names), prototypes)
  rng = np.random.default_rng(0)
  for _ in range(3):
    batch = {
      "image": rng.integers(0, 256, (10, 16, 16, 3), np.uint8),
      "label": rng.integers(0, 40, 10).astype(np.int32),
    }
    state, _ = step(state, batch, targets)
  assert step._cache_size() == 1
