"""What has been done in a workdir: a stage is skipped while its outputs match its inputs.

`<workdir>/stages.json` keeps, for each stage, the key it ran with (a hash of its config section,
class list and inputs) and a hash of each output, so that an output that was edited by hand or cut
short is noticed as well.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from absl import logging


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Yields a temporary path in the folder of `path`, moved to `path` if the block succeeds.

  Raises:
    OSError: as `naming` does; then nothing is left but what was at `path` before.
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


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Gives an OSError that names no file, as that of a full disk does, the name of `path`."""
  try:
    yield
  except OSError as error:
    if error.filename is not None:
      raise
    # NumPy says in its own words what it could not write, without a number.
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

  Args:
    parts: JSON-able values, ConfigDict sections, NumPy arrays, and `Path` objects, in any nesting.
      A Path stands for the content of that file or folder (a str is only its letters). A Path that
      does not exist counts as absent, so that the stage runs and says itself what it lacks.
      Tuples equal lists, and the order of a dict's keys does not matter.

  Raises:
    TypeError: a part of any other type.
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


def is_done(
  workdir: str | os.PathLike, stage: str, key: str, outputs: Sequence[str | os.PathLike]
) -> bool:
  """Whether `stage` can be skipped; logs the decision, the key and, for a rerun, the reason.

  Args:
    outputs: files or folders, relative to `workdir` or absolute.
  """
  record = _read(workdir).get(stage)
  reason = "first run" if record is None else _why_rerun(record, workdir, key, outputs)
  if reason:
    logging.info("stage %s [%s]: running (%s)", stage, key[:12], reason)
  else:
    logging.info("stage %s [%s]: skipped (up to date)", stage, key[:12])
  return not reason


def _why_rerun(record, workdir, key, outputs) -> str:
  if any(not (Path(workdir) / output).exists() for output in outputs):
    return "output missing"
  if record.get("key") != key:
    return "config or inputs changed"
  if record.get("outputs") != _hashes(workdir, outputs):
    return "output changed since it was written"
  return ""


def mark_done(
  workdir: str | os.PathLike, stage: str, key: str, outputs: Sequence[str | os.PathLike]
) -> None:
  """Records that `stage` wrote `outputs` under `key`; the arguments are those of `is_done`."""
  record = {"key": key, "outputs": _hashes(workdir, outputs)}
  text = json.dumps({**_read(workdir), stage: record}, indent=2, sort_keys=True) + "\n"
  with replacing(Path(workdir) / "stages.json") as temporary:
    temporary.write_text(text, encoding="utf-8")


def _hashes(workdir, outputs) -> dict[str, str]:
  # Relative names keep the record true when the whole workdir is moved.
  paths = [Path(workdir) / output for output in outputs]
  return {os.path.relpath(path, workdir): file_hash(path) for path in paths}


def _read(workdir) -> dict[str, dict]:
  path = Path(workdir) / "stages.json"
  if not path.exists():
    return {}
  try:
    records = json.loads(path.read_text(encoding="utf-8"))
  except ValueError:
    records = None
  if not isinstance(records, dict) or not all(isinstance(r, dict) for r in records.values()):
    logging.warning("%s is damaged: every stage counts as not yet run", path)
    return {}
  return records
