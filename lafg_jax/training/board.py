"""Files for TensorBoard: `<workdir>/tensorboard` has the curves of the training, and its folder
`evaluation` the figures and the picture of each evaluation."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from lafg_jax.utils import files

FOLDER, EVALUATION = "tensorboard", "evaluation"


class Board:
  """A file of figures for TensorBoard, written at once and in this thread.

  tensorboardX's SummaryWriter has a thread of its own. On a full disk that thread dies, and each
  later write or close waits for it for ever.
  """

  def __init__(self, folder: str, start: int | None, suffix: str = "") -> None:
    """Creates a file, which makes TensorBoard drop other files' steps after `start`, if given."""
    os.makedirs(folder, exist_ok=True)
    events, self.event = tensorboard_parts()
    # The step keeps apart files of one second, or of a clock that was set back.
    self.file = events.EventsWriter(os.path.join(folder, "events"), suffix or f".{start:09d}")
    if start is not None:
      self._write(start + 1, session_log={"status": "START"})

  def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one value for each name."""
    for name, value in values.items():
      # tensorboardX's own function writes '@' as '_'.
      self._write(step, summary={"value": [{"tag": name, "simple_value": value}]})
    self.file.flush()

  def add_image(self, step: int, name: str, png: bytes) -> None:
    """Writes a picture, the bytes of a PNG file."""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    image = {"encoded_image_string": png, "width": width, "height": height, "colorspace": 3}
    self._write(step, summary={"value": [{"tag": name, "image": image}]})
    self.file.flush()

  def _write(self, step: int, **what: Any) -> None:
    self.file.write_event(self.event(wall_time=time.time(), step=step, **what))

  def close(self) -> None:
    self.file.close()


def replace(
  workdir: str,
  name: str,
  scalars: Iterable[tuple[int, Mapping[str, float]]] = (),
  images: Iterable[tuple[int, str, bytes]] = (),
) -> None:
  """Writes what was evaluated, in place of what an earlier evaluation wrote under this `name`."""
  folder, suffix = os.path.join(workdir, FOLDER, EVALUATION), f".{name}"
  with files.naming(folder):
    os.makedirs(folder, exist_ok=True)
    for old in [x for x in os.listdir(folder) if x.endswith(suffix)]:
      os.remove(os.path.join(folder, old))
    board = Board(folder, None, suffix)
    for step, values in scalars:
      board.add_scalars(step, values)
    for step, tag, png in images:
      board.add_image(step, tag, png)
    board.close()


def tensorboard_parts() -> tuple[Any, Any]:
  """tensorboardX's module of event files and its Event, imported without torch.

  tensorboardX imports torch where it is installed: seconds and some hundred megabytes of each
  training run, for nothing. A torch that is loaded already stays.
  """
  hidden = "torch" not in sys.modules
  if hidden:
    # Python takes None for a module that cannot be imported.
    sys.modules["torch"] = None  # type: ignore[assignment]
  try:
    from tensorboardX import event_file_writer
    from tensorboardX.proto import event_pb2
  finally:
    if hidden:
      del sys.modules["torch"]
  return event_file_writer, event_pb2.Event
