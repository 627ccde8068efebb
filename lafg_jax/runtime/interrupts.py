"""SIGINT and SIGTERM end every stage alike, by `Stopped`; the second one has its usual effect.

The first is not lost where Python drops what a handler raises (in a finaliser or a callback), and
spares workers. `preemption` has the training, which saves before it leaves.
"""

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

from lafg_jax.utils.errors import Stopped

_asked: list[str] = []


def watch() -> None:
  """Remembers both from here on, but those that the process was started to ignore."""
  for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) is usual(number):
      signal.signal(number, remember)


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
