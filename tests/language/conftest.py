"""What tests share: four finches and the command that describes them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import logging

from lafg_jax.tasks.class_retrieval import default

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def logged(caplog):
  """What the package logs, from INFO on."""
  logger = logging.get_absl_logger()
  before, logger.propagate = logger.propagate, True
  with caplog.at_level("INFO", logger="absl"):
    yield caplog
  logger.propagate = before


@pytest.fixture
def finches():
  """The names of the four classes that `describe_finches` describes."""
  from lafg_jax.data import datasets

  config = default.get_config()
  config.data.name, config.data.num_val_classes = "synthetic", 36
  return datasets.class_splits(config.data)["train"]


@pytest.fixture
def describe_finches():
  """Runs --stage=describe as a user does: `(workdir, *flags, code=exit code) -> process`."""

  def run(workdir, *args, code):
    command = [sys.executable, "-m", "lafg_jax.main", "--config", "configs/synthetic.py:prototypes"]
    # 36 of the 40 classes held out: four to describe.
    args = ("--stage=describe", f"--workdir={workdir}", "--config.data.num_val_classes=36", *args)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
      [*command, *args], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done

  return run
