"""SIGTERM and SIGINT: the first saves and leaves, on all processes at one and the same step."""

import functools
import signal
from typing import Any

import jax
import numpy as np
from absl import logging

from lafg_jax.runtime.devices import replicate


class StopRequest:
  """Becomes true at the first SIGTERM or SIGINT; the second has its usual effect.

  Several processes stop at one and the same step whichever is asked: each sends its `flag` through
  the mapped step, and all hear of it when they look at that step's results.
  """

  def __init__(self) -> None:
    self.asked = self.told = False
    self.previous: dict[int, Any] = {}

  @property
  def agreed(self) -> bool:
    """Whether all processes stop here."""
    return self.asked if jax.process_count() == 1 else self.told

  def flag(self) -> jax.Array | None:
    """What this process sends, [devices] int32; None where there is no other."""
    return None if jax.process_count() == 1 else _on_devices(int(self.asked))

  def heard(self, loss: jax.Array, flag: jax.Array | None) -> None:
    """Reads what all processes have sent."""
    del loss
    if flag is not None:
      self.told = bool(np.asarray(flag.addressable_data(0)).any())

  def __enter__(self) -> "StopRequest":
    for number in (signal.SIGTERM, signal.SIGINT):
      self.previous[number] = signal.signal(number, self._ask)
    return self

  def _ask(self, number: int, frame: Any) -> None:
    logging.info("%s: saving and leaving", signal.Signals(number).name)
    self.asked = True
    # Of both: whoever sends the other one next wants out as well.
    self._restore()

  def _restore(self) -> None:
    for number, handler in self.previous.items():
      signal.signal(number, handler)

  def __exit__(self, *unused) -> None:
    self._restore()


@functools.cache
def _on_devices(flag: int) -> jax.Array:
  # Kept: to send it anew with every step would cost more than the step's share of it.
  return replicate(np.int32(flag))
