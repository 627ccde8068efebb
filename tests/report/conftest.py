"""The workdir of --stage=inspect, which the tests of its page share."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def inspected(tmp_path_factory):
  """The workdir of --stage=inspect, as a user runs it in an empty folder: 32 finches."""
  workdir = tmp_path_factory.mktemp("inspected")
  command = [sys.executable, "-m", "lafg_jax.main", "--config", "configs/synthetic.py:prototypes"]
  args = ("--stage=inspect", "--config.data.num_val_classes=8", "--config.language.cache=")
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
  done = subprocess.run(
    [*command, *args, f"--workdir={workdir}"],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == str(workdir / "language.html")
  for stage in ("describe", "encode", "prototypes", "inspect"):
    assert re.search(rf"stage {stage} \[\w+\]: running \(first run\)", done.stderr)
  assert not (workdir / "checkpoints").exists()
  return workdir


@pytest.fixture(scope="session")
def driver():
  """The module tests/report/driver.py."""
  spec = importlib.util.spec_from_file_location("driver", Path(__file__).with_name("driver.py"))
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def browser(driver, tmp_path):
  """A headless Chromium; the test is skipped where there is none."""
  if driver.BROWSER is None:
    pytest.skip("needs chromium or google-chrome on PATH: apt-get install chromium")
  found = driver.Browser(tmp_path / "profile")
  yield found
  found.close()
