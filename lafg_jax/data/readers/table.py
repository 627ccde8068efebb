"""The columns of a table in a file, CSV or Parquet, by the names that a manifest knows."""

import codecs
import csv
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.data.readers.split_folders import part_of
from lafg_jax.utils.errors import UserError

BOX = ("left", "top", "right", "bottom")
READ = ("path", "label", "class", "split", *BOX)
# Other names of these columns, in lower case and with '_' for spaces.
ALSO = {
  "path": ("image_path", "img_path", "file_path", "filepath", "filename", "file_name", "file")
  + ("image", "img", "image_file", "image_name")
  + ("paths", "filepaths", "file_paths", "image_paths", "filenames"),
  "label": ("labels", "label_id", "class_id", "class_index", "target"),
  "class": ("class_name", "classname", "label_name", "category", "species"),
  "split": ("splits", "subset", "partition", "set", "usage", "phase", "part", "fold")
  + ("dataset", "data_set", "data_split", "train_test", "train_test_split", "train_or_test"),
  "left": ("xmin", "x_min", "x1", "bbox_x1"),
  "top": ("ymin", "y_min", "y1", "bbox_y1"),
  "right": ("xmax", "x_max", "x2", "bbox_x2"),
  "bottom": ("ymax", "y_max", "y2", "bbox_y2"),
}
_OTHER_NAMES = {name for names in ALSO.values() for name in names}
# Columns that say yes or no of a split.
_YES_OR_NO = re.compile(r"(is_|in_)?(train|training|test|testing|val|valid|validation)(_set)?")
_DELIMITERS = (",", ";", "\t", "|")
PARQUET = b"PAR1"
# How files of other kinds begin.
FOREIGN = {
  b"PK\x03\x04": "is a spreadsheet or an archive: save the sheet as CSV",
  b"\xd0\xcf\x11\xe0": "is a spreadsheet: save the sheet as CSV",
  b"\x1f\x8b": "is compressed: unpack it",
  b"ARROW1": "is an Arrow file: write it as Parquet",
  codecs.BOM_UTF16_LE: "is a text in UTF-16: save it in UTF-8",
  codecs.BOM_UTF16_BE: "is a text in UTF-16: save it in UTF-8",
  b"{": "is JSON: write a CSV or Parquet with a row for each image",
  b"[": "is JSON: write a CSV or Parquet with a row for each image",
}

Columns = dict[str, list[Any]]
Table = list[tuple[str, list[Any]]]


def columns(path: Path, key: str) -> Columns:
  """The columns that READ names, those of them that there are; empty cells are ''.

  Case, spaces and other usual names of a column do not matter. Raises UserError where the file,
  which `key` names, is none or lacks the paths, or labels and classes.
  """
  start = start_of(path, key)
  for magic, what in FOREIGN.items():
    if start.startswith(magic):
      raise UserError(f"{path} {what}")
  is_parquet = start.startswith(PARQUET) or path.suffix.lower() in (".parquet", ".pq")
  table = _parquet(path) if is_parquet else csv_table(path)
  at = named(path, [name for name, _ in table])
  found = {name: ["" if x is None else x for x in table[k][1]] for name, k in at.items()}
  if "split" in found and plain(title := table[at["split"]][0]) != "split":
    check_split(path, title, found)
  if "path" not in found or not {"label", "class"} & set(found):
    raise UserError(_lacking(path, [name for name, _ in table]))
  others = [pair for k, pair in enumerate(table) if k not in at.values()]
  if "split" not in found:
    _refuse_other_splits(path, others)
  if others:
    logging.info("%s: columns not read: %s", path, ", ".join(repr(name) for name, _ in others))
  if not found["path"]:
    raise UserError(f"{path} lists no image")
  return found


def start_of(path: Path, key: str, kinds: str = "CSV or Parquet") -> bytes:
  """The first bytes of a table's file, which `key` names; UserError where it cannot be read."""
  if not path.is_file():
    what = f"a folder, not a {kinds}" if path.is_dir() else "no such file"
    raise UserError(f"--config.{key}={path}: {what}")
  try:
    with open(path, "rb") as file:
      start = file.read(64)
  except OSError as error:
    raise UserError(f"--config.{key}={path} cannot be read: {error.strerror}") from error
  return start.removeprefix(codecs.BOM_UTF8).lstrip()


def check_split(path: Path, title: str, found: Columns) -> None:
  """Removes a column such as 'set' that names no split; UserError where only some rows do."""
  other = [str(x) for x in found["split"] if not part_of(str(x))]
  if len(other) == len(found["split"]):
    del found["split"]
  elif other:
    raise UserError(
      f"{path}: the column '{title}' names splits, but also '{other[0]}': name train, val or test "
      "in each row, or call the column otherwise"
    )


