"""SIGINT and SIGTERM end every stage alike, by `Stopped`; the second one has its usual effect.

The first is not lost where Python drops what a handler raises (in a finaliser, or in jax's callback
of the garbage collector): it is raised again a moment later. It spares workers. `preemption` has
the training, which saves before it leaves.
"""

import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

from lafg_jax.utils.errors import Stopped

_asked: list[str] = []
# Whether training heard of it, and leaves by itself.
_taken_over = threading.Event()
# Seconds until what was dropped is raised again.
_MOMENT = 0.01


def watch() -> None:
  """Remembers both from here on, but those that the process was started to ignore."""
  for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) is usual(number):
      signal.signal(number, remember)
  if sys.unraisablehook is not _on_dropped:
    _hook_before[:] = [sys.unraisablehook]
    sys.unraisablehook = _on_dropped


_hook_before: list[Any] = []


def _on_dropped(dropped: Any) -> None:
  """Python calls it with an exception that it drops."""
  if not issubclass(dropped.exc_type, Stopped):
    _hook_before[0](dropped)
    return
  timer = threading.Timer(_MOMENT, _raise_again)
  timer.daemon = True
  timer.start()


def _raise_again() -> None:
  # Not by a signal: a second one has its usual effect.
  if not _taken_over.is_set():
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(Stopped))


def take_over() -> bool:
  """Whether either came; then the caller leaves by itself, and nothing is raised again."""
  if _asked:
    _taken_over.set()
  return bool(_asked)


def usual(number: int) -> Any:
  """The handler that Python starts with."""
  return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def check() -> None:
  """Raises Stopped if either came, in case a library swallowed the first one."""
  if _asked:
    raise Stopped(_asked[0])


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


def remember(number: int, frame: Any) -> None:
  """The handler of both: raises Stopped, and gives both their usual effect back."""
  _asked.append(signal.Signals(number).name)
  for each in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(each) is remember:
      signal.signal(each, usual(each))
  raise Stopped(_asked[0])
