"""Processes that decode end with the one that has started them, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

PARENT = """
import multiprocessing, sys
import numpy as np
from ml_collections import ConfigDict
from lafg_jax.data import pipeline
from lafg_jax.data.datasets import Dataset
from lafg_jax.tasks.class_retrieval.batches import plan

if __name__ == "__main__":
  labels = np.repeat(np.arange(3), 4).astype(np.int32)
  pixels = np.zeros((12, 16, 16, 3), np.uint8)
  dataset = Dataset("synthetic", "train", pixels, labels, ("a", "b", "c"), ("x",) * 12)
  data = ConfigDict(dict(
    image_size=8, resize_size=8, train_crop="resize_crop", flip=True, classes_per_batch=2,
    images_per_class=2, num_workers=1, prefetch=2, scaled_decoding=True,
    pack="", instances=False, color_jitter=0.0, recoloured_per_batch=0, recolourings=1))
  batches = pipeline.train_batches(
    dataset, data, plan(dataset, data, 0), seed=0, start_step=0, num_steps=10**6)
  kept = next(batches)
  print(*[child.pid for child in multiprocessing.active_children()], flush=True)
  sys.stdin.readline()
"""


def running(pid):
  try:
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
  except FileNotFoundError:
    return False
  return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("end", ["exit", "kill"])
def test_no_worker_outlives_its_parent(tmp_path, end):
  script = tmp_path / "parent.py"
  script.write_text(PARENT)
  environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
  parent = subprocess.Popen(
    [sys.executable, str(script)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=environment,
    text=True,
  )
  children = [int(pid) for pid in parent.stdout.readline().split()]
  assert len(children) == 1 and running(children[0])
  # Signals to the process group are for the parent: the worker goes on.
  os.kill(children[0], signal.SIGTERM)
  os.kill(children[0], signal.SIGINT)
  time.sleep(0.3)
  assert running(children[0])
  if end == "kill":
    parent.kill()
    parent.wait(1000)
  else:
    _, errors = parent.communicate("\n", timeout=1000)
    assert parent.returncode == 0 and errors == "", "a loader left open at exit makes no noise"
  deadline = time.time() + 600
  while running(children[0]) and time.time() < deadline:
    time.sleep(0.1)
  outlived = running(children[0])
  if outlived:
    os.kill(children[0], signal.SIGKILL)
  assert not outlived
