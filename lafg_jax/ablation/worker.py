"""What a worker process does, and in which environment; nothing here imports jax before that."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
from typing import Any

from lafg_jax.config import command_line
from lafg_jax.runtime import malloc
from lafg_jax.utils.errors import UserError


def environments(jobs: int, cells: int) -> list[dict[str, str]]:
  """The environment variables of each of `jobs` workers, but of no more than there are cells.

  0 jobs are one a core, or one an accelerator where there is one.
  """
  kind, count = _backend()
  if kind == "cpu":
    # PJRT and Eigen split sums, and with them the rounding, over threads: with one, any number
    # of jobs gives the same bits.
    return [{"NPROC": "1"}] * min(jobs or len(os.sched_getaffinity(0)), cells)
  if kind != "gpu":
    return [{}] * min(jobs or 1, cells)
  jobs = jobs or count
  shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
  memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if jobs > count else {}
  devices = itertools.cycle(shown.split(","))
  return [{"CUDA_VISIBLE_DEVICES": next(devices)} | memory for _ in range(min(jobs, cells))]


def _backend() -> tuple[str, int]:
  """('cpu', 'gpu' or 'tpu', number of devices). A child asks jax, which takes the devices."""
  if os.environ.get("JAX_PLATFORMS") == "cpu":
    return "cpu", 1
  ask = "import jax; print(jax.default_backend(), jax.local_device_count())"
  asked = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
  if asked.returncode:
    # The workers will say why.
    return "cpu", 1
  kind, count = asked.stdout.split()[-2:]
  return kind, int(count)


def main(connection: Any, log: str, environment: dict[str, str]) -> None:
  """Runs the cells that come through the connection until it closes; sends their results.

  stdout and stderr go to the file `log`. Workers ignore signals to the whole process group, since
  the parent ends them; where it was killed itself, they notice it and exit.
  """
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_exit_with_parent, daemon=True).start()
  os.environ.update(environment)
  with open(log, "a", encoding="utf-8") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  command_line.set_up_logging()
  malloc.keep_freed()
  from lafg_jax.runtime import devices

  devices.keep_compiled()
  while True:
    try:
      task = connection.recv()
    except EOFError:
      return
    connection.send(_run(*task))


def _exit_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def _run(text: str, scratch: str, store: str) -> dict[str, Any]:
  from lafg_jax.ablation import cells
  from lafg_jax.utils import config_keys

  config = config_keys.nested(json.loads(text))
  try:
    return cells.run(config, scratch, store)
  except UserError as error:
    # Any other error ends the process: its traceback is in the log, and a new process takes over.
    return {"error": str(error), "log": traceback.format_exc()}
