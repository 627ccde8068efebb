"""Runs one cell in a worker process: the stages of its task, in a folder of their own."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from lafg_jax import stages, tasks
from lafg_jax.data import datasets
from lafg_jax.runtime import jax_settings
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import Stopped, UserError


@jax_settings.ours()
def run(config: ConfigDict, scratch: str, store: str) -> dict[str, Any]:
  """One run of the task: JSON with 'seed', what the task's `figures` gives, 'seconds', 'versions'.

  Args:
    config: resolved; the run is a pure function of it and of the files that it names.
    scratch: folder for what the run writes; it is deleted afterwards.
    store: folder of what stages before the training wrote, for all cells; and of the whole runs of
      a task that says which cells go in one folder (`followed_by` of its stages).

  Raises:
    UserError: as the stages do. Stopped: by a signal.
  """
  begun, task = time.monotonic(), tasks.find(config)
  with _folder(task, config, scratch, store) as folder, datasets.remembered():
    config, wanted = task.plan(config, folder, task.studied(config))
    if not stages.run_all(wanted, config, folder, store):
      raise Stopped("by a signal")
    figures = task.figures(config, folder)
  seconds = round(time.monotonic() - begun, 1)
  return {"seed": config.seed, **figures, "seconds": seconds, "versions": checkpoints.versions()}


@contextlib.contextmanager
def _folder(task: Any, config: ConfigDict, scratch: str, store: str) -> Iterator[str]:
  """The folder of a cell: of its own, or that of a finished cell which it follows.

  There the skip rule finds the same training done, and what is kept of images and texts. One
  worker has it at a time; another one that wants it at once has its own.
  """
  with tempfile.TemporaryDirectory(dir=scratch) as temporary:
    folder = os.path.join(temporary, "run")
    key = task.followed_by(config) if hasattr(task, "followed_by") else ""
    kept = os.path.join(store, f"run-{key}")
    # Renaming is what makes it this worker's.
    with contextlib.suppress(FileNotFoundError):
      if key:
        os.rename(kept, folder)
    os.makedirs(folder, exist_ok=True)
    yield folder
    if key:
      os.makedirs(store, exist_ok=True)
      # Another worker may have put its own there meanwhile.
      with contextlib.suppress(OSError):
        os.rename(folder, kept)


@jax_settings.ours()
def prepare(configs: list[ConfigDict], scratch: str, store: str) -> None:
  """Runs the stages of one process for all cells, before the workers start.

  They keep what they write in the store: cells that share their inputs share their outputs.

  Raises:
    UserError, Incomplete: as the stages do.
  """
  done = set()
  for config in configs:
    # Seeds differ in later stages alone.
    config = config.copy_and_resolve_references()
    config.seed = 0
    text = config.to_json()
    if text in done:
      continue
    done.add(text)
    task = tasks.find(config)
    try:
      config, wanted = task.plan(config, scratch, task.studied(config))
    except UserError:
      # Its worker says why, and the other cells run.
      continue
    alone = [stage for stage in wanted if not stage.all_processes]
    if alone:
      with tempfile.TemporaryDirectory(dir=scratch) as folder:
        stages.run_all(alone, config, folder, store)
