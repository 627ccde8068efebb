"""The first SIGTERM or SIGINT saves and ends the run, on all processes at the same step."""

import functools
import signal
from typing import Any

import jax
import numpy as np
from absl import logging

from lafg_jax.runtime import interrupts
from lafg_jax.runtime.devices import replicate


class StopRequest:
  """Whether SIGTERM or SIGINT came; the second signal has its usual effect.

  Several processes stop at the same step, whichever of them got the signal: each sends its `flag`
  through the mapped step, and all read the flags with that step's results.
  """

  def __init__(self) -> None:
    self.asked = self.heard_of = False
    self.previous: dict[int, Any] = {}

  @property
  def agreed(self) -> bool:
    """Whether all processes stop here."""
    return self.asked if jax.process_count() == 1 else self.heard_of

  def flag(self) -> jax.Array | None:
    """What this process sends, [devices] int32; None in a run of one process."""
    return None if jax.process_count() == 1 else _on_devices(int(self.asked))

  def heard(self, _loss: jax.Array, flag: jax.Array | None) -> None:
    """Reads the flags of all processes."""
    if flag is not None:
      self.heard_of = bool(np.asarray(flag.addressable_data(0)).any())

  def __enter__(self) -> "StopRequest":
    for number in (signal.SIGTERM, signal.SIGINT):
      self.previous[number] = signal.signal(number, self._ask)
    if interrupts.take_over():
      # It came just before, and where it was raised it was dropped.
      self.asked = True
      self.__exit__()
    return self

  def _ask(self, number: int, frame: Any) -> None:
    logging.info("%s: saving and leaving", signal.Signals(number).name)
    self.asked = True
    # The next one, of either kind, ends the process at once.
    for each, handler in self.previous.items():
      if handler is interrupts.remember:
        self.previous[each] = interrupts.usual(each)
    self.__exit__()

  def __exit__(self, *unused) -> None:
    for number, handler in self.previous.items():
      signal.signal(number, handler)


@functools.cache
def _on_devices(flag: int) -> jax.Array:
  # Kept on the devices: sending it with every step would cost more than the step's own work.
  return replicate(np.int32(flag))
