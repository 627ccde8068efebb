"""A run with a URL (gs://) as its workdir works in a local folder that is kept equal to it.

At the start each process downloads what differs. Process 0 uploads after each checkpoint, in a
thread of its own, and after each stage; the others download what they read.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence

from absl import logging

from lafg_jax.runtime import distributed, mirror
from lafg_jax.utils import places
from lafg_jax.utils.errors import Incomplete, UserError

# Seconds between the attempts of an upload.
WAITS_S: tuple[float, ...] = (1.0, 5.0, 25.0)
# Seconds between two checks for a new checkpoint, and between uploads without one.
LOOK_S, EVERY_S = 1.0, 300.0

_open: "Workdir | None" = None


def local_folder(workdir: str) -> str:
  """The folder that a run works in: the workdir, or for a URL one in the cache per process."""
  if not places.is_url(workdir):
    return workdir
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  name = hashlib.sha256(workdir.rstrip("/").encode()).hexdigest()[:16]
  index = distributed.process_index()
  # Processes that share a machine or a home folder must not overwrite each other's files.
  name += f"-process{index}" if index else ""
  return os.path.join(cache, "lafg_jax", "workdirs", name)


@contextlib.contextmanager
def synced(workdir: str, folder: str) -> Iterator[None]:
  """Downloads the URL `workdir` to `folder`, then uploads changes; does nothing for a folder.

  Raises:
    UserError: the URL cannot be read or written, or the processes do not see the same files.
    Incomplete: the work is done, but not all of it could be uploaded.
  """
  global _open
  if not places.is_url(workdir):
    yield
    return
  opened = Workdir(workdir.rstrip("/"), folder)
  logging.info("%s is worked on in %s", workdir, folder)
  opened.begin()
  _open, waits = opened, WAITS_S[:0]
  try:
    yield
    waits = WAITS_S
  except UserError as error:
    if folder in str(error):
      raise UserError(f"{error} ({folder} holds {workdir} while it is worked on)") from error
    raise
  finally:
    _open = None
    # After an error too, in one attempt: saved files must not be lost with this machine.
    missing = opened.end(waits)
  if missing:
    raise Incomplete(f"{workdir} cannot be written ({missing}): what it lacks is in {folder}")


def exchange() -> None:
  """Uploads what process 0 wrote in a stage, and downloads it on the others."""
  opened = _open
  if opened is not None:
    distributed.agree("the upload", lambda: opened.upload(WAITS_S))
    opened.download()


def fetch(where: str, step: int) -> None:
  """Downloads the checkpoint that process 0 has chosen, and frozen weights; until then the others
  have none."""
  if _open is not None:
    _open.mirror.down(lambda x: x.startswith(f"{where}/{step}/") or mirror.is_frozen(x))


def address(path: str) -> str:
  """The path of a file of the workdir, or its URL where the workdir is one."""
  if _open is None:
    return path
  return f"{_open.mirror.url}/{os.path.relpath(path, _open.mirror.folder).replace(os.sep, '/')}"


class Workdir:
  """The mirror of a workdir during a run. failed: why the last upload failed, or ''."""

  def __init__(self, url: str, folder: str) -> None:
    self.mirror, self.failed = mirror.Mirror(url, folder), ""
    self.stopped = threading.Event()
    self.thread = threading.Thread(target=self._keep_uploading, daemon=True)

  def begin(self) -> None:
    """Makes folder and URL equal on all processes, and starts the uploads of process 0."""
    distributed.check_shared(self.mirror.url)
    if distributed.process_index() == 0:
      self.mirror.down()
      with places.as_user_error(self.mirror.url, "written"):
        # What an earlier run on this machine could not upload.
        self.mirror.up()
      self.thread.start()
    distributed.barrier("the workdir is up to date")
    self.download()

  def download(self) -> None:
    """Downloads what all processes read, on all but process 0: nothing of a checkpoint."""
    if distributed.process_index():
      self.mirror.down(lambda x: not (mirror.is_in_checkpoint(x) or mirror.is_frozen(x)))

  def _keep_uploading(self) -> None:
    seen, last = self._steps(), time.monotonic()
    while not self.stopped.wait(LOOK_S):
      steps = self._steps()
      if steps != seen or time.monotonic() - last > EVERY_S:
        self.upload(WAITS_S)
        seen, last = steps, time.monotonic()

  def _steps(self) -> list[str]:
    folders = [os.path.join(self.mirror.folder, name) for name in mirror.STEP_FOLDERS]
    return [path for f in folders if os.path.isdir(f) for path in sorted(os.listdir(f))]

  def upload(self, waits: Sequence[float]) -> str:
    """Uploads what differs, with `waits` seconds between attempts; returns why it failed, or ''."""
    before, url, folder = self.failed, self.mirror.url, self.mirror.folder
    for wait in (*waits, None):
      try:
        self.mirror.up()
        self.failed = ""
        break
      except places.errors() as error:
        self.failed = places.reason(error)
      # At the end of the run, `end` makes the last attempts instead of the thread.
      if wait is None or self.stopped.wait(wait):
        break
    if self.failed and not before:
      logging.warning("%s cannot be written (%s): going on in %s", url, self.failed, folder)
    return self.failed

  def end(self, waits: Sequence[float]) -> str:
    """Makes the last upload, on process 0; returns why it failed, or ''."""
    if distributed.process_index():
      return ""
    self.stopped.set()
    self.thread.join()
    self.stopped.clear()
    return self.upload(waits)
