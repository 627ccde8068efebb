"""Captions in a table of one's own: JSONL, CSV or Parquet, a row for each image and its caption.

Columns: image; caption; and perhaps class, split, id and negatives. Case and usual other names do
not matter. In JSONL and Parquet a caption may be a list, of several captions of one image, and
negatives a list; in CSV a list is written as JSON. In Parquet, images may be the bytes of files, as
Hugging Face stores them.
"""

import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.data import listing
from lafg_jax.data.caption_readers.listed import Listed
from lafg_jax.data.parquet import Images
from lafg_jax.data.readers import manifest, own, table
from lafg_jax.data.readers.split_folders import part_of
from lafg_jax.utils.errors import UserError

ALSO: dict[str, tuple[str, ...]] = {
  "image": ("path", *table.ALSO["path"]),
  "caption": ("captions", "text", "texts", "sentence", "sentences", "description", "positive"),
  "class": (*table.ALSO["class"], "label", "labels"),
  "split": table.ALSO["split"],
  "id": ("caption_id", "row_id", "pair_id", "uid"),
  "negatives": ("negative", "negative_captions", "hard_negatives"),
}
_KINDS = "JSONL, CSV or Parquet"
# Cells of a column in captions.template that say nothing.
NOTHING = ("", "na", "n/a", "nan", "none", "null")


def read(config: Any) -> Listed:
  """The rows of captions.file, and of captions.test_file as those of the test."""
  captions, root = config.captions, config.data.root
  if not captions.test_file:
    return _read_file(Path(captions.file), "captions.file", captions, root)
  if not captions.file:
    only = _read_file(Path(captions.test_file), "captions.test_file", captions, root)
    return only._replace(splits=["test"] * len(only.captions))
  first = _read_file(Path(captions.file), "captions.file", captions, root)
  second = _read_file(Path(captions.test_file), "captions.test_file", captions, root)
  for part in (first, second):
    if part.splits is not None:
      raise UserError(
        f"{part.where} has a column 'split': leave out --config.captions.test_file, or the column"
      )
  if first.images is not None or second.images is not None:
    raise UserError(
      "--config.captions.test_file: of Parquet files that hold the images themselves one is read: "
      "put both into one file, with a column 'split'"
    )
  for name in ("classes", "negatives", "ids"):
    if (getattr(first, name) is None) != (getattr(second, name) is None):
      raise UserError(f"{first.where} and {second.where}: {name} must stand in both, or in neither")
  both: dict[str, Any] = {
    name: None if getattr(first, name) is None else [*getattr(first, name), *getattr(second, name)]
    for name in ("paths", "captions", "classes", "negatives", "ids")
  }
  splits = ["train"] * len(first.paths) + ["test"] * len(second.paths)
  return Listed(where=f"{first.where} and {second.where}", splits=splits, **both)


def _read_file(path: Path, key: str, captions: Any, root: str) -> Listed:
  columns, kept_images = columns_of(path, key)
  cells = {name: list(column) for name, column in columns}
  if len(cells) < len(columns):
    raise UserError(f"{path} has two columns of one name: keep one")
  at = table.named(path, list(cells), ALSO)
  found = {name: list(cells.values())[k] for name, k in at.items()}
  _choose(path, captions, cells, found)
  if not len(found["image"]):
    raise UserError(f"{path} has no row")
  if "split" in found and table.plain(title := list(cells)[at["split"]]) != "split":
    table.check_split(path, title, found)
  found["caption"], of = _captions(path, found)
  images = [found["image"][row] for row in of]
  return Listed(
    where=str(path),
    paths=images if kept_images is not None else _paths(path, root, images, of),
    captions=found["caption"],
    classes=_classes(path, found, of),
    splits=_splits(path, found, of),
    negatives=_negatives(path, found, of),
    ids=[str(found["id"][row]) for row in of] if "id" in found else None,
    images=kept_images,
    rows=of if kept_images is not None else None,
    version=f"{path.stat().st_size}" if kept_images is not None else "",
  )


