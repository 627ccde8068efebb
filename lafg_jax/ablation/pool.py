"""Runs cells in worker processes. Each runs many cells, since a process takes seconds to start."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.ablation import results, worker
from lafg_jax.ablation.plan import Cell
from lafg_jax.evaluate.results import TITLES, percent
from lafg_jax.runtime import interrupts
from lafg_jax.utils import config_keys, files

# Below the workdir: what runs write, and what stages before the training wrote for all cells.
_SCRATCH, _STORE = "scratch", "store"
_CONTEXT = multiprocessing.get_context("spawn")


class _Worker:
  """A process that runs one cell after the other, and the cell that it has."""

  def __init__(self, number: int, workdir: str, environment: dict[str, str]) -> None:
    self.connection, theirs = _CONTEXT.Pipe()
    self.folders = [os.path.join(workdir, name) for name in (_SCRATCH, _STORE)]
    self.log = Path(workdir, f"worker-{number}.log")
    # No daemon: Python lets those start no workers that decode (data.num_workers).
    self.process = _CONTEXT.Process(target=worker.main, args=(theirs, str(self.log), environment))
    with interrupts.born_deaf():
      self.process.start()
    theirs.close()
    self.cell: Cell | None = None
    self.begun = 0

  def give(self, waiting: list[Cell]) -> None:
    """Sends the first of the cells that wait, if there is one."""
    self.cell = waiting.pop(0) if waiting else None
    if self.cell is not None:
      self.begun = self.log.stat().st_size if self.log.exists() else 0
      self.connection.send((json.dumps(config_keys.flatten(self.cell.config)), *self.folders))

  def take(self) -> dict[str, Any]:
    """The result of its cell; {'error', 'log'} where it failed, which may end the process."""
    try:
      return self.connection.recv()
    except (EOFError, ConnectionResetError):
      self.process.join()
      with open(self.log, "rb") as file:
        file.seek(self.begun)
        text = file.read().decode(errors="replace").strip()
      last = text.splitlines()[-1] if self.process.exitcode == 1 and text else ""
      return {"error": last or f"its process ended with {self.process.exitcode}", "log": text}


def run(cells: Sequence[Cell], workdir: str, jobs: int) -> int:
  """Runs the cells that are not finished; returns how many failed.

  A finished cell is one JSON file, written whole. Ctrl-C ends the workers, and a rerun runs the
  other cells. `jobs` is the number of worker processes; 0 is one a core, or one an accelerator.
  """
  todo = [cell for cell in cells if cell.finished() is None]
  stale = [cell for cell in todo if cell.path.exists()]
  logging.info("cells: %d, of which %d are finished", len(cells), len(cells) - len(todo))
  if stale:
    names = ", ".join(f"{c.start}/{c.variant}/{c.seed}" for c in stale[:3])
    logging.info("cells: %d are of other settings or inputs and run again (%s)", len(stale), names)
  if not todo:
    return 0
  from lafg_jax.ablation import cells as runs

  # Cells with the same settings train once, whatever their names.
  alike: dict[str, list[Cell]] = {}
  for cell in todo:
    alike.setdefault(cell.key, []).append(cell)
  scratch, store = (os.path.join(workdir, name) for name in (_SCRATCH, _STORE))
  shutil.rmtree(scratch, ignore_errors=True)
  os.makedirs(scratch)
  try:
    runs.prepare([cells[0].config for cells in alike.values()], scratch, store)
    return _drive(alike, workdir, worker.environments(jobs, len(alike)))
  finally:
    shutil.rmtree(scratch, ignore_errors=True)


def _drive(alike: dict[str, list[Cell]], workdir: str, environments: list[dict[str, str]]) -> int:
  waiting, failed, done, begun = [same[0] for same in alike.values()], 0, 0, time.monotonic()
  workers: list[_Worker] = []
  try:
    for number, environment in enumerate(environments):
      workers.append(_Worker(number, workdir, environment))
      workers[-1].give(waiting)
    while busy := [one.connection for one in workers if one.cell]:
      for ready in wait(busy):
        number, one = next((k, x) for k, x in enumerate(workers) if x.connection is ready)
        assert one.cell is not None
        result = one.take()
        done += 1
        left = (len(alike) - done) * (time.monotonic() - begun) / done
        failed += not _keep(alike[one.cell.key], result, f"{done}/{len(alike)}", left)
        if not one.process.is_alive():
          workers[number] = _Worker(number, workdir, environments[number])
        workers[number].give(waiting)
  finally:
    for one in workers:
      one.process.kill()
      one.process.join()
  return failed


def _keep(cells: Sequence[Cell], result: dict[str, Any], count: str, left: float) -> bool:
  """Writes and logs the result of cells that are the same, or the log of its failure."""
  name, log = ", ".join(map(str, cells)), cells[0].path.with_suffix(".log")
  eta = f"ETA {left // 3600:.0f}h{left % 3600 // 60:02.0f}m"
  if "error" in result:
    with files.replacing(log) as temporary:
      temporary.write_text(f"{result['log']}\n{result['error']}\n", encoding="utf-8")
    why = " ".join(result["error"].split())
    logging.error("cell %s %s failed: %s (%s)  %s", count, name, why, log, eta)
    return False
  for one in cells:
    results.keep(one, result)
  log.unlink(missing_ok=True)
  measured = [metric for metric in TITLES if metric in result]
  figures = "  ".join(f"{TITLES[metric]} {percent(result[metric])}" for metric in measured)
  logging.info("cell %s %s: %s (%.0f s)  %s", count, name, figures, result["seconds"], eta)
  return True
