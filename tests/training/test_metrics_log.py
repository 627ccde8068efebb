"""TensorBoard files are written without torch, which stays importable."""

import subprocess
import sys

PROGRAM = """
import sys
from lafg_jax.training.board import Board, tensorboard_parts
board = Board(sys.argv[1], 2)
board.add_scalars(3, {"loss": 0.5})
board.close()
assert "torch" not in sys.modules
import torch
assert torch.ones(2).sum() == 2
assert tensorboard_parts() and sys.modules["torch"] is torch
"""


def test_the_writer_leaves_torch_out_and_importable(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  (events,) = tmp_path.glob("events.out.tfevents.*")
  assert b"loss" in events.read_bytes()
