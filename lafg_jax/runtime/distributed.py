"""Several processes as one run: how they meet, agree, wait for each other, and notice a lost one.

Process 0 decides and writes; the others do as it says, by `agree`. Beside the work, each process
gives a sign of life to the coordination service of jax.distributed, so that one that hangs or ends
is named within --peer_timeout_s. In a single process all of this is nothing.
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
import urllib.error
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
_DISTRIBUTED = flags.DEFINE_enum(
  "distributed",
  "auto",
  ["auto", "off"],
  "auto: as many processes as --num_processes, a TPU pod or a Slurm step has; off: this one.",
)
_PEER_TIMEOUT_S = flags.DEFINE_float(
  "peer_timeout_s",
  300.0,
  "Seconds without a sign of a process, or without a training step, after which the run ends.",
)

# A wait of the main thread ends by itself only when the watch beside it has failed too.
_FOREVER_MS = 30 * 24 * 3600 * 1000
_LOOK_UP_MS = 2000
# Process 0 may see a file this much earlier than others do on a network file system.
_SHARED_WITHIN_S = 60.0
_ENDPOINTS = (
  "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
)

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
  """This process has come as far as `step`; from the first call on, the next may not stay away."""
  if _watch:
    _watch.beat(step)


@contextlib.contextmanager
def stepping() -> Iterator[None]:
  """Around the calls of `beat`: what follows may last as long as it likes."""
  try:
    yield
  finally:
    if _watch:
      _watch.rest()


def unhurried(name: str) -> contextlib.AbstractContextManager[None]:
  """Around what may last long between two calls of `beat`; `name` says it to the others."""
  return _watch.waiting(name) if _watch else contextlib.nullcontext()


def agree(name: str, make: Callable[[], Any]) -> Any:
  """What `make()` returns on process 0, on every process; the others wait for it. JSON values.

  Args:
    name: what is waited for, as a person would say it; the same on every process.
  """
  if _watch is None:
    return make()
  key = f"lafg_jax/agreed/{next(_numbers)}/{name}"
  if _watch.index == 0:
    value = make()
    _watch.client.key_value_set(key, json.dumps(value))
    return value
  with _watch.waiting(name):
    return json.loads(_get(_watch.client, key))


def _get(client: Any, key: str) -> str:
  import jax

  while True:
    try:
      return client.blocking_key_value_get(key, _LOOK_UP_MS)
    except jax.errors.JaxRuntimeError as error:
      # Python hears of Ctrl-C only between two waits.
      if "DEADLINE_EXCEEDED" not in str(error):
        raise


def barrier(name: str) -> None:
  """Returns when every process has come here."""
  if _watch is not None:
    with _watch.waiting(name):
      _watch.client.wait_at_barrier(f"lafg_jax/{next(_numbers)}/{name}", _FOREVER_MS)


@contextlib.contextmanager
def only_run(folder: str, workdir: str = "") -> Iterator[None]:
  """Holds the folder's lock, process 0 for all: two runs would overwrite each other's files.

  Args:
    folder: local, where the run works.
    workdir: a URL where that folder is a copy of it, which each process has of its own.

  Raises:
    UserError: another run holds it, or not all processes of this one see the same workdir.
  """
  lock = locks.locked(os.path.join(folder, ".lock"), workdir or folder)
  with lock if process_index() == 0 else contextlib.nullcontext():
    # A copy is shared by no processes; its URL is checked when it is opened.
    if not places.is_url(workdir):
      check_shared(folder)
    yield


def check_shared(workdir: str) -> None:
  """Checks that all processes see what process 0 writes to the workdir, a folder or a URL.

  A run of one process checks only that a URL can be written.

  Raises:
    UserError: this process does not see it, or process 0 cannot write it.
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

  def sees(token: str) -> bool:
    # Listing the folder makes a network file system look again.
    system.invalidate_cache()
    system.ls(root, detail=False)
    return system.cat_file(path).decode() == token

  token = agree("the workdir", write)
  until = time.monotonic() + (min(_SHARED_WITHIN_S, _watch.timeout_s) if _watch else 0)
  while process_index() != 0:
    with contextlib.suppress(*places.errors()):
      if sees(token):
        break
    if time.monotonic() > until:
      raise UserError(
        f"--workdir={workdir}: process {process_index()} on {socket.gethostname()} does not see "
        "what process 0 writes there; pass a folder that all machines share"
      )
    time.sleep(0.2)
  barrier("the workdir is shared")
  if process_index() == 0:
    with places.as_user_error(workdir, "written"):
      system.rm_file(path)


