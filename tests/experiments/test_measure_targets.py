"""The script that holds true attributes against targets without words."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.finches import classes

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def script(monkeypatch, small):
  monkeypatch.syspath_prepend(str(EXPERIMENTS))
  spec = importlib.util.spec_from_file_location(
    "measure_targets", EXPERIMENTS / "measure_targets.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  monkeypatch.setattr(module, "SMALL", {k: v for k, v in small.items() if "train." not in k})
  yield module
  for name in ("seeds", "steps", "targets", "cache"):
    delattr(module.flags.FLAGS, name)
  sys.modules.pop("measure_geometry")


def test_a_fold_trains_on_some_classes_and_retrieves_among_the_others(script, tmp_path):
  whole = script.datasets.load_splits(script.config(2, str(tmp_path)).data, ("train",))["train"]
  held_out = []
  for fold in range(script.FOLDS):
    train_half, rest = script.split(whole, fold)
    assert (len(train_half.class_names), len(rest.class_names)) == (30, 10)
    assert not set(train_half.class_names) & set(rest.class_names)
    held_out += rest.class_names
  assert sorted(held_out) == sorted(classes.class_names("seen"))
  known = script.words(script.config(2, str(tmp_path)).language, train_half.class_names)
  looks = known["looks"].prototypes
  np.testing.assert_allclose(np.linalg.norm(looks, axis=1), 1, atol=1e-6)
  # Classes of the same looks in all seven attributes would be one class.
  assert looks.shape == (30, 40) and (looks @ looks.T - np.eye(30)).max() < 0.95


def test_every_target_trains_and_the_table_has_the_paired_differences(script, tmp_path):
  found = script.measured(("orthogonal", "looks of another class"), 1, 2, str(tmp_path), folds=1)
  assert {x.shape for x in found.values()} == {(2, 2)}
  assert all((x > 0).all() and (x < 100).all() for x in found.values())
  rows = script.table({"orthogonal": np.array([[50, 20], [60, 30.0]]),
                       "looks": np.array([[52, 23], [61, 31.0]])}).splitlines()  # fmt: skip
  # (3 + 1) / 2 = 2, and t(0.975, 1) = 12.706 times sd / sqrt(2) = 1.
  assert rows[2] == "| looks | 56.5 | 27.0 | +2.0 | [-10.7, +14.7] |"
  assert rows[3] == "| orthogonal | 55.0 | 25.0 | | |"
