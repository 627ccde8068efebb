"""Progress of long work as log lines with ETA, for terminals, files and notebooks."""

import time

from absl import logging

_EVERY_S = 10.0


class Progress:
  """Logs at most every 10 seconds, and at the end of a `with` block that raises nothing."""

  def __init__(self, what: str, total: int, unit: str) -> None:
    self.what, self.total, self.unit, self.done = what, total, unit, 0
    self.begun = self.logged = time.monotonic()

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, kind, *unused) -> None:
    if kind is None:
      seconds = time.monotonic() - self.begun
      logging.info("%s: %d %s in %.1f s", self.what, self.done, self.unit, seconds)

  def add(self, count: int) -> None:
    """Counts `count` more units as done."""
    self.done += count
    now = time.monotonic()
    if now - self.logged < _EVERY_S or not self.done:
      return
    self.logged = now
    left = (self.total - self.done) * (now - self.begun) / self.done
    state = f"{self.done}/{self.total} {self.unit} ({100 * self.done / max(self.total, 1):.0f}%)"
    logging.info("%s: %s  ETA %dm%02ds", self.what, state, left // 60, left % 60)
