"""The metrics of a run: a progress line with ETA, metrics.jsonl, TensorBoard files, a tracker."""

import collections
import contextlib
import json
import os
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.evaluate import results
from lafg_jax.training import board, divergence, trackers
from lafg_jax.training.step import Objective
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

FILE = "metrics.jsonl"


class MetricsLog:
  """Writes every `train.log_every` steps, each line one interval late.

  By then the device has the values, and the host does not wait for it. Only the first process
  writes. A rerun from a checkpoint drops the lines past it, so that no step is there twice.
  """

  def __init__(
    self, workdir: str, start: int, train: ConfigDict, objective: Objective, feed: Any
  ) -> None:
    self.train, self.start, self.objective, self.feed = train, start, objective, feed
    self.writes = jax.process_index() == 0
    self.path = os.path.join(workdir, FILE)
    self.pending: tuple[int, float, Any] | None = None
    self.unchecked: list[tuple[int, dict[str, jax.Array]]] = []
    self.clock: tuple[int, float] | None = None
    self.speed, self.warned = f"{feed.unit}_per_second", False
    self.bad_rows: collections.Counter[int] = collections.Counter()

  def __enter__(self) -> "MetricsLog":
    if self.writes:
      kept = [line for line in read(self.path) if line["step"] <= self.start]
      with files.replacing(self.path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
      self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
      folder = os.path.join(os.path.dirname(self.path), board.FOLDER)
      with files.naming(folder):
        self.board = board.Board(folder, self.start)
      self.tracker = trackers.begin(self.start)
    return self

  def __exit__(self, kind: Any, *unused) -> None:
    # An error that ended the run is not replaced by that of the same full disk here.
    with contextlib.suppress(*(() if kind is None else (OSError,))), contextlib.ExitStack() as end:
      if self.writes:
        end.enter_context(files.naming(self.path))
        end.callback(self.board.close)
        end.enter_context(self.file)
      self.flush()
    if self.bad_rows:
      counts = len(self.bad_rows), self.feed.unit, self.bad_rows.total()
      logging.warning("train: %d %s could not be read; others stood in %d times", *counts)

  def watch(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Takes every step's metrics, a few numbers on the device, for `check_finite`."""
    self.unchecked.append((step, {name: metrics[name] for name in divergence.SIGNS}))

  def write(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Takes a step's metrics ([devices] scalars on the device) and writes those taken before."""
    self.flush()
    self.pending = (step, time.monotonic(), metrics)

  def validated(self, step: int, measured: dict[str, float]) -> None:
    """Writes a line with the figures of the validation classes after this step."""
    self.flush()
    if self.writes:
      self._write(step, measured)
      text = "  ".join(f"{name} {value:.4f}" for name, value in measured.items())
      logging.info("step %d, validation classes: %s", step, text)

  def flush(self) -> None:
    """Writes the line that was taken last; to be called before a checkpoint of its step."""
    if self.pending is None:
      return
    step, now, metrics = self.pending
    self.pending = None
    line = self.check_finite(step, metrics)
    # The first interval holds the compilation: speed counts from its end.
    before, self.clock = self.clock, (step, now)
    if before is not None and now > before[1]:
      line[self.speed] = (step - before[0]) * self.objective.rows / (now - before[1])
    if self.writes:
      self._write(step, line)
      logging.info("%s", self._progress(step, line))
    steps = self.train.steps
    # 50 steps, or most of a run that has no more.
    warmed_up = step >= max(self.train.warmup * steps, 50 if steps > 50 else 0.75 * steps)
    done = {"done": step / steps}
    if warmed_up and not self.warned and (wrong := self.objective.warning(line | done)):
      self.warned = True
      logging.warning("step %d: %s", step, wrong)

  def _write(self, step: int, values: dict[str, float]) -> None:
    with files.naming(self.path):
      self.file.write(json.dumps({"step": step} | values) + "\n")
      self.file.flush()
      self.board.add_scalars(step, values)
    self.tracker.scalars(step, values)

  def _progress(self, step: int, line: dict[str, float]) -> str:
    steps = self.train.steps
    text = f"step {step}/{steps} ({step / steps:.0%})"
    text += "".join(f"  {x} {line[x]:.4g}" for x in self.objective.shown if x in line)
    if self.speed in line:
      seconds = (steps - step) * self.objective.rows / line[self.speed]
      text += f"  {line[self.speed]:.0f} {self.feed.unit}/s"
      text += f"  ETA {int(seconds // 60)}m{int(seconds % 60):02d}s"
    return text

  def check_finite(self, step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """The metrics as plain numbers.

    Raises UserError where the loss is no longer finite, so that nothing of this step is saved. The
    line names the first step that failed and its images.
    """
    line = {name: divergence.number(x) for name, x in metrics.items()}
    if not divergence.finite(line):
      before = (x for x in self.unchecked if x[0] < step and not divergence.finite(x[1]))
      first, signs = next(before, (step, metrics))
      where, names = os.path.dirname(self.path), self.feed.names_in(first)
      raise UserError(divergence.message(self.train, where, names, self.start, first, signs))
    self.unchecked = [x for x in self.unchecked if x[0] > step]
    return line

  def unreadable(self, rows: np.ndarray) -> None:
    """Reports each training image that could not be read, once, by its path."""
    for row in rows[rows >= 0].tolist():
      if row not in self.bad_rows:
        logging.warning("train: cannot read %s; another one stands in", self.feed.names[row])
      self.bad_rows[row] += 1


def read(path: str) -> list[dict[str, float]]:
  """The lines of a metrics.jsonl, without those that a kill cut short or that are damaged."""
  if not os.path.exists(path):
    return []
  lines: list[dict[str, float]] = []
  damaged = 0
  with open(path, encoding="utf-8", errors="replace") as file:
    for text in file:
      try:
        line = json.loads(text)
        lines.append(line | {"step": int(line["step"])})
      except (ValueError, TypeError, KeyError):
        # The last line may be half a line, of a process that is writing or was killed.
        damaged += text.endswith("\n")
  if damaged:
    logging.warning("%s: %d damaged lines are left out", path, damaged)
  return lines


def evaluated(workdir: str, result: dict[str, Any]) -> None:
  """Hands the figures of an evaluation to TensorBoard and the tracker, at its checkpoint's step.

  Those of the untrained model stand at step 0. An evaluation that is repeated replaces its figures.
  A file of embeddings has no step: nothing is written.
  """
  if jax.process_index() != 0 or "step" not in result:
    return
  group = _group(result)
  points = [(result["step"], result)]
  if "untrained" in result:
    points = [(0, result["untrained"]), *points]
  named = [
    (step, {f"{group}/{name}": x for name, x in results.metrics_only(of).items()})
    for step, of in points
  ]
  tracker = trackers.begin()
  for step, values in named:
    board.replace(workdir, f"{group}.{step:09d}", [(step, values)])
    tracker.figures(step, values)


def pictured(workdir: str, result: dict[str, Any], name: str, png: bytes) -> None:
  """Hands a picture of an evaluation, the bytes of a PNG file, to both, as `evaluated` does."""
  if jax.process_index() != 0 or "step" not in result:
    return
  group, step = _group(result), result["step"]
  board.replace(workdir, f"{group}-{name}.{step:09d}", images=[(step, f"{group}/{name}", png)])
  trackers.begin().image(step, f"{group}-{name}", png)


def _group(result: dict[str, Any]) -> str:
  """'test' of the newest checkpoint; of others with their source, such as 'test-best'."""
  kind = "" if result["source"] in ("checkpoint", "untrained") else f"-{result['source']}"
  return result["split"] + kind
