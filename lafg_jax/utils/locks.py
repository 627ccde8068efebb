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

  If another process holds it, this raises UserError about `workdir`, or waits if that is ''.
  """
  with open(path, "a+b", buffering=0) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      holder = file.read(200).decode(errors="replace") or "another process"
      if workdir:
        problem = f"another run is at work in {workdir} ({holder})"
        raise UserError(f"{problem}: pass another --workdir") from error
      logging.info("waiting for %s, which uses %s", holder, path)
      fcntl.flock(file, fcntl.LOCK_EX)
    # The name of the holder is optional: a full disk has no room for it.
    with contextlib.suppress(OSError):
      file.truncate(0)
      file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    yield
