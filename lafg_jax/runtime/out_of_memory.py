"""What fits into a device's memory, and one line that says so where it runs out."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

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


def usable_bytes() -> int:
  """Bytes of a device's memory that a plan may use."""
  return int(device_bytes() * _USABLE)


@contextlib.contextmanager
def as_user_error(
  batch: str, rows: int = 0, needs: Callable[[int], int] | None = None
) -> Iterator[None]:
  """Turns memory that runs out in the block into a UserError that says what would fit.

  Args:
    batch: the batch in words, such as '98 classes x 9 images'.
    rows: of a batch, that each device embeds at a time.
    needs: rows at a time -> bytes of a step on each device, as XLA plans it; None before the first
      step.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if not is_it(error):
      raise
    raise UserError(_line(batch, rows, needs)) from error


def _line(batch: str, rows: int, needs: Callable[[int], int] | None) -> str:
  limit = usable_bytes()
  has = f"{counted(jax.device_count(), 'device')} of {device_bytes() / _GIB:.3g} GiB"
  smaller = "pass a smaller --config.model.size or --config.data.image_size, or use more devices"
  if needs is None:
    return f"out of memory before the first step, on {has}: {smaller}"
  start = f"out of memory with {batch} a batch, {rows} rows at a time"
  try:
    planned = needs(rows)
    # If that fits by itself, other data on the device took the memory, and half is tried.
    fits = rows // 2 if planned <= limit else fitting(needs, rows, limit, 0)
    if not fits:
      return f"{start}, and one does not fit either, on {has}: {smaller}"
    plan = f": a step needs {planned / _GIB:.3g} GiB"
  except jax.errors.JaxRuntimeError as error:
    # XLA may need memory to plan.
    if not is_it(error):
      raise
    plan, fits = "", max(rows // 2, 1)
  fewer = f"pass --config.train.rows_per_chunk={fits}, or use more devices"
  return f"{start}{plan}, on {has}: {fewer}"


def fitting(needs: Callable[[int], int], most: int, limit: float, fixed: int) -> int:
  """How many rows, up to `most`, fit into `limit` bytes, by at most two plans; 0 if none does.

  `needs` plans the bytes for a number of rows. They grow almost linearly from `fixed`, or more.
  """
  whole = _planned(needs, most)
  if whole <= limit or most < 2:
    return most if whole <= limit else 0
  # A tenth less: what is kept beside the rows may be more than `fixed`.
  share = (limit - fixed) / (whole - fixed) if whole < math.inf else 1 / 8
  guess = min(max(int(most * share * 0.9), 1), most - 1)
  second = _planned(needs, guess)
  if second <= limit:
    return guess
  if whole == math.inf or second == math.inf:
    return guess // 8
  each = max((whole - second) / (most - guess), 1)
  return max(int(guess - (second - limit) / each), 0)


def _planned(needs: Callable[[int], int], rows: int) -> float:
  try:
    return needs(rows)
  except jax.errors.JaxRuntimeError as error:
    if not is_it(error):
      raise
    return math.inf


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
