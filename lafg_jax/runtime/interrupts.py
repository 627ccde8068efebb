"""Ctrl-C is not lost where Python drops it (in a finaliser or a callback), and spares workers."""

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

_asked: list[int] = []


def watch() -> None:
  """Remembers SIGINT from here on, unless the process was started to ignore it."""
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _remember)


def check() -> None:
  """Raises KeyboardInterrupt if SIGINT came, in case a library swallowed the first one."""
  if _asked:
    raise KeyboardInterrupt


@contextlib.contextmanager
def born_deaf() -> Iterator[None]:
  """Wraps the start of a process that must receive neither SIGINT nor SIGTERM.

  Otherwise a signal to the process group would end it while it imports, with a traceback.
  """
  # Otherwise the first process would start the tracker, which unblocks both signals.
  resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remember(number: int, frame: Any) -> None:
  _asked.append(number)
  raise KeyboardInterrupt
