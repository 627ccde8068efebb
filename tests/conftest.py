"""One compile cache for a whole test run: most tests compile the same few small programs."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
  if not hasattr(config, "workerinput"):
    # The controlling process alone: its workers, and what tests start, inherit the folder.
    folder = config.cache.mkdir("compiled") if config.cache else None
    if folder is not None:
      os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
      os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
