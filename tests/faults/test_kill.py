"""The short version of kill.py: a few SIGKILLs, with data workers on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill.py")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_killed_at_random_and_rerun_equals_unbroken(tmp_path):
  command = [sys.executable, str(SCRIPT), "--kills=2", "--steps=100", f"--workdir={tmp_path}"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  row = done.stdout.splitlines()[-1]
  assert row.startswith("| 2 SIGKILLs, 2 data workers") and "bit-identical" in row
  assert re.search(r"[12] in (training|a save)", row), row
