"""TensorBoard files are written without torch, which stays importable."""

import subprocess
import sys

PROGRAM = """
import sys
from lafg_jax.metrics_log import summary_writer
board = summary_writer()(sys.argv[1])
board.add_scalar("loss", 0.5, 3)
board.close()
assert "torch" not in sys.modules
import torch
assert torch.ones(2).sum() == 2
assert summary_writer() is not None and sys.modules["torch"] is torch
"""


def test_the_writer_leaves_torch_out_and_importable(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  (events,) = tmp_path.glob("events.out.tfevents.*")
  assert b"loss" in events.read_bytes()
