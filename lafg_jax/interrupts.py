"""Ctrl-C that is not lost: Python drops what is raised inside a finaliser or a callback."""

import signal
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


def _remember(number: int, frame: Any) -> None:
  _asked.append(number)
  raise KeyboardInterrupt