@contextlib.contextmanager
def session() -> Iterator[None]:
  """Joins the processes that the flags or the environment name, and leaves them together.

  What ends one of them early, an error or Ctrl-C, ends all: each says why in one line.

  Raises:
    UserError: flags that do not go together, or processes that do not find each other.
    PeerLost: another process ended or hangs.
  """
  global _watch
  arguments = _arguments()
  if arguments is None:
    yield
    return
  _watch = _join(arguments)
  _set_up_logging(_watch)
  try:
    yield
    barrier("the end")
  except BaseException as error:
    lost = _watch.explain(error)
    _watch.say_gone(str(lost or error) or type(error).__name__, exit_code(lost or error))
    # jax waits at exit for processes that do not come any more.
    atexit.register(_leave, exit_code(lost or error))
    if lost is not None:
      raise lost from error
    raise
  _watch.stop()
  _watch = None
  import jax

  jax.distributed.shutdown()


def _leave(code: int) -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _arguments() -> dict[str, Any] | None:
  """What jax.distributed.initialize is called with; None for a run of one process."""
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
    # By itself jax listens on every interface, to whoever reaches this machine.
    found["coordinator_bind_address"] = coordinator
  return found


def _in_slurm_step(environ: Any) -> bool:
  """Whether srun started this process beside others; a batch script alone is no step."""
  wanted = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
  tasks = environ.get("SLURM_NTASKS", "1")
  return all(name in environ for name in wanted) and tasks.isdigit() and int(tasks) > 1


def _on_tpu_pod() -> bool:
  """Whether this is one of several hosts of a TPU slice, or of several slices."""
  hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES", "")
  slices = os.environ.get("MEGASCALE_NUM_SLICES", "1")
  if "," in hosts or (slices.isdigit() and int(slices) > 1):
    return True
  # A TPU VM has its chips as devices, and says who its fellows are only when asked.
  is_vm = os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0")
  if not is_vm or hosts or "TPU_SKIP_MDS_QUERY" in os.environ:
    return False
  request = urllib.request.Request(_ENDPOINTS, headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=3) as answer:
      return "," in answer.read().decode()
  except (urllib.error.URLError, OSError):
    return False


def _join(arguments: dict[str, Any]) -> heartbeat.Watch:
  import jax
  from jax._src import distributed as state

  timeout_s = _PEER_TIMEOUT_S.value
  # Our own handler of SIGTERM saves; jax's would take its place.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **arguments,
      initialization_timeout=max(int(timeout_s), 1),
      # Ours comes first: it names who is lost, and jax's ends the process with a page of text.
      heartbeat_timeout_seconds=2 * int(timeout_s) + 60,
    )
    # Processes tell each other of their devices here, and none may be late.
    jax.devices()
  except (RuntimeError, ValueError, OSError) as error:
    raise UserError(f"the processes of the run do not find each other: {error}") from error
  # What processes tell each other has no public interface; Orbax uses this one too.
  found = state.global_state
  return heartbeat.Watch(found.client, found.process_id, found.num_processes, timeout_s)


def _set_up_logging(watch: heartbeat.Watch) -> None:
  """One process tells how the run goes; the others warn, under their number."""
  logging.info("process 0 of %d on %s", watch.count, socket.gethostname())
  if watch.index:
    logging.set_verbosity(logging.WARNING)
    form = f"%(asctime)s process {watch.index}: %(message)s"
    logging.get_absl_handler().setFormatter(python_logging.Formatter(form, "%H:%M:%S"))
