"""Descriptions in files: JSON, JSONL, CSV, and those that ship with the package."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from lafg_jax.utils.errors import UserError

Record = dict[str, str]  # {"class", "description", "source"}

# The project's own descriptions: JSON {class: [sentence, ...]}, a file per data set.
SHIPPED = Path(__file__).parent / "shipped"

KEY = "language.descriptions"
HINT = f"pass --config.{KEY}=FILE"
# Files of these are no JSON of {class: [sentence, ...]}.
OTHER_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")


def record(name: str, text: str, source: str) -> Record:
  """One description of a class; `source` says where it comes from."""
  return {"class": _whole(name).strip(), "description": text, "source": source}


def read_file(path: str) -> list[Record]:
  """Reads descriptions from a file, by its suffix.

  .jsonl and .ndjson hold {"class", "description"} on each line, .csv and .tsv those two columns,
  parted by commas, semicolons or tabs, under a header; any other suffix is JSON
  `{class: [sentence, ...]}`.

  Raises:
    UserError: no path given, no such file, or not of that form; a bad line is named.
  """
  if not path:
    raise UserError(
      f"{KEY} is empty: {HINT}, a JSON {{class: [sentence, ...]}}, or a .jsonl or .csv of class "
      "and description"
    )
  if not os.path.isfile(path):
    raise UserError(
      f"{KEY}: no file {path!r}: {HINT}; --stage=describe --config.language.describer=skeleton "
      "writes one with all class names, to be filled in"
    )
  suffix = Path(path).suffix.lower()
  if suffix in OTHER_SUFFIXES:
    return _read_csv(Path(path)) if suffix in (".csv", ".tsv") else read_jsonl(Path(path), HINT)
  return _read_json(Path(path))


def read_shipped() -> list[Record]:
  """The descriptions in all files of `SHIPPED`."""
  return [
    found | {"source": f"shipped:{path.name}"}
    for path in sorted(SHIPPED.glob("*.json"))
    for found in _read_json(path)
  ]


def clean(text: str) -> str:
  """One line without stray double quotes: a pair around the whole, or an unpaired one at an end.

  Returns '' for a text without any letter or digit.
  """
  text = " ".join(_whole(text).split())
  quotes = sum(text.count(mark) for mark in '"“”')
  wrapped = len(text) > 1 and text[0] in '"“' and text[-1] in '"”' and quotes == 2
  if wrapped or quotes % 2:
    text = text.strip('"“” ')
  return text if any(character.isalnum() for character in text) else ""


def _whole(text: str) -> str:
  # JSON can hold half a character (a lone surrogate), which UTF-8 cannot encode, and NUL, which
  # NumPy drops from the end of a text.
  return text.encode("utf-8", "ignore").decode("utf-8").replace("\0", "")


def _read_text(path: Path, hint: str) -> str:
  try:
    return path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as UTF-8 text ({error}): {hint}") from None


def _read_json(path: Path) -> list[Record]:
  text = _read_text(path, HINT)
  try:
    pairs = json.loads(text, object_pairs_hook=list)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path} is not JSON ({error}); one object a line needs .jsonl") from None
  expected = f"{path}: expected {{class: [sentence, ...]}}"
  # The hook turns an object into pairs, so that a class that occurs twice keeps both lists.
  if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
    raise UserError(f"{expected}, found another kind of value: {HINT}")
  for name, texts in pairs:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
      raise UserError(f"{expected}, but {name!r} has no list of strings: {HINT}")
  return [record(name, text, f"file:{path.name}") for name, texts in pairs for text in texts]


def read_jsonl(path: Path, hint: str) -> list[Record]:
  """Reads {"class", "description", maybe "source"} from each line.

  Raises UserError, which `hint` ends, if the file is unreadable or a line has another form.
  """
  records = []
  # Only \n ends a line: a sentence may hold Unicode's other line separators.
  for number, line in enumerate(_read_text(path, hint).split("\n"), 1):
    if not line.strip():
      continue
    try:
      value = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise UserError(f"{path} line {number} is not JSON ({error}): {hint}") from None
    row = value if isinstance(value, dict) else {}
    if row.get("source") is None:
      row |= {"source": f"file:{path.name}"}
    name, text, source = (row.get(key) for key in ("class", "description", "source"))
    if not (isinstance(name, str) and isinstance(text, str) and isinstance(source, str)):
      raise UserError(f'{path} line {number} is not {{"class": str, "description": str}}: {hint}')
    records.append(record(name, text, source))
  return records


def _read_csv(path: Path) -> list[Record]:
  # The csv module splits lines itself: a quoted cell may hold line ends.
  text = _read_text(path, HINT)
  first = text.split("\n", 1)[0]
  parting = max(",;\t", key=first.count)
  rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=parting)
  records = []
  try:
    header = [name.strip() for name in rows.fieldnames or ()]
    header = [x.lower() if x.lower() in ("class", "description") else x for x in header]
    if "class" not in header or "description" not in header:
      raise UserError(f"{path}: its first line must name the columns class and description: {HINT}")
    rows.fieldnames = header
    for row in rows:
      name, text = row["class"], row["description"]
      # The reader puts surplus cells under the key None, and None in place of missing cells.
      if None in row or name is None or text is None:
        raise UserError(
          f"{path} line {rows.line_num} has not as many cells as the first line (a text that holds "
          f"a comma needs quotes): {HINT}"
        )
      records.append(record(name, text, f"file:{path.name}"))
  except csv.Error as error:
    raise UserError(f"{path} line {rows.line_num} is not CSV ({error}): {HINT}") from None
  return records


def read(workdir: str | os.PathLike, class_names: Sequence[str]) -> list[Record]:
  """The descriptions in a workdir, which `describe.run` wrote.

  Raises UserError if they are missing, damaged, or not of exactly these classes.
  """
  path = Path(workdir) / "descriptions.jsonl"
  if not path.is_file():
    raise UserError(f"{path} does not exist: run --stage=describe first")
  records = read_jsonl(path, "run --stage=describe again")
  if {record["class"] for record in records} != set(class_names):
    raise UserError(f"{path} was written for other classes: run --stage=describe again")
  return records
