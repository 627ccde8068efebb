"""Files of captions and edits that people exchange: our JSONL, and LDRE's JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lafg_jax.utils.errors import UserError


def rows(path: str, key: str, wanted: str) -> list[dict[str, Any]]:
  """The objects of a file: one a line, or a JSON list of them.

  Raises UserError, with the config key and what is `wanted`, where there is no such file, or it
  has another form; a bad line is named.
  """
  if not path:
    raise UserError(f"{key} is empty: pass --config.{key}=FILE, {wanted}")
  if not Path(path).is_file():
    raise UserError(f"--config.{key}={path}: there is no such file; pass {wanted}")
  try:
    text = Path(path).read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as UTF-8 text ({error})") from None
  if text.lstrip()[:1] == "[":
    found = [("", text)]
  else:
    # Only \n ends a line: a text may hold Unicode's other line separators.
    lines = enumerate(text.split("\n"), 1)
    found = [(f" line {number}", line) for number, line in lines if line.strip()]
  values: list[Any] = []
  for where, part in found:
    try:
      value = json.loads(part)
    except (ValueError, RecursionError) as error:
      raise UserError(f"{path}{where} is not JSON ({error}): it takes {wanted}") from None
    values += value if isinstance(value, list) else [value]
  if not all(isinstance(value, dict) for value in values):
    raise UserError(f"{path} holds a value that is no object: it takes {wanted}")
  return values


def first(row: dict[str, Any], names: Sequence[str]) -> Any:
  """The value of the first of these names that a row has; None for none."""
  return next((row[name] for name in names if row.get(name) is not None), None)


def texts(value: Any) -> list[str] | None:
  """A text or a list of texts as a list, without empty ones; None for anything else."""
  value = [value] if isinstance(value, str) else value
  if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
    return None
  return [" ".join(text.split()) for text in value if text.strip()]


def plain_id(value: Any) -> str:
  """An id in one form: COCO's 000000281438 and 281438 are one."""
  text = str(value).strip()
  return str(int(text)) if text.isascii() and text.isdigit() else text
