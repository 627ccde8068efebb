"""The columns of a gallery: ours, the user's own, and filters over them."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lafg_jax.utils.errors import UserError

# What a filter may name beside the user's own columns.
OURS = ("path", "class", "file_size", "file_mtime", "file_hash", "file_root")
# Names that a column of the user's cannot have: ours, and those we keep to ourselves.
KEY, VECTOR, DESCRIBED = "file_id", "embedding", "file_described"
_KEPT = {*OURS, KEY, VECTOR, DESCRIBED}
_WORDS = {"and", "or", "not", "in", "like", "is", "null", "true", "false", "exists", "iso"}
_WORDS |= {"interval", "escape"}
_STRING = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])\d+(\.\d*)?([eE][+-]?\d+)?")
_NAME = re.compile(r"(?<![\w$])[A-Za-z_]\w*(?!\w|\s*\()", re.ASCII)


def literal(value: Any) -> str:
  """A text, number or truth value as a filter has it; quotes and line breaks inside are escaped."""
  return json.dumps(value, ensure_ascii=False)


def check(where: str, columns: Iterable[str]) -> None:
  """Raises UserError where a filter names a column that the gallery lacks.

  Milvus itself takes such a name for a column that is empty in each row, so that a slip of the pen
  would find nothing and say nothing.
  """
  known = [*OURS, *columns]
  bare = _NUMBER.sub(" ", _STRING.sub(" ", where))
  if "'" in bare or '"' in bare:
    # A text without its end: Milvus says where.
    return
  for name in _NAME.findall(bare):
    if name not in known and name.lower() not in _WORDS:
      close = difflib.get_close_matches(name, known, n=1)
      hint = f" (did you mean {close[0]}?)" if close else f"; it has {', '.join(known)}"
      raise UserError(f"--where={where}: the gallery has no column {name!r}{hint}")


def named(head: Sequence[str], what: str) -> list[str]:
  """The names of the user's columns as filters can write them: letters, digits and '_'.

  Raises UserError where two become one, or one is called as a column of ours.
  """
  found = []
  for number, title in enumerate(head, 1):
    name = re.sub(r"\W+", "_", title.strip(), flags=re.ASCII).strip("_") or f"column_{number}"
    name = f"_{name}" if name[0].isdigit() else name
    name = f"{name}_" if name.lower() in _WORDS else name
    if name in _KEPT:
      raise UserError(f"{what}: the column {title!r} is called as one of the gallery's: rename it")
    if name in found:
      raise UserError(f"{what}: two columns are called {name!r}: rename one")
    found.append(name)
  return found


def typed(cells: Sequence[Any]) -> list[Any]:
  """The cells of a column as JSON has them; None for an empty one.

  Texts become numbers where all of the column are whole numbers, or all are numbers, written as
  Python writes them: '007' is a text.
  """
  values = [_plain(x) for x in cells]
  there = [x for x in values if x is not None]
  if all(isinstance(x, str) for x in there):
    for kind in (int, float):
      if there and all(_is(kind, x) for x in there):
        return [x if x is None else kind(x) for x in values]
  return values


def _is(kind: type, text: str) -> bool:
  pattern = r"-?(0|[1-9]\d{0,17})" if kind is int else r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?"
  return re.fullmatch(pattern, text, re.ASCII) is not None and abs(float(text)) < 1e300


def _plain(cell: Any) -> Any:
  if cell is None or cell == "" or cell != cell:  # noqa: PLR0124 - not a number
    return None
  if isinstance(cell, bool | str):
    return cell
  if isinstance(cell, int):
    return cell if abs(cell) < 2**63 else str(cell)
  if isinstance(cell, float):
    return cell if abs(cell) < 1e300 else str(cell)
  return str(cell)
