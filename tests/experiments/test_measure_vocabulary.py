"""The script behind the tables of docs/study/language_bases.md, on words small enough here."""

import json
import os
import subprocess
import sys
from pathlib import Path

from lafg_jax.finches import classes

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_prints_its_table_and_the_classes_asked_for(tmp_path):
  names = classes.class_names("seen")[:12]
  path = tmp_path / "words.json"
  path.write_text(json.dumps(classes.describe(names)))
  done = subprocess.run(
    [
      *(sys.executable, "experiments/measure_vocabulary.py", f"--descriptions={path}"),
      *("--encoder=tiny_clip", "--size=16", "--drop=0.1", f"--cache={tmp_path / 'cache'}"),
      f"--classes={names[3]}",
    ],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  rows = [line.split("|")[1:4] for line in done.stdout.splitlines() if line.startswith("| 16 ")]
  assert [[cell.strip() for cell in row] for row in rows] == [
    ["16", "10%", tau_k] for tau_k in ("1", "0.1", "0.05")
  ]
  shown = done.stdout.split(f"**{names[3]}**")[1]
  weights = [float(line.split()[1]) for line in shown.splitlines() if line.startswith("- ")]
  assert len(weights) == 5 and weights == sorted(weights, reverse=True) and sum(weights) <= 1.03
