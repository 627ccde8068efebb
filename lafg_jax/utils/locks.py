"""A lock file that one process holds at a time."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from absl import logging

from lafg_jax.utils.errors import UserError


@contextlib.contextmanager
def locked(path: str | os.PathLike, workdir: str = "") -> Iterator[None]:
  """Holds the lock file `path`. The kernel releases it when the process ends, also by SIGKILL.

  Args:
    workdir: what the lock protects, as the error names it; '' waits for the other process.

  Raises:
    UserError: another process holds the lock of `workdir`.
  """
  with open(path, "a+b", buffering=0) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      holder = file.read(200).decode(errors="replace") or "another process"
      if workdir:
        raise UserError(
          f"another run is at work in {workdir} ({holder}): pass another --workdir"
        ) from error
      logging.info("waiting for %s, which uses %s", holder, path)
      fcntl.flock(file, fcntl.LOCK_EX)
    # The lock holds without a name as well, such as on a full disk.
    with contextlib.suppress(OSError):
      file.truncate(0)
      file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    yield
