"""A workdir behind a URL (gs://) is worked on in a local folder, which is kept equal to it.

At the start of a run each process downloads what differs. Process 0 uploads, in a thread beside the
work, whenever a checkpoint is finished, and after each stage; the others download what they read.
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
# Seconds between two looks for a new checkpoint, and between uploads where there is none.
LOOK_S, EVERY_S = 1.0, 300.0

_open: "Workdir | None" = None


def local_folder(workdir: str) -> str:
  """The folder that a run works in: the workdir, or of a URL one in the cache for each process."""
  if not places.is_url(workdir):
    return workdir
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  name = hashlib.sha256(workdir.rstrip("/").encode()).hexdigest()[:16]
  index = distributed.process_index()
  # Processes of one machine, or with one home folder, must not write to each other's files.
  name += f"-process{index}" if index else ""
  return os.path.join(cache, "lafg_jax", "workdirs", name)


@contextlib.contextmanager
def synced(workdir: str, folder: str) -> Iterator[None]:
  """Keeps `folder` equal to the URL `workdir`, down first and then up; nothing for other workdirs.

  Raises:
    UserError: the URL cannot be read or written, or not all processes see the same there.
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
    # After an error too, in one attempt: what was saved must not be lost with this machine.
    missing = opened.end(waits)
  if missing:
    raise Incomplete(f"{workdir} cannot be written ({missing}): what it lacks is in {folder}")


def exchange() -> None:
  """After a stage: what process 0 wrote is uploaded, and the others have it too."""
  if _open is not None:
    opened = _open
    distributed.agree("the upload", lambda: opened.upload(WAITS_S))
    if distributed.process_index():
      opened.mirror.down(_is_read_by_all)


def fetch(where: str, step: int) -> None:
  """Downloads a checkpoint that process 0 has chosen, on a process that has no other."""
  if _open is not None:
    _open.mirror.down(lambda name: name.startswith(f"{where}/{step}/"))


def address(path: str) -> str:
  """Where a person finds a file of the workdir."""
  if _open is None:
    return path
  return f"{_open.mirror.url}/{os.path.relpath(path, _open.mirror.folder).replace(os.sep, '/')}"


def _is_read_by_all(name: str) -> bool:
  return not mirror.is_in_checkpoint(name)


class Workdir:
  """A mirror in a run: who downloads and uploads what, and when. failed: why the last upload did.

  Args:
    url: of the workdir.
    folder: local, which is there.
  """

  def __init__(self, url: str, folder: str) -> None:
    self.mirror, self.failed = mirror.Mirror(url, folder), ""
    self.stopped = threading.Event()
    self.thread = threading.Thread(target=self._keep_uploading, daemon=True)

  def begin(self) -> None:
    """Makes here and there equal, on all processes; from then on process 0 uploads."""
    distributed.check_shared(self.mirror.url)
    if distributed.process_index() == 0:
      self.mirror.down()
      with places.as_user_error(self.mirror.url, "written"):
        # What an earlier run on this machine could not upload.
        self.mirror.up()
      self.thread.start()
    distributed.barrier("the workdir is up to date")
    if distributed.process_index():
      self.mirror.down(_is_read_by_all)

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
    """Uploads what differs, in an attempt more than there are `waits`, in seconds.

    Returns:
      Why it failed, which the log says once; '' where all is there.
    """
    before = self.failed
    for wait in (*waits, None):
      try:
        self.mirror.up()
        self.failed = ""
        break
      except places.errors() as error:
        self.failed = places.reason(error)
      # At the end of the run the thread leaves the rest to `end`.
      if wait is None or self.stopped.wait(wait):
        break
    if self.failed and not before:
      why = (self.mirror.url, self.failed, self.mirror.folder)
      logging.warning("%s cannot be written (%s): going on in %s", *why)
    return self.failed

  def end(self, waits: Sequence[float]) -> str:
    """The last upload, of process 0: why it failed, or ''."""
    if distributed.process_index():
      return ""
    self.stopped.set()
    self.thread.join()
    self.stopped.clear()
    return self.upload(waits)
