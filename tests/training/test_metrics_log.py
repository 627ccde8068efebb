"""TensorBoard files: written without torch, which stays importable; what an evaluation adds."""

import io
import json
import struct
import subprocess
import sys

import pytest
from PIL import Image

from lafg_jax.training import metrics_log

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


def events(folder):
  """{(tag, step): value} of a folder's event files, read as TensorFlow's records; none twice."""
  from tensorboardX.proto.event_pb2 import Event

  found = {}
  for path in folder.glob("*tfevents*"):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (length,) = struct.unpack("<Q", data[at : at + 8])
      event = Event.FromString(data[at + 12 : at + 12 + length])
      at += length + 16
      for value in event.summary.value:
        key = value.tag, event.step
        assert key not in found, f"{key} is there twice"
        is_image = value.HasField("image")
        found[key] = value.image if is_image else value.simple_value
  return found


def result(step, recall, **more):
  metrics = {"recall@1": recall, "map@r": recall / 2, "r_precision": recall / 4}
  return {"split": "test", "source": "checkpoint", "step": step, **metrics} | more


def test_an_evaluation_stands_beside_the_curves_once(tmp_path):
  before = {"recall@1": 0.125, "map@r": 0.0625, "r_precision": 0.03125}
  for step, recall in ((4, 0.25), (8, 0.375), (8, 0.5)):
    metrics_log.evaluated(str(tmp_path), result(step, recall, untrained=before))
  metrics_log.evaluated(str(tmp_path), result(4, 0.75, source="best"))
  metrics_log.evaluated(str(tmp_path), result(4, 0.625, split="val"))
  # Embeddings of a file are of no step.
  metrics_log.evaluated(str(tmp_path), {"split": "all", "source": "x.npz", "recall@1": 1.0})
  found = events(tmp_path / "tensorboard" / "evaluation")
  recalls = {key: x for key, x in found.items() if key[0].endswith("/recall@1")}
  assert recalls == {
    ("test/recall@1", 0): 0.125, ("test/recall@1", 4): 0.25, ("test/recall@1", 8): 0.5,
    ("test-best/recall@1", 4): 0.75, ("val/recall@1", 4): 0.625,
  }  # fmt: skip
  assert found["test/map@r", 8] == 0.25 and found["test/r_precision", 0] == 0.03125


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_picture_of_an_evaluation_is_there_once(tmp_path, mode):
  for colour in ("black", "white"):
    buffer = io.BytesIO()
    Image.new(mode, (12, 8), colour).save(buffer, "PNG")
    metrics_log.pictured(str(tmp_path), result(8, 0.5), "retrieval", buffer.getvalue())
  ((key, image),) = events(tmp_path / "tensorboard" / "evaluation").items()
  assert key == ("test/retrieval", 8) and (image.width, image.height) == (12, 8)
  assert image.encoded_image_string == buffer.getvalue()


def test_tensorboard_has_the_lines_of_metrics_jsonl(tmp_path, config_with):
  from lafg_jax.training import loop
  from lafg_jax.training.step import Objective

  made, feed = Objective({}, None, None, {}, {}, 8, {}), loop.Feed(None, None, (), lambda step: [])
  train = config_with().train
  with metrics_log.MetricsLog(str(tmp_path), 0, train, made, feed) as log:
    for step in (1, 2):
      log.validated(step, {"val_map@r": step / 4})
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"step": 1, "val_map@r": 0.25}, {"step": 2, "val_map@r": 0.5},
  ]  # fmt: skip
  assert events(tmp_path / "tensorboard") == {("val_map@r", 1): 0.25, ("val_map@r", 2): 0.5}
