"""Several processes as one run: they meet, agree, wait for each other, and notice a lost one.

Process 0 decides and writes, and the others follow it (`agree`). Each process also gives signs of
life (`heartbeat`), so that one that hangs or ends is named within --peer_timeout_s. In a run of one
process none of these functions has an effect.
"""

import atexit
import contextlib
import itertools
import json
import logging as python_logging
import os
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags, logging

from lafg_jax.runtime import heartbeat
from lafg_jax.utils import locks, places
from lafg_jax.utils.errors import UserError, exit_code

_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT where process 0 is reached, for a run of several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run, all alike.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_DISTRIBUTED_HELP = (
  "auto: as many processes as --num_processes, a TPU pod or a Slurm step has; off: this one."
)
_DISTRIBUTED = flags.DEFINE_enum("distributed", "auto", ["auto", "off"], _DISTRIBUTED_HELP)
_TIMEOUT_HELP = (
  "Seconds without a sign of a process, or without a training step, after which the run ends."
)
_PEER_TIMEOUT_S = flags.DEFINE_float("peer_timeout_s", 300.0, _TIMEOUT_HELP)

# The heartbeat's threads end a wait that lasts too long. This limit counts only if they fail.
_FOREVER_MS = 30 * 24 * 3600 * 1000
_LOOK_UP_MS = 2000
# On a network file system, other processes may see a file this much later than process 0.
_SHARED_WITHIN_S = 60.0
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes"
_LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[::1\]):")

_watch: heartbeat.Watch | None = None
_numbers = itertools.count()


def process_index() -> int:
  """The number of this process; 0 where there is only one. Does not start jax's devices."""
  return _watch.index if _watch else 0


def process_count() -> int:
  """Processes of the run."""
  return _watch.count if _watch else 1


def beat(step: int) -> None:
  """Reports that `step` has ended. After the first call, the next must come in time."""
  if _watch:
    _watch.beat(step)


@contextlib.contextmanager
def stepping() -> Iterator[None]:
  """Wraps the calls of `beat`; after it no further call is expected."""
  try:
    yield
  finally:
    if _watch:
      _watch.rest()


def unhurried(name: str) -> contextlib.AbstractContextManager[None]:
  """Wraps what may last long between two calls of `beat`; `name` tells the others what it is."""
  return _watch.waiting(name) if _watch else contextlib.nullcontext()


def agree(name: str, make: Callable[[], Any]) -> Any:
  """Returns on every process what `make()` returns on process 0, a JSON value; the others wait.

  `name` says what they wait for, and is the same on every process.
  """
  if _watch is None:
    return make()
  key = f"lafg_jax/agreed/{next(_numbers)}/{name}"
  if _watch.index == 0:
    value = make()
    _watch.client.key_value_set(key, json.dumps(value))
    return value
  with _watch.waiting(name):
    # Python handles Ctrl-C only between two short waits.
    while True:
      try:
        return json.loads(_watch.client.blocking_key_value_get(key, _LOOK_UP_MS))
      except RuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
          raise


def barrier(name: str) -> None:
  """Returns when every process has called it."""
  if _watch is not None:
    with _watch.waiting(name):
      _watch.client.wait_at_barrier(f"lafg_jax/{next(_numbers)}/{name}", _FOREVER_MS)


@contextlib.contextmanager
def only_run(folder: str, workdir: str = "") -> Iterator[None]:
  """Holds the lock of the local `folder`, so that no two runs overwrite each other's files.

  Process 0 holds it for all. Where `workdir` is a URL, `folder` is this process's own copy of it.
  Raises UserError where another run holds it, or the processes do not see the same folder.
  """
  lock = locks.locked(os.path.join(folder, ".lock"), workdir or folder)
  with lock if process_index() == 0 else contextlib.nullcontext():
    # Each process has its own copy of a URL, which is checked when it is opened.
    if not places.is_url(workdir):
      check_shared(folder)
    yield


def check_shared(workdir: str) -> None:
  """Raises UserError unless all processes see what process 0 writes to the workdir or URL.

  A run of one process checks only that a URL can be written.
  """
  if _watch is None and not places.is_url(workdir):
    return
  with places.as_user_error(workdir, "written"):
    system, root = places.opened(workdir)
  path = f"{root}/.shared"

  def write() -> str:
    token = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    with places.as_user_error(workdir, "written"):
      system.makedirs(root, exist_ok=True)
      system.pipe_file(path, token.encode())
    return token

  token = agree("the workdir", write)
  until = time.monotonic() + (min(_SHARED_WITHIN_S, _watch.timeout_s) if _watch else 0)
  while process_index() != 0:
    with contextlib.suppress(*places.errors()):
      # Listing the folder makes a network file system look again.
      system.invalidate_cache()
      system.ls(root, detail=False)
      if system.cat_file(path).decode() == token:
        break
    if time.monotonic() > until:
      who = f"process {process_index()} on {socket.gethostname()}"
      why = f"{who} does not see what process 0 writes there; pass a folder that all machines share"
      raise UserError(f"--workdir={workdir}: {why}")
    time.sleep(0.2)
  barrier("the workdir is shared")
  if process_index() == 0:
    with places.as_user_error(workdir, "written"):
      system.rm_file(path)


