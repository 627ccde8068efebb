"""When a device's memory runs out, one line says which batch would fit."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# The part of the memory that a plan may use; the rest is lost between allocations.
_USABLE = 0.95
_GIB = 2**30


def is_it(error: BaseException) -> bool:
  """Whether this is XLA's error for memory that ran out."""
  return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def planned_bytes(compiled: Any) -> int:
  """Bytes that a compiled program needs on each device, its arguments included."""
  plan = compiled.memory_analysis()
  kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
  return kept + plan.temp_size_in_bytes + plan.generated_code_size_in_bytes


def device_bytes() -> int:
  """Bytes of memory that the smallest local device may use."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  limits = [x["bytes_limit"] for x in stats if x and "bytes_limit" in x]
  if limits:
    return min(limits)
  # Devices without such statistics are CPU devices, which share this machine's memory.
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(stats)


class BatchSize(NamedTuple):
  """The size of a batch, as a key of the config sets it.

  key: the dotted key, such as 'data.classes_per_batch'. value: its value. unit: what it counts,
  such as 'classes'. words: value -> '98 classes x 9 images'. rows: value -> '882 images'.
  resized: (objective, value) -> the objective for a batch of that size, with the same parameters.
  """

  key: str
  value: int
  unit: str
  words: Callable[[int], str]
  rows: Callable[[int], str]
  resized: Callable[[Any, int], Any]


@contextlib.contextmanager
def as_user_error(size: BatchSize, needs: Callable[[int], int] | None) -> Iterator[None]:
  """Turns memory that runs out in the block into a UserError that says which batch would fit.

  `needs` gives the bytes on each device of a step with a batch of that size, as XLA plans it; it is
  None before the first step.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if not is_it(error):
      raise
    raise UserError(_line(size, needs)) from error


def _line(size: BatchSize, needs: Callable[[int], int] | None) -> str:
  limit = device_bytes()
  has = f"{counted(jax.device_count(), 'device')} of {limit / _GIB:.3g} GiB"
  smaller = "pass a smaller --config.model.size or --config.data.image_size, or use more devices"
  if needs is None:
    return f"out of memory before the first step, on {has}: {smaller}"
  batch = f"{size.words(size.value)} a batch"
  try:
    planned = needs(size.value)
    fits = fitting(needs, size.value, limit * _USABLE)
  except jax.errors.JaxRuntimeError as error:
    # XLA may need memory to plan.
    if not is_it(error):
      raise
    return f"out of memory with {batch}, on {has}: {_pass(size, size.value // 2)}"
  if fits is None:
    return f"out of memory with {batch}, and 2 {size.unit} do not fit either, on {has}: {smaller}"
  return (
    f"out of memory with {batch}: a step needs {planned / _GIB:.3g} GiB, on {has}; "
    f"{fits} {size.unit} need {needs(fits) / _GIB:.3g} GiB: {_pass(size, fits)}"
  )


def _pass(size: BatchSize, count: int) -> str:
  count = max(count, 2)
  return f"pass --config.{size.key}={count} ({size.rows(count)} a batch), or use more devices"


def fitting(needs: Callable[[int], int], count: int, limit: float) -> int | None:
  """The size of a batch, below `count`, that fits into `limit` bytes; None if 2 does not.

  Between two plans memory grows almost linearly with the batch. If the plan of `count` itself fits,
  other data on the device took the memory, and half is tried.
  """
  guess = half = max(count // 2, 2)
  low, high = needs(half), needs(count)
  if high > limit and high > low:
    guess = int(half + (limit - low) / ((high - low) / (count - half)))
  guess = min(max(guess, 2), max(count - 1, 2))
  while needs(guess) > limit:
    if guess <= 2:
      return None
    guess = max(2, guess * 9 // 10)
  return guess


def halving(apply: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
  """`apply` over rows, in parts of half as many rows each time that memory runs out.

  The result raises UserError when one row does not fit either.
  """
  most: list[int] = []

  def in_parts(x: np.ndarray) -> np.ndarray:
    size = min([len(x), *most])
    try:
      parts = [apply(x[first : first + size]) for first in range(0, len(x), size)]
      return parts[0] if len(parts) == 1 else np.concatenate(parts)
    except jax.errors.JaxRuntimeError as error:
      if not is_it(error):
        raise
      if size < 2:
        what = "out of memory with one image (evaluate.batch_size and smaller ones do not fit)"
        why = "another program may hold the device's memory, or the model is too large for it"
        raise UserError(f"{what}: {why}") from error
    most.append(size // 2)
    what = "out of memory with %d images at once: going on with %d (--config.evaluate.batch_size)"
    logging.warning(what, size, most[-1])
    return in_parts(x)

  return in_parts
