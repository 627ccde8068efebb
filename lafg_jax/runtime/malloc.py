"""glibc's malloc for training on the CPU: memory that a step frees is reused by the next one.

By default malloc returns large blocks to the system at once and gets them again, zeroed page by
page. That takes a third of the time of a small model's step (benchmarks/RESULTS.md).
"""

import ctypes
import importlib.util
import os
import sys

# M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX of <malloc.h>, each with its value: no memory is
# returned, no block is a mapping of its own, and all threads share the one heap.
_OPTIONS = ((-1, -1), (-4, 0), (-8, 1))
# Packages that bring an accelerator to jax.
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


def keep_freed() -> None:
  """Keeps freed memory in this process, if it trains on the CPU and malloc is glibc's.

  Memory stays at its peak until the process ends. Call it before threads start. If malloc's
  environment variables (MALLOC_*) are set, it changes nothing.
  """
  if not _on_cpu() or any(name.startswith("MALLOC_") for name in os.environ):
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
  if mallopt is not None:
    for option, value in _OPTIONS:
      mallopt(option, value)


def _on_cpu() -> bool:
  """Whether jax will run on the CPU, as far as can be told without importing it."""
  platforms = os.environ.get("JAX_PLATFORMS", "")
  return platforms == "cpu" or not (
    platforms or any(importlib.util.find_spec(name) for name in _PLUGINS)
  )