def _refuse_other_splits(path: Path, others: Table) -> None:
  """Raises UserError where a column of another name has a split: its test would be trained on."""
  for name, cells in others:
    parts = {part_of(str(x)) for x in cells}
    if _YES_OR_NO.fullmatch(plain(name)) or (parts > {"train"} and "" not in parts):
      raise UserError(
        f"{path}: the column '{name}' looks like a split: call it 'split', with train, val or test "
        "in each row, or remove it"
      )


def _lacking(path: Path, there: Sequence[str]) -> str:
  near = {
    name: difflib.get_close_matches(plain(name), ("path", "label", "class"), n=1, cutoff=0.75)
    for name in there
  }
  hints = [f"'{name}' may be {close[0]}" for name, close in near.items() if close]
  has = ", ".join(there) or "none"
  return (
    f"{path} needs the columns path, and label or class; it has {has}"
    + (f" ({'; '.join(hints)})" if hints else "")
  )  # fmt: skip


def plain(name: str) -> str:
  """The name of a column without case, and with '_' for spaces and hyphens."""
  return re.sub(r"[\s-]+", "_", name.strip().lower())


def named(
  path: Path, head: Sequence[str], also: Mapping[str, Sequence[str]] = ALSO
) -> dict[str, int]:
  """{name: its column} of names and their other names; UserError where two could be the one."""
  plain_head = [plain(name) for name in head]
  found = {}
  for name, others in also.items():
    at = [k for k, x in enumerate(plain_head) if x == name]
    if len(at) > 1:
      raise UserError(f"{path} has {len(at)} columns '{name}': keep one")
    at = at or [k for k, x in enumerate(plain_head) if x in others]
    if len(at) > 1 and name != "split":
      both = " and ".join(head[k] for k in at)
      raise UserError(f"{path} has the columns {both}: call the one that counts '{name}'")
    if at:
      found[name] = at[0]
  return found


def csv_table(path: Path) -> Table:
  """The columns of a CSV file in the order of its header; raises UserError."""
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      text = file.read()
    lines = io.StringIO(text, newline="")
    rows = list(
      csv.reader(lines, delimiter=_delimiter(path, text), skipinitialspace=True, strict=True)
    )
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
  rows = [row for row in rows if any(cell.strip() for cell in row)]
  if not rows:
    raise UserError(f"{path} is empty: its first line has the names of the columns")
  head, width = rows[0], len(rows[0])
  for number, row in enumerate(rows[1:], 1):
    # A delimiter at the end of a line begins an empty field.
    if len(row) < width or any(cell.strip() for cell in row[width:]):
      raise UserError(f"{path} row {number}: {len(row)} fields, not the {width} of its header")
  return [(name, [row[k].strip() for row in rows[1:]]) for k, name in enumerate(head)]


def _delimiter(path: Path, text: str) -> str:
  """The one that parts the header into columns that are known."""
  usual = "\t" if path.suffix.lower() == ".tsv" else ","
  first = next((line for line in text.splitlines() if line.strip()), "")
  for delimiter in (usual, *_DELIMITERS):
    head = {
      plain(name)
      for row in csv.reader([first], delimiter=delimiter, skipinitialspace=True)
      for name in row
    }
    if head & {"path", *ALSO["path"]} and len(head) > 1:
      return delimiter
  return usual


def _parquet(path: Path) -> Table:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise UserError(
      f"{path} is read by pyarrow: pip install 'lafg_jax[data]', or pass a CSV"
    ) from error

  try:
    file = parquet.ParquetFile(path)
    schema = file.schema_arrow
    # Other columns may be large, such as the images themselves.
    kept = [k for k, field in enumerate(schema) if _is_read(field)]
    if len({schema.names[k] for k in kept}) < len(kept):
      named(path, [schema.names[k] for k in kept])
    table = file.read(columns=[schema.names[k] for k in kept])
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
  return [
    (name, _texts(path, name, table[name].to_pylist()) if k in kept else [])
    for k, name in enumerate(schema.names)
    if k in kept or plain(name) not in _OTHER_NAMES
  ]


def _is_read(field: Any) -> bool:
  """Whether a column is called as one that is read; of other names, not where it has parts."""
  name = plain(field.name)
  return name in READ or (name in _OTHER_NAMES and not field.type.num_fields)


def _texts(path: Path, name: str, column: list[Any]) -> list[Any]:
  """The column as texts: some writers store them as bytes, which are decoded."""
  if any(isinstance(x, list | dict) for x in column):
    raise UserError(f"{path}: the column '{name}' holds lists: write one value in each row")
  try:
    return [x.decode("utf-8") if isinstance(x, bytes) else x for x in column]
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: the column '{name}' holds bytes that are no UTF-8 text") from error
