"""Parameters that stay as they started, in one file that all checkpoints of a workdir share.

`<workdir>/frozen/<sha256>.safetensors` has them by their paths in a checkpoint, 'state/params/...'.
Its name is the hash of their paths, shapes, dtypes and bytes. The meta of a checkpoint names the
file and has the shape, dtype and CRC-32 of each array in it. The file is there before the first
checkpoint that names it, and is removed when none names it any more.
"""

import contextlib
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from flax import traverse_util

from lafg_jax.runtime import distributed, mirror
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

# Where a checkpoint has the parameters.
_PARAMS = "state/params/"
# How safetensors names the operating system's reason.
_OS_ERROR = re.compile(r"os error (\d+)")

Arrays = dict[str, np.ndarray]
# {path: {'shape', 'dtype', 'crc32'}}
Described = dict[str, dict[str, Any]]


class Frozen(NamedTuple):
  """What a checkpoint's meta says of its frozen weights.

  file: the SHA-256 that is the file's name, '' where nothing is frozen. arrays: what is in it.
  """

  file: str = ""
  arrays: Described = {}

  def has(self, path: str) -> bool:
    """Whether the file has the parameter at a path, such as 'backbone/block_0/...'."""
    return f"{_PARAMS}{path}" in self.arrays


NONE = Frozen()


def describe(arrays: Arrays) -> Described:
  """Shape, dtype and CRC-32 of each array."""
  return {
    path: {"shape": list(x.shape), "dtype": str(x.dtype), "crc32": _crc(x)}
    for path, x in arrays.items()
  }


def verify(arrays: Arrays, described: Described) -> None:
  """Raises ValueError where arrays are not those that were described."""
  if arrays.keys() != described.keys():
    raise ValueError(f"it has other arrays, as {min(arrays.keys() ^ described.keys())}")
  found = describe(arrays)
  changed = [path for path in described if found[path] != described[path]]
  if changed:
    raise ValueError(f"{len(changed)} arrays differ from their checksum, first {changed[0]}")


def _crc(x: np.ndarray) -> int:
  return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def keep(workdir: str, fixed: dict[str, Any], known: Frozen | None = None) -> Frozen:
  """Has process 0 write the frozen parameters, unless their file is there and whole.

  Args:
    fixed: the frozen part of the parameters, not replicated.
    known: of the checkpoint that the run goes on from, and so read and verified; None without one.

  Returns:
    What the run's checkpoints say of them, on every process. They are hashed and written here, once
    a run, so that no save does.

  Raises:
    UserError: they cannot be written (a full disk).
  """

  def make() -> Frozen:
    arrays = {f"{_PARAMS}{p}": x for p, x in traverse_util.flatten_dict(fixed, sep="/").items()}
    if known is not None and known.arrays.keys() == arrays.keys():
      return known
    arrays = {path: np.asarray(x, order="C") for path, x in arrays.items()}
    found = Frozen(files.fingerprint(arrays), describe(arrays))
    path = path_of(workdir, found.file)
    _drop_unfinished(path.parent)
    if not _is_whole(workdir, found):
      _write(path, arrays)
    return found

  return Frozen(*distributed.agree("the frozen weights", make)) if fixed else NONE


def path_of(workdir: str, file: str) -> Path:
  """Where the file of that hash lies."""
  return Path(os.path.abspath(workdir), mirror.FROZEN, f"{file}.safetensors")


def _is_whole(workdir: str, frozen: Frozen) -> bool:
  path = path_of(workdir, frozen.file)
  if not path.exists():
    return False
  try:
    read(workdir, frozen)
  except (ValueError, OSError) as error:
    logging.warning("%s is written again: %s", path, error)
    return False
  return True


def _write(path: Path, arrays: Arrays) -> None:
  from safetensors import SafetensorError
  from safetensors.numpy import save_file

  try:
    with files.replacing(path) as temporary:
      save_file(arrays, temporary)
      # The library's files only their owner may read.
      os.chmod(temporary, path.parent.stat().st_mode & 0o666)
      # Checkpoints that name it must not outlive it when the power fails.
      with open(temporary, "rb") as file:
        os.fsync(file.fileno())
  except (OSError, SafetensorError) as error:
    number = _OS_ERROR.search(str(error))
    if not isinstance(error, OSError) and number is None:
      raise
    _drop_unfinished(path.parent)
    why = os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or str(error)
    what = f"{path}: the frozen weights cannot be written ({why})"
    raise UserError(f"{what}: make room and run the same command again") from error


def _drop_unfinished(folder: Path) -> None:
  """Removes what a write that failed or was killed has left, safetensors' own files too."""
  for path in folder.iterdir() if folder.is_dir() else ():
    if path.name.startswith(".") and path.is_file():
      path.unlink()


def read(workdir: str, frozen: Frozen) -> Arrays:
  """The arrays of a file, all verified; none where nothing is frozen.

  Raises:
    ValueError, OSError: the file is missing, cut or changed; the text has its path.
    PermissionError: it may not be read.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  path = path_of(workdir, frozen.file)
  if not frozen.arrays:
    return {}
  try:
    # The library's own errors do not tell which of these it is.
    open(path, "rb").close()
    arrays = load_file(path)
    verify(arrays, frozen.arrays)
  except FileNotFoundError as error:
    raise ValueError(f"its frozen weights, {path}, are missing") from error
  except (SafetensorError, ValueError, KeyError, TypeError) as error:
    raise ValueError(f"its frozen weights, {path}: {error}") from error
  return arrays


@contextlib.contextmanager
def tidied(workdir: str) -> Iterator[None]:
  """Removes in the end the files that no checkpoint of the workdir names any more.

  It encloses the managers that drop checkpoints. Checkpoints that were set aside count.
  """
  try:
    yield
  finally:
    folder = Path(os.path.abspath(workdir), mirror.FROZEN)
    if distributed.process_index() == 0 and folder.is_dir():
      _drop_unfinished(folder)
      for path in folder.iterdir():
        ours = mirror.is_frozen(f"{mirror.FROZEN}/{path.name}")
        if ours and not mirror.is_named(workdir, path.name):
          path.unlink()
