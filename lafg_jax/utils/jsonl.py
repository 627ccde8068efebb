"""JSONL files that grow by a line as each piece of work is done, and outlive any kill."""

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from absl import logging

from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import naming, replacing

T = TypeVar("T")


def appending(path: Path) -> BinaryIO:
  """The file, open for `append`."""
  # Without a buffer, which would try again to write what a full disk refused, on closing.
  return open(path, "ab", buffering=0)


def append(file: BinaryIO, row: dict[str, Any]) -> None:
  """Adds one line, which is on the disk when this returns."""
  line = _line(row)
  with naming(file.name):
    if file.write(line) < len(line):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
  """A whole file of rows, or the one that was there before."""
  with replacing(path) as temporary, open(temporary, "wb") as file:
    file.writelines(map(_line, rows))


def _line(row: dict[str, Any]) -> bytes:
  # A model's raw text may hold half a character, which UTF-8 does not take.
  return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read(path: Path, of_row: Callable[[dict[str, Any]], T], stage: str) -> list[T]:
  """What `of_row` makes of each line of a file that `write` wrote.

  Raises UserError, which names the line and `stage`, the one to run again, where one is damaged.
  """
  found = []
  # Not splitlines: a text may hold signs that it takes for ends of lines.
  for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
    try:
      found.append(of_row(json.loads(line)))
    except (ValueError, KeyError, TypeError):
      raise UserError(f"{path} line {number} is damaged: run --stage={stage} again") from None
  return found


def sound_rows(
  path: Path, is_sound: Callable[[dict[str, Any]], bool], lost: str
) -> Iterator[dict[str, Any]]:
  """The rows of a file that `append` wrote; none where it is missing.

  A last line that was half written is cut off. Other lines that are no JSON object, or for which
  `is_sound` is False or fails, are named in a warning that ends in `lost`.
  """
  if not path.exists():
    return
  data = path.read_bytes()
  whole = data[: data.rfind(b"\n") + 1]
  if len(whole) < len(data):
    os.truncate(path, len(whole))
  for number, line in enumerate(whole.split(b"\n")[:-1], 1):
    try:
      row = json.loads(line)
      sound = isinstance(row, dict) and is_sound(row)
    except (ValueError, TypeError, KeyError):
      sound = False
    if sound:
      yield row
    else:
      logging.warning("%s line %d is damaged: %s", path, number, lost)
