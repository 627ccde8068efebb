"""Images listed in a table: a CSV or Parquet file with a row for each image."""

import csv
import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.data import same_images
from lafg_jax.data.datasets import Dataset, of_classes
from lafg_jax.data.readers import common, own
from lafg_jax.data.readers.common import Image
from lafg_jax.utils.errors import UserError

BOX = ("left", "top", "right", "bottom")
SPLITS = ("train", "val", "test", "query", "gallery")
_READ = ("path", "label", "class", "split", *BOX)
# The box of a row without one: no image is as large.
_EVERYTHING = (0.0, 0.0, 2.0**30, 2.0**30)

Columns = dict[str, list[Any]]


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The halves by the column `split`; without that column `own.halves` splits the classes."""
  if not data.manifest:
    raise UserError("data.manifest is not set: pass --config.data.manifest=FILE, CSV or Parquet")
  path = Path(data.manifest)
  root = common.root_folder(data) if data.root else path.parent
  columns = _columns(path)
  splits = _splits(path, columns)
  # Sorted by path: two tables with the same rows in another order are the same data set.
  table, rows = _images(data, path, root, columns)
  if splits is None:
    return same_images.refuse_trained(*own.halves(data, table, str(path)), str(path))
  own.refuse_split_keys(data, f"{path} has a column 'split'")
  side = [splits[row] for row in rows]
  # A test without its queries, or without its gallery, would be another test.
  empty = [name for name in SPLITS if name in splits and name not in side]
  if empty:
    raise UserError(
      f"{path}: of split {empty[0]} no image is below {root}: complete the copy, or pass "
      "--config.data.root=FOLDER"
    )
  return same_images.refuse_trained(*_by_column(path, table, side), str(path))


def _columns(path: Path) -> Columns:
  """The columns by name; empty cells are ''."""
  if not path.is_file():
    raise UserError(f"--config.data.manifest={path}: no such file")
  table = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)
  columns = {name: ["" if x is None else x for x in column] for name, column in table}
  if "path" not in columns or not {"label", "class"} & set(columns):
    raise UserError(
      f"{path} needs the columns path, and label or class; it has {', '.join(columns) or 'none'}"
    )
  if not columns["path"]:
    raise UserError(f"{path} lists no image")
  boxes = [name for name in BOX if name in columns]
  if boxes and len(boxes) < len(BOX):
    raise UserError(f"{path} has {', '.join(boxes)} alone: a box takes {', '.join(BOX)}")
  return columns


def _head(path: Path, names: Sequence[str]) -> list[str]:
  head = [name.strip() for name in names]
  for name in _READ:
    if head.count(name) > 1:
      raise UserError(f"{path} has {head.count(name)} columns '{name}': keep one")
  return head


def _csv(path: Path) -> list[tuple[str, list[Any]]]:
  delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      rows = [row for row in csv.reader(file, delimiter=delimiter, strict=True) if row]
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
  if not rows:
    raise UserError(f"{path} is empty: its first line has the names of the columns")
  head = _head(path, rows[0])
  for number, row in enumerate(rows[1:], 1):
    if len(row) != len(head):
      raise UserError(f"{path} row {number}: {len(row)} fields, not the {len(head)} of its header")
  return [(name, [row[k].strip() for row in rows[1:]]) for k, name in enumerate(head)]


def _parquet(path: Path) -> list[tuple[str, list[Any]]]:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise UserError(
      f"{path} is read by pyarrow: pip install 'lafg_jax[data]', or pass a CSV"
    ) from error

  try:
    file = parquet.ParquetFile(path)
    there = file.schema_arrow.names
    head = _head(path, there)
    # Other columns may be large, such as the images themselves.
    table = file.read(columns=[name for name in there if name.strip() in _READ])
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
  columns = [table[name].to_pylist() if name.strip() in _READ else [] for name in there]
  return [(name, _texts(path, name, x)) for name, x in zip(head, columns, strict=True)]


def _texts(path: Path, name: str, column: list[Any]) -> list[Any]:
  """The column as texts: some writers store them as bytes, which are decoded."""
  try:
    return [x.decode("utf-8") if isinstance(x, bytes) else x for x in column]
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: the column '{name}' holds bytes that are no UTF-8 text") from error


def _images(data: Any, path: Path, root: Path, columns: Columns) -> tuple[Dataset, list[int]]:
  """All images that are there, in the order of their paths, and the row of each."""
  files = [str(file) for file in columns["path"]]
  if "" in files:
    raise UserError(f"{path} row {files.index('') + 1}: no path")
  files = [os.path.normpath(file) for file in files]
  boxes = _boxes(path, columns)
  order = sorted(range(len(files)), key=lambda row: (files[row], boxes[row]))
  seen = set()
  for row in order:
    # One file under two spellings of its path could be in training and in the test.
    key = (os.path.abspath(root / files[row]), boxes[row])
    if key in seen:
      raise UserError(f"{path} lists {files[row]} twice: remove one row")
    seen.add(key)
  kept = common.present(root, [Image(files[row], row) for row in order], data)
  if not kept:
    raise UserError(f"none of the images of {path} is below {root}: pass --config.data.root=FOLDER")
  rows = [image.key for image in kept]
  labels, names = _labels(path, columns, rows)
  ids = [files[row] for row in rows]
  if len(set(ids)) < len(ids):
    # Several boxes of one picture are several images.
    ids = [f"{files[row]}#{','.join(f'{x:g}' for x in boxes[row])}" for row in rows]
  pool = Dataset(
    name="manifest",
    split="train",
    images=np.array([str(root / files[row]) for row in rows], dtype=np.str_),
    labels=labels,
    class_names=names,
    ids=tuple(ids),
    boxes=np.array([boxes[row] for row in rows]) if BOX[0] in columns else None,
    partial=len(rows) < len(files),
  )
  return pool, rows


def _labels(path: Path, columns: Columns, rows: list[int]) -> tuple[np.ndarray, tuple[str, ...]]:
  """Classes in the order of their numbers where there is a column of them, else of their names."""
  names: list[str] = []
  if "class" in columns:
    names = [str(columns["class"][row]) for row in rows]
    if "" in names:
      raise UserError(f"{path} row {rows[names.index('')] + 1}: no class")
  numbers = []
  if "label" in columns:
    numbers = [_number(path, row, columns["label"][row]) for row in rows]
  labels, class_names, _ = own.of_values(numbers or names, None, str(path))
  if not (numbers and names):
    return labels, class_names
  name_of: dict[int, str] = {}
  for number, name in zip(numbers, names, strict=True):
    if name_of.setdefault(number, name) != name:
      raise UserError(f"{path}: label {number} is '{name_of[number]}' and '{name}'")
  keys = sorted(name_of)
  cleaned = own.clean_names([name_of[key] for key in keys])
  common.check_names(path, dict(zip(keys, cleaned, strict=True)))
  return labels, tuple(cleaned)


def _number(path: Path, row: int, value: Any) -> int:
  try:
    number = int(value)
  except (ValueError, OverflowError, TypeError):
    number = -1
  if number < 0 or number != float(value):
    raise UserError(
      f"{path} row {row + 1}: label '{value}' is no whole number from 0; names stand in a column "
      "'class'"
    )
  return number


def _boxes(path: Path, columns: Columns) -> list[tuple[float, ...]]:
  if BOX[0] not in columns:
    return [_EVERYTHING] * len(columns["path"])
  boxes: list[tuple[float, ...]] = []
  for row, cells in enumerate(zip(*(columns[name] for name in BOX), strict=True), 1):
    try:
      box = tuple(map(float, cells)) if any(cell != "" for cell in cells) else _EVERYTHING
    except ValueError:
      box = (math.nan,) * 4
    if not (all(map(math.isfinite, box)) and max(box[0], 0) < box[2] and max(box[1], 0) < box[3]):
      shown = ", ".join(map(str, cells))
      raise UserError(f"{path} row {row}: the box {shown} has no area in the image")
    boxes.append(box)
  return boxes


def _splits(path: Path, columns: Columns) -> list[str] | None:
  if "split" not in columns:
    return None
  splits = [str(x) for x in columns["split"]]
  for row, split in enumerate(splits, 1):
    if split not in SPLITS:
      raise UserError(f"{path} row {row}: split '{split}' is none of {', '.join(SPLITS)}")
  found = set(splits)
  if ("query" in found) != ("gallery" in found) or {"test", "query"} <= found:
    raise UserError(
      f"{path} has the splits {', '.join(sorted(found))}: the test takes either test, or query "
      "and gallery"
    )
  if "train" not in found:
    raise UserError(f"{path} has no row of split train")
  return splits


def _by_column(path: Path, table: Dataset, splits: list[str]) -> tuple[Dataset, Dataset]:
  """The halves; 'val' is a part of the training half, which names its classes."""
  side = np.array(splits)
  of = {name: np.unique(table.labels[side == name]) for name in SPLITS}
  of["test"] = np.unique(np.concatenate([of["test"], of["query"], of["gallery"]]))
  for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
    shared = np.intersect1d(of[one], of[other])
    if len(shared):
      raise UserError(
        f"{path}: {len(shared)} classes stand in {one} and {other}, such as "
        f"'{table.class_names[shared[0]]}': a class belongs to one of them"
      )
  names = table.class_names
  held_out = tuple(names[k] for k in of["val"])
  train = of_classes(table, "train", [names[k] for k in np.union1d(of["train"], of["val"])])
  if len(of["query"]):
    table = dataclasses.replace(table, is_query=side == "query")
  half = of_classes(table, "test", [names[k] for k in of["test"]])
  return dataclasses.replace(train, val_classes=held_out), half
