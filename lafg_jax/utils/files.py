"""Files that are written whole, hashes of contents, and arrays read without pickles."""

import contextlib
import errno
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from lafg_jax.utils.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Yields a temporary path in the folder of `path`, moved to `path` if the block succeeds.

  Raises OSError as `naming` does; then only the old content of `path` is left.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with naming(path):
      yield temporary
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_npz(path: str | os.PathLike, **arrays: Any) -> Path:
  """Writes an npz file whole; returns its path. Raises OSError as `replacing` does."""
  with replacing(path) as temporary, open(temporary, "wb") as file:
    np.savez(file, **arrays)
    file.flush()
    os.fsync(file.fileno())
  return Path(path)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Adds the name of `path` to an OSError without a file name, such as that of a full disk."""
  try:
    yield
  except OSError as error:
    if error.filename is not None:
      raise
    # NumPy's errors about writing have their own text and no number.
    reason = error.strerror or str(error) or type(error).__name__
    raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def file_hash(path: str | os.PathLike) -> str:
  """SHA-256 (hex) of a file's bytes, or of the names and bytes of all files below a folder."""
  path = Path(path)
  if path.is_dir():
    files = sorted(p for p in path.rglob("*") if p.is_file())
    lines = [f"{p.relative_to(path).as_posix()} {file_hash(p)}" for p in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*parts: Any) -> str:
  """Hex SHA-256 over the content of `parts`.

  Parts are JSON-able values, ConfigDict sections, NumPy arrays, and `Path` objects, in any nesting;
  others raise TypeError. A Path stands for the content of that file or folder, a str for its
  letters. A Path that does not exist counts as absent, so that the stage runs and reports what it
  lacks. Tuples equal lists, and the order of a dict's keys does not matter.
  """
  text = json.dumps([_plain(part) for part in parts], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _plain(part: Any) -> Any:
  if isinstance(part, ml_collections.ConfigDict):
    return _plain(part.to_dict())
  if isinstance(part, dict):
    if not all(isinstance(key, str) for key in part):
      raise TypeError(f"cannot fingerprint a dict whose keys are not all str: {list(part)[:5]}")
    return {"dict": {key: _plain(value) for key, value in part.items()}}
  if isinstance(part, list | tuple):
    return [_plain(value) for value in part]
  if isinstance(part, Path):
    return {"file": file_hash(part) if part.exists() else None}
  if isinstance(part, np.generic):
    return _plain(part.item())
  if isinstance(part, np.ndarray) and not part.dtype.hasobject:
    data = hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()
    return {"array": [part.dtype.str, list(part.shape), data]}
  if part is None or isinstance(part, bool | int | float | str):
    return part
  raise TypeError(f"cannot fingerprint a {type(part).__name__}")


# How many arrays of a file a message names.
_SHOWN = 8
# What numpy and zipfile raise on damaged bytes. A lone .npy array is no context manager, which is
# a TypeError; flipped header bits ask for encryption or unknown compression, a RuntimeError.
_DAMAGE = (ValueError, TypeError, RuntimeError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


def read_npz(
  path: str | os.PathLike, keys: Sequence[str], *, stage: str | None, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """The arrays `keys` of an npz file, and those of `optional` that it has, without pickles.

  Raises UserError where the file is missing or damaged, lacks a key, or has Python objects under
  one. The message names the `stage` that writes the file; None is for a file from elsewhere.
  """
  path = Path(path)
  first, again = (f": run --stage={stage} {word}" if stage else "" for word in ("first", "again"))
  if not path.is_file():
    raise UserError(f"{path} does not exist{first}")
  try:
    with np.load(path, allow_pickle=False) as archive:
      has = sorted(archive.files)
      missing = [key for key in keys if key not in has]
      if not missing:
        wanted = [*keys, *(key for key in optional if key in has)]
        return {key: _read(path, key, archive, stage) for key in wanted}
  except UserError:
    raise
  except _DAMAGE as error:
    raise UserError(f"{path} is damaged or no npz file{again}") from error
  shown = ", ".join(has[:_SHOWN]) + (", ..." if len(has) > _SHOWN else "")
  lacking = f"an array ({' and '.join(missing)})"
  raise UserError(f"{path} lacks {lacking}; it has {shown or 'nothing'}{again}")


def _read(path: Path, key: str, archive: Any, stage: str | None) -> np.ndarray:
  try:
    return archive[key]
  except ValueError as error:
    # A stage never writes such an array: its file is damaged.
    if stage or "allow_pickle" not in str(error):
      raise
    hint = "save it as numbers or text, as by .astype(str) or .astype(int)"
    what = f"{key} is an array of Python objects (dtype=object), which are never unpickled"
    raise UserError(f"{path}: {what}; {hint}") from error


def read_cached_npz(
  path: str | os.PathLike, keys: tuple[str, str], is_sound: Callable[..., bool]
) -> tuple[np.ndarray, np.ndarray] | None:
  """The two arrays `keys` of a file, or None where it is missing, damaged or not `is_sound`.

  A damaged file is renamed to *.damaged, with a warning that it is computed again.
  """
  path = Path(path)
  if not path.exists():
    return None
  with contextlib.suppress(UserError):
    arrays = read_npz(path, keys, stage=None)
    first, second = (arrays[key] for key in keys)
    if is_sound(first, second):
      return first, second
  # Another process may have merged, replaced or renamed the file meanwhile.
  with contextlib.suppress(FileNotFoundError):
    path.replace(path.with_suffix(".damaged"))
    logging.warning("%s does not read whole, is damaged and set aside, and computed again", path)
  return None
