"""Experiment trackers (`train.tracker`), beside metrics.jsonl and TensorBoard.

A tracker works in a process of its own, which this one neither waits for nor depends on: whatever
fails or hangs there costs one warning, and the run goes on without it.
"""

import base64
import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

import lafg_jax
from lafg_jax.config import secrets
from lafg_jax.runtime import distributed
from lafg_jax.training import checkpoints, resume
from lafg_jax.training.tracker_process import FILE, FINISH_S
from lafg_jax.utils.files import fingerprint

# Variables that say which project a run goes to.
_DESTINATIONS = (
  *("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT"),
  *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"),
)
_PROGRAM = "from lafg_jax.training import tracker_process; tracker_process.main()"


class Tracker(NamedTuple):
  """Where figures go. No call waits or raises.

  scalars: (step, {name: number}) of training, in the order of steps; a step that a run repeats
    after a kill is left out.
  figures: (step, {name: number}) of an evaluation; left out where it is known already.
  image: (step, name, bytes of a PNG file).
  close: whether the command ended well; waits at most `FINISH_S` for what is under way.
  """

  scalars: Callable[[int, Mapping[str, float]], None]
  figures: Callable[[int, Mapping[str, float]], None]
  image: Callable[[int, str, bytes], None]
  close: Callable[[bool], None]


NONE = Tracker(*[lambda *unused: None] * 4)

# Of the command that runs: how its tracker is opened, and the tracker once it is open.
_open: Callable[[int | None], Tracker] | None = None
_opened: Tracker | None = None


@contextlib.contextmanager
def session(config: ConfigDict, workdir: str) -> Iterator[None]:
  """Within it, `begin` gives the tracker of the config, the same one to all stages of a command."""
  global _open, _opened
  if not config.train.tracker or distributed.process_index() != 0:
    yield
    return
  _open, well = lambda start: launch(_about(config, workdir, start)), False
  try:
    yield
    well = True
  finally:
    tracker, _open, _opened = _opened or NONE, None, None
    tracker.close(well)


def begin(start: int | None = None) -> Tracker:
  """The tracker, opened by the first call; `NONE` outside of a `session`.

  start: the step that training starts from; None for what trains nothing.
  """
  global _opened
  if _opened is None and _open is not None:
    _opened = _open(start)
  return _opened or NONE


def _about(config: ConfigDict, workdir: str, start: int | None) -> dict[str, Any]:
  """What the tracker's process has to know: what the run is, and what was sent of it before."""
  train = config.train
  to = fingerprint(train.tracker_project, [os.environ.get(name) for name in _DESTINATIONS])
  about = {
    "tracker": train.tracker,
    "to": to,
    "made_of": fingerprint(resume.deciding(config)),
    "workdir": os.path.abspath(workdir),
    "folder": os.path.basename(os.path.abspath(workdir)),
    "project": train.tracker_project,
    "name": train.tracker_name,
    "tags": list(dict.fromkeys([config.task, config.data.name, *train.tracker_tags])),
    "config": secrets.without(config),
    "command": shlex.join(secrets.command(sys.argv)),
    "versions": checkpoints.versions(),
    "run": None,
    "sent": {},
  }
  record = _recorded(workdir)
  same = all(record.get(key) == about[key] for key in ("tracker", "to"))
  # Another training from the start is another run.
  anew = start == 0 and record.get("made_of") != about["made_of"]
  if same and not anew:
    about |= {"run": record["run"], "sent": record["sent"]}
  return about


def _recorded(workdir: str) -> dict[str, Any]:
  path = Path(workdir, FILE)
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    return found | {"run": str(found["run"]), "sent": dict(found["sent"])}
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, TypeError, KeyError) as error:
    logging.warning("%s is damaged (%s): the tracker gets a new run", path, error)
    return {}


def launch(about: dict[str, Any]) -> Tracker:
  """Starts the process of a tracker; `NONE`, with a warning, where it cannot be started."""
  name = about["tracker"]
  root = str(Path(lafg_jax.__file__).parents[1])
  path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
  try:
    process = subprocess.Popen(
      [sys.executable, "-c", _PROGRAM],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      env=os.environ | {"PYTHONPATH": path},
      encoding="utf-8",
      # A group of its own, which can be killed with all that the tracker starts.
      start_new_session=True,
    )
  except OSError as error:
    logging.warning("%s: %s; the run goes on without it", name, error)
    return NONE
  waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
  failed = threading.Event()

  def give_up(why: str) -> None:
    if not failed.is_set():
      failed.set()
      logging.warning("%s: %s; the run goes on without it", name, why)
    with contextlib.suppress(OSError):
      os.killpg(process.pid, signal.SIGKILL)

  listener = threading.Thread(target=_listen, args=(process, name, give_up), daemon=True)
  threading.Thread(target=_write, args=(process, waiting), daemon=True).start()
  listener.start()

  def send(*line: Any) -> None:
    if not failed.is_set():
      waiting.put(json.dumps(line))

  def close(well: bool) -> None:
    send("end", well)
    waiting.put(None)
    listener.join(FINISH_S)
    if listener.is_alive():
      give_up(f"it did not finish within {FINISH_S} s, and what it has not sent is missing there")
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(1)

  waiting.put(json.dumps(about))
  image = lambda step, name, png: send("image", step, name, base64.b64encode(png).decode())  # noqa: E731
  scalars, figures = (lambda *of, kind=kind: send(kind, *of) for kind in ("scalars", "figures"))
  return Tracker(scalars, figures, image, close)


def _write(process: Any, waiting: queue.SimpleQueue) -> None:
  """Hands lines to the process, in a thread that may wait where no other one may."""
  with contextlib.suppress(OSError, ValueError):
    while (line := waiting.get()) is not None:
      process.stdin.write(line + "\n")
      process.stdin.flush()
    process.stdin.close()


def _listen(process: Any, name: str, give_up: Callable[[str], None]) -> None:
  """Reads what the process tells, to its end."""
  done = False
  for line in process.stdout:
    told = json.loads(line)
    if "at" in told:
      logging.info("%s: %s", name, told["at"])
    if "failed" in told:
      give_up(told["failed"])
    done = done or "done" in told
  if not done:
    give_up("its process ended")
