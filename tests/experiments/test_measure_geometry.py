"""The script behind a table of docs/study/finches_scratch.md: prototypes and true attributes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_said_follows_what_is_seen_and_the_table_is_in_order(tmp_path):
  done = subprocess.run(
    [sys.executable, "experiments/measure_geometry.py", f"--cache={tmp_path}"],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  rows = [line.split("|")[1:3] for line in done.stdout.splitlines()[2:]]
  found = {name.strip(): float(r) for name, r in rows}
  assert len(found) == 6 and list(found.values()) == sorted(found.values(), reverse=True)
  # The written claims are true but for their noise; nothing that is read off them can be as true.
  assert next(iter(found)).startswith("what the sentences claim") and max(found.values()) > 0.7
  profile, attention = (
    next(r for n, r in found.items() if f"`{k}`" in n) for k in ("profile", "attention")
  )
  assert profile > attention + 0.1