@contextlib.contextmanager
def session() -> Iterator[None]:
  """Joins the processes that the flags or the environment name, and ends with all of them.

  An error or Ctrl-C in one of them ends all, each with the reason in one line.

  Raises:
    UserError: flags that do not go together, or processes that do not find each other.
    PeerLost: another process ended or hangs.
  """
  global _watch
  if (arguments := _arguments()) is None:
    yield
    return
  _watch = _join(arguments)
  # Process 0 logs everything; the others log warnings only, with their number.
  logging.info("process 0 of %d on %s", _watch.count, socket.gethostname())
  if _watch.index:
    logging.set_verbosity(logging.WARNING)
    form = f"%(asctime)s process {_watch.index}: %(message)s"
    logging.get_absl_handler().setFormatter(python_logging.Formatter(form, "%H:%M:%S"))
  try:
    yield
    barrier("the end")
  except BaseException as error:
    lost = _watch.explain(error)
    code = exit_code(lost or error)
    _watch.say_gone(str(lost or error) or type(error).__name__, code)
    # At exit jax would wait for processes that have ended.
    atexit.register(_leave, code)
    if lost is not None:
      raise lost from error
    raise
  _watch.stopped.set()
  _watch = None
  import jax

  jax.distributed.shutdown()


def _leave(code: int) -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _arguments() -> dict[str, Any] | None:
  """The arguments of jax.distributed.initialize; None for a run of one process."""
  coordinator, count, index = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  given = {"coordinator": coordinator, "num_processes": count, "process_id": index}
  missing = [f"--{name}" for name, value in given.items() if value is None]
  if _PEER_TIMEOUT_S.value <= 0:
    raise UserError(f"--peer_timeout_s={_PEER_TIMEOUT_S.value}: it takes a number above 0")
  if len(missing) == len(given):
    several = _DISTRIBUTED.value == "auto" and (_in_slurm_step(os.environ) or _on_tpu_pod())
    return {} if several else None
  if coordinator is None or count is None or index is None:
    raise UserError(f"no {missing[0]}: --coordinator, --num_processes and --process_id go together")
  if _DISTRIBUTED.value == "off":
    raise UserError("--distributed=off: it is for one process; leave --coordinator out")
  if not re.fullmatch(r"[^\s/]+:\d{1,5}", coordinator):
    raise UserError(f"--coordinator={coordinator}: it takes HOST:PORT, such as 10.0.0.2:8476")
  if not 0 <= index < count:
    raise UserError(f"--process_id={index}: it takes 0 to {count - 1} (--num_processes={count})")
  if count == 1:
    return None
  found = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
  if _LOOPBACK.match(coordinator):
    # By default jax listens on every interface, where other machines can reach it.
    found["coordinator_bind_address"] = coordinator
  return found


def _in_slurm_step(environ: Any) -> bool:
  """Whether srun started this process and others; a batch script alone is no step."""
  wanted = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
  tasks = environ.get("SLURM_NTASKS", "1")
  return all(name in environ for name in wanted) and tasks.isdigit() and int(tasks) > 1


def _on_tpu_pod() -> bool:
  """Whether this is one of several hosts of a TPU slice, or of several slices."""
  hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES", "")
  slices = os.environ.get("MEGASCALE_NUM_SLICES", "1")
  if "," in hosts or (slices.isdigit() and int(slices) > 1):
    return True
  # A TPU VM has its chips as devices, and only the metadata server knows its other hosts.
  is_vm = os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0")
  if not is_vm or hosts or "TPU_SKIP_MDS_QUERY" in os.environ:
    return False
  url, headers = f"{_METADATA}/worker-network-endpoints", {"Metadata-Flavor": "Google"}
  try:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=3) as answer:
      return "," in answer.read().decode()
  except OSError:
    return False


def _join(arguments: dict[str, Any]) -> heartbeat.Watch:
  import jax
  from jax._src import distributed as state

  timeout_s = _PEER_TIMEOUT_S.value
  # jax's handler of SIGTERM would replace ours, which saves.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **arguments,
      initialization_timeout=max(int(timeout_s), 1),
      # Ours ends first and names the lost process; jax's prints a page of text.
      heartbeat_timeout_seconds=2 * int(timeout_s) + 60,
    )
    # Here the processes exchange their devices, which has a time limit.
    jax.devices()
  except (RuntimeError, ValueError, OSError) as error:
    raise UserError(f"the processes of the run do not find each other: {error}") from error
  # The coordination service has no public interface; Orbax uses this one too.
  found = state.global_state
  return heartbeat.Watch(found.client, found.process_id, found.num_processes, timeout_s)