def _choose(path: Path, captions: Any, cells: dict[str, Any], found: dict[str, Any]) -> None:
  """Puts the class and the caption that the config names into `found`; checks what is needed."""
  by_name = {table.plain(name): column for name, column in cells.items()}
  has = ", ".join(cells) or "none"
  if captions.class_column:
    if table.plain(captions.class_column) not in by_name:
      raise UserError(
        f"--config.captions.class_column={captions.class_column}: {path} has the columns {has}"
      )
    found["class"] = by_name[table.plain(captions.class_column)]
  if captions.template:
    found["caption"] = filled(path, "captions.template", captions.template, by_name)
  for name in ("image", "caption"):
    if name not in found:
      mend = ", or pass --config.captions.template" if name == "caption" else ""
      raise UserError(f"{path} needs the columns image and caption; it has {has}{mend}")


def filled(path: Path, key: str, template: str, by_name: Mapping[str, Sequence[Any]]) -> list[str]:
  """A caption for each row: the template with the row's cells in place of names in braces.

  by_name: {plain name of a column: its cells}. Raises UserError, which names the key, where the
  template is none, or names a column that is not there.
  """
  try:
    parts = list(string.Formatter().parse(template))
  except ValueError as error:
    raise UserError(f"--config.{key}={template}: {error}") from error
  names = [table.plain(name) for _, name, _, _ in parts if name is not None]
  wrong = [name for name in names if name not in by_name]
  if wrong or not names:
    what = f"'{wrong[0]}' is no column" if wrong else "no column in braces"
    has = ", ".join(by_name)
    raise UserError(f"--config.{key}={template}: {what}; {path} has {has}")
  texts = []
  for row in range(len(by_name[names[0]])):
    text = ""
    for before, name, _, _ in parts:
      value = "" if name is None else str(by_name[table.plain(name)][row])
      text += before + ("" if value.lower() in NOTHING else value)
    # What an empty cell leaves: two spaces, or one before a comma.
    texts.append(re.sub(r"\s+([,.;])", r"\1", " ".join(text.split())))
  return texts


def _captions(path: Path, found: dict[str, Any]) -> tuple[list[str], list[int]]:
  """The captions one by one, and the row of the table that each is of."""
  texts, of = [], []
  for row, cell in enumerate(found["caption"]):
    several = _list(cell)
    if several is not None and "negatives" in found and len(several) > 1:
      raise UserError(f"{path} row {row + 1}: several captions with negatives: a row for each")
    for text in [cell] if several is None else several:
      if not isinstance(text, str) or not text.strip():
        raise UserError(f"{path} row {row + 1}: no caption")
      texts.append(" ".join(text.split()))
      of.append(row)
    if several == []:
      raise UserError(f"{path} row {row + 1}: no caption")
  return texts, of


def _list(cell: Any) -> list[Any] | None:
  """The list in a cell, also where it is written as JSON; None where it holds none."""
  if isinstance(cell, list):
    return cell
  if isinstance(cell, str) and cell.startswith("["):
    try:
      value = json.loads(cell)
    except ValueError:
      return None
    return value if isinstance(value, list) else None
  return None


def _paths(path: Path, root: str, images: Sequence[Any], of: Sequence[int]) -> list[str]:
  base = Path(root) if root else path.parent
  for row, image in zip(of, images, strict=True):
    if not isinstance(image, str) or not image.strip():
      raise UserError(f"{path} row {row + 1}: no image")
  return [
    manifest.clean_path(path, base, row + 1, image.strip())
    for row, image in zip(of, images, strict=True)
  ]


def _classes(path: Path, found: dict[str, Any], of: Sequence[int]) -> list[str] | None:
  if "class" not in found:
    return None
  raw = [str(found["class"][row]).strip() for row in of]
  if "" in raw:
    raise UserError(f"{path} row {of[raw.index('')] + 1}: no class")
  names = sorted(set(raw))
  clean = dict(zip(names, own.clean_names(names), strict=True))
  return [clean[name] for name in raw]


