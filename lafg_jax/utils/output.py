"""Output that is piped into head or less, whose readers leave before its end."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import Any


def flushed() -> bool:
  """Writes what is still held back; False where its reader has left: the rest goes nowhere."""
  whole = True
  for stream in (sys.stdout, sys.stderr):
    left = _reader_left(stream)
    try:
      stream.flush()
    except BrokenPipeError:
      left = True
    if left:
      # Python flushes once more at its exit.
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
      whole = False
  return whole


def _reader_left(stream: Any) -> bool:
  # Unbuffered output has nothing left to flush that would tell.
  try:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
  except (OSError, ValueError, AttributeError):
    return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Wraps a program: where the reader of its output leaves, it exits with 0 and says nothing."""
  try:
    yield
  except BrokenPipeError:
    # It may be of a socket.
    if flushed():
      raise
    sys.exit(0)
  finally:
    flushed()
