"""Progress of long work as log lines with ETA: they read well in a terminal, file or notebook."""

import time

from absl import logging


class Progress:
  """Logs at most every `every` seconds, and once at the end if it has logged before."""

  def __init__(self, what: str, total: int, unit: str, every: float = 10.0) -> None:
    self.what, self.total, self.unit, self.every = what, total, unit, every
    self.done = 0
    self.begun = self.told = time.monotonic()

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, kind, *unused) -> None:
    if kind is None:
      seconds = time.monotonic() - self.begun
      logging.info("%s: %d %s in %.1f s", self.what, self.done, self.unit, seconds)

  def add(self, count: int) -> None:
    """Says that `count` more units are done."""
    self.done += count
    now = time.monotonic()
    if now - self.told < self.every or not self.done:
      return
    self.told = now
    left = (self.total - self.done) * (now - self.begun) / self.done
    logging.info(
      "%s: %d/%d %s (%.0f%%)  ETA %dm%02ds",
      self.what,
      self.done,
      self.total,
      self.unit,
      100 * self.done / max(self.total, 1),
      left // 60,
      left % 60,
    )
