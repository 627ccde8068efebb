"""Disks that are full: a small one of memory where this may be mounted, else files that may not
grow."""

import contextlib
import errno
import resource
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
  """A folder with room for 6 MB; `fill` leaves none."""

  def __init__(self, folder: Path) -> None:
    self.folder, self.filler = folder, folder / "filler"

  def fill(self) -> None:
    with open(self.filler, "wb", buffering=0) as file:
      for size in (1 << 16, 1 << 12, 1):
        with contextlib.suppress(OSError):
          while file.write(bytes(size)) == size:
            pass

  def free(self) -> None:
    self.filler.unlink(missing_ok=True)


@pytest.fixture
def small_disk(tmp_path):
  """A tmpfs; the test skips where none may be mounted."""
  folder = tmp_path / "small"
  folder.mkdir()
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True
  )
  if mounted.returncode:
    pytest.skip("a tmpfs can be mounted by root alone; the limit on files stands in elsewhere")
  yield SmallDisk(folder)
  subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def files_end_at():
  """`with files_end_at(n)`: no file grows beyond n bytes, as the operating system says no."""

  @contextlib.contextmanager
  def limited(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
      yield errno.EFBIG
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)

  return limited
