"""One compile cache for a whole test run: most tests compile the same few small programs."""

import importlib.util
import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
  if not hasattr(config, "workerinput"):
    # The controlling process alone: its workers, and what tests start, inherit the folder.
    folder = config.cache.mkdir("compiled") if config.cache else None
    if folder is not None:
      os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
      os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture(scope="session")
def trees():
  """The module tests/trees.py: small copies of data sets in their native layouts."""
  spec = importlib.util.spec_from_file_location("trees", Path(__file__).with_name("trees.py"))
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
