"""Ctrl-C that is not lost: Python drops what is raised inside a finaliser or a callback.

And Ctrl-C that is for the parent alone: worker processes are born deaf to it.
"""

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

_asked: list[int] = []


def watch() -> None:
  """Remembers SIGINT from here on; a process that was started deaf to it stays so."""
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _remember)


def check() -> None:
  """Raises the KeyboardInterrupt that somebody asked for and something swallowed."""
  if _asked:
    raise KeyboardInterrupt


@contextlib.contextmanager
def born_deaf() -> Iterator[None]:
  """Around the start of a process that shall hear neither SIGINT nor SIGTERM, from its beginning.

  A signal to the whole process group would else end it while it imports, with a traceback.
  """
  # The first process would start it, and that unblocks both.
  resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remember(number: int, frame: Any) -> None:
  _asked.append(number)
  raise KeyboardInterrupt