def _splits(path: Path, found: dict[str, Any], of: Sequence[int]) -> list[str] | None:
  if "split" not in found:
    return None
  written = [str(found["split"][row]) for row in of]
  splits = [part_of(split) for split in written]
  for row, (split, said) in enumerate(zip(splits, written, strict=True)):
    if split not in ("train", "val", "test"):
      raise UserError(
        f"{path} row {of[row] + 1}: split '{listing.shown(said)}' is none of train, val, test"
      )
  return splits


def _negatives(path: Path, found: dict[str, Any], of: Sequence[int]) -> list[list[str]] | None:
  if "negatives" not in found:
    return None
  lists = []
  for row in of:
    cell = found["negatives"][row]
    several = _list(cell)
    several = ([cell] if cell else []) if several is None else several
    if not all(isinstance(text, str) for text in several):
      raise UserError(f"{path} row {row + 1}: negatives are a list of texts")
    lists.append([" ".join(text.split()) for text in several if text.strip()])
  return lists


def columns_of(path: Path, key: str) -> tuple[table.Table, Images | None]:
  """The table of a file that `key` names, and the images that it holds itself."""
  start = table.start_of(path, key, _KINDS)
  ending = path.suffix.lower()
  if start.startswith(table.PARQUET) or ending in (".parquet", ".pq"):
    return _parquet(path)
  if start[:1] in (b"{", b"[") or ending in (".jsonl", ".ndjson", ".json"):
    return _json_lines(path), None
  for magic, what in table.FOREIGN.items():
    if start.startswith(magic):
      raise UserError(f"{path} {what}")
  return table.csv_table(path), None


def _json_lines(path: Path) -> table.Table:
  """The objects of a file, a line each, or of one JSON array; a cell that is not there is ''."""
  try:
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as a text in UTF-8: {error}") from error
  rows: list[Any] = []
  # Not splitlines: a caption may hold signs that it takes for ends of lines.
  whole = text.lstrip().startswith("[")
  for number, line in enumerate([text] if whole else text.split("\n"), 1):
    if not line.strip():
      continue
    try:
      value = json.loads(line)
    except ValueError as error:
      where = str(path) if whole else f"{path} line {number}"
      hint = "" if whole else ": JSONL has one object a line"
      raise UserError(f"{where} is not JSON ({error}){hint}") from error
    rows += value if whole else [value]
  if not rows:
    raise UserError(f"{path} has no row")
  if not all(isinstance(row, dict) for row in rows):
    raise UserError(f"{path}: each row is an object with image and caption")
  if len(rows) == 1 and all(isinstance(x, dict) for x in rows[0].values()):
    raise UserError(f"{path} looks like a file of FDRD: pass --config.captions.source=fdrd")
  names = list(dict.fromkeys(name for row in rows for name in row))
  return [(name, ["" if (x := row.get(name)) is None else x for row in rows]) for name in names]


def _parquet(path: Path) -> tuple[table.Table, Images | None]:
  try:
    import pyarrow
    import pyarrow.parquet
    from pyarrow import types
  except ImportError as error:
    raise UserError(
      f"{path} is read by pyarrow: pip install 'lafg_jax[data]', or pass a CSV or JSONL"
    ) from error

  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      schema = file.schema_arrow
      if len(set(schema.names)) < len(schema.names):
        raise UserError(f"{path} has two columns of one name: keep one")
      holds = "image" in schema.names and (
        types.is_struct(kind := schema.field("image").type) or types.is_binary(kind)
      )
      names = [name for name in schema.names if not (holds and name == "image")]
      read = file.read(columns=names)
      sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
  cells = [(name, ["" if x is None else x for x in read[name].to_pylist()]) for name in names]
  if not holds:
    return cells, None
  groups = tuple((str(path), k) for k in range(len(sizes)))
  images = Images(groups, np.cumsum([0, *sizes]))
  rows = [f"{path.name}#{row}" for row in range(len(images))]
  return [*cells, ("image", rows)], images
