"""The script that reads what training gains over its start from few runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.tasks.class_retrieval import finishing

ROOT = Path(__file__).resolve().parents[2]
TINY = {
  "data.num_val_classes": 6, "data.image_size": 16, "data.resize_size": 16,
  "data.classes_per_batch": 4, "data.images_per_class": 2, "data.recoloured_per_batch": 0,
  "model.conv_stem": False, "model.width": 16, "model.depth": 1, "model.num_heads": 2,
  "model.mlp_dim": 16, "model.patch_size": 8, "loss.image_alignment": "none",
  "loss.image_beta": 5.0, "train.steps": 2,
}  # fmt: skip


@pytest.mark.long
def test_all_readings_are_of_one_run_and_a_run_that_is_done_is_not_repeated(tmp_path):
  out = tmp_path / "start.json"
  command = [sys.executable, "experiments/measure_start.py", "--config", "configs/synthetic.py"]
  command += [f"--workdir={tmp_path}/runs", f"--out={out}", "--images=20"]
  command += [f"--config.{key}={value}" for key, value in TINY.items()]
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  for targets in ("start,l_aux", "l_aux"):
    done = subprocess.run(
      [*command, f"--targets={targets}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
  assert "l_aux" not in done.stdout, "it is there already"
  start, run = json.loads(out.read_text())
  assert (start["targets"], run["targets"], run["classes"]) == ("start", "l_aux", 6)
  for name in ("alpha=0", "alpha=0 centred"):
    assert start["readings"][name] == run["readings"][name]
  plain = {name: of for name, of in run["by_class"].items() if not name.endswith(" centred")}
  assert list(plain) == [f"alpha={a:g}" for a in finishing.ALPHAS] + ["ema"]
  # By hand: alpha by the classes of one half, figures by those of the other.
  halves, found = (np.arange(0, 6, 2), np.arange(1, 6, 2)), []
  for here, there in (halves, halves[::-1]):
    at = {a: np.array(plain[f"alpha={a:g}"]["map@r"]) for a in finishing.ALPHAS}
    # All classes of finches have as many images.
    best = max(at, key=lambda a: round(100 * at[a][there].mean(), 2))
    found.append(100 * at[best][here].mean())
  assert run["readings"]["chosen"]["map@r"] == pytest.approx(np.mean(found), abs=0.02)
