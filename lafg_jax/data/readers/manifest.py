"""Images listed in a table: a CSV or Parquet file with a row for each image."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.data import listing, same_images
from lafg_jax.data.datasets import Dataset, of_classes
from lafg_jax.data.readers import common, own, table
from lafg_jax.data.readers.common import Image
from lafg_jax.data.readers.split_folders import part_of
from lafg_jax.data.readers.table import BOX, Columns
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

SPLITS = ("train", "val", "test", "query", "gallery")
# The box of a row without one: no image is as large.
_EVERYTHING = (0.0, 0.0, 2.0**30, 2.0**30)


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The halves by the column `split`; without that column `own.halves` splits the classes."""
  if not data.manifest:
    raise UserError("data.manifest is not set: pass --config.data.manifest=FILE, CSV or Parquet")
  path = Path(data.manifest)
  root = common.root_folder(data) if data.root else path.parent
  columns = table.columns(path, "data.manifest")
  splits = splits_of(path, columns)
  # Sorted by path: two tables with the same rows in another order are the same data set.
  pool, rows = _images(data, path, root, columns)
  if splits is None:
    return same_images.refuse_trained(*own.halves(data, pool, str(path)), str(path))
  own.refuse_split_keys(data, f"{path} has a column 'split'")
  side = [splits[row] for row in rows]
  # A test without its queries, or without its gallery, would be another test.
  empty = [name for name in SPLITS if name in splits and name not in side]
  if empty:
    raise UserError(
      f"{path}: of split {empty[0]} no image is below {root}: complete the copy, or pass "
      "--config.data.root=FOLDER"
    )
  return same_images.refuse_trained(*by_column(path, pool, side), str(path))


def _images(data: Any, path: Path, root: Path, columns: Columns) -> tuple[Dataset, list[int]]:
  """All images that are there, in the order of their paths, and the row of each."""
  files = [str(file) for file in columns["path"]]
  if "" in files:
    raise UserError(f"{path} row {files.index('') + 1}: no path")
  files = [clean_path(path, root, row, file) for row, file in enumerate(files, 1)]
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


def clean_path(path: Path, root: Path, row: int, file: str) -> str:
  """A path of the table as this system writes it."""
  if not file.isprintable():
    raise UserError(f"{path} row {row}: the path {file!a} has a control character or no UTF-8 name")
  file = file.removeprefix("file://")
  if "://" in file:
    raise UserError(f"{path} row {row}: {file} is a URL: fetch the images, and list their paths")
  if "\\" in file and not os.path.lexists(root / file):
    file = file.replace("\\", "/")
  return os.path.normpath(os.path.expanduser(file) if file.startswith("~") else file)


def _labels(path: Path, columns: Columns, rows: list[int]) -> tuple[np.ndarray, tuple[str, ...]]:
  """Classes in the order of their numbers where there is a column of them, else of their names."""
  names: list[str] = []
  if "class" in columns:
    names = [str(columns["class"][row]) for row in rows]
    if "" in names:
      raise UserError(f"{path} row {rows[names.index('')] + 1}: no class")
  told = [columns["label"][row] for row in rows] if "label" in columns else []
  if names and all(str(x) == "" for x in told):
    told = []
  if told and not names and all(isinstance(x, str) and _whole(x) is None for x in told):
    # Labels that are names, and no numbers at all.
    names, told = told, []
    if "" in names:
      raise UserError(f"{path} row {rows[names.index('')] + 1}: no label")
  numbers = [_number(path, row, x) for row, x in zip(rows, told, strict=bool(told))]
  labels, class_names, _ = own.of_values(numbers or names, None, str(path))
  if not (numbers and names):
    common.check_names(path, dict(enumerate(class_names)), own=True)
    return labels, class_names
  name_of: dict[int, str] = {}
  for number, name in zip(numbers, names, strict=True):
    if name_of.setdefault(number, name) != name:
      raise UserError(f"{path}: label {number} is '{name_of[number]}' and '{name}'")
  keys = sorted(name_of)
  cleaned = own.clean_names([name_of[key] for key in keys])
  common.check_names(path, dict(zip(keys, cleaned, strict=True)), own=True)
  return labels, tuple(cleaned)


def _number(path: Path, row: int, value: Any) -> int:
  number = _whole(value)
  if number is None:
    raise UserError(
      f"{path} row {row + 1}: label '{value}' is no whole number from 0; names stand in a column "
      "'class'"
    )
  return number


def _whole(value: Any) -> int | None:
  """A whole number from 0, also where it is written as 3.0; else None."""
  try:
    number = int(value) if str(value).isdecimal() else int(float(value))
    return number if number >= 0 and number == float(value) else None
  except (ValueError, OverflowError, TypeError):
    return None


def _boxes(path: Path, columns: Columns) -> list[tuple[float, ...]]:
  there = [name for name in BOX if name in columns]
  if not there:
    return [_EVERYTHING] * len(columns["path"])
  if len(there) < len(BOX):
    raise UserError(f"{path} has {', '.join(there)} alone: a box takes {', '.join(BOX)}")
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
  own = [box for box in boxes if box != _EVERYTHING]
  if own and all(max(box) <= 1 for box in own) or any(0 < min(box[2:]) < 1 for box in own):
    raise UserError(f"{path}: boxes are fractions of the image: write them in pixels")
  return boxes


def splits_of(path: Path, columns: Columns) -> list[str] | None:
  """The split of each row, of SPLITS; None without a column `split`. Raises UserError."""
  if "split" not in columns:
    return None
  written = [str(x) for x in columns["split"]]
  splits = [part_of(split) for split in written]
  if "" in splits:
    row = splits.index("")
    raise UserError(
      f"{path} row {row + 1}: split '{listing.shown(written[row])}' is none of {', '.join(SPLITS)}"
    )
  found = set(splits)
  if ("query" in found) != ("gallery" in found) or {"test", "query"} <= found:
    raise UserError(
      f"{path} has the splits {', '.join(sorted(found))}: the test takes either test, or query "
      "and gallery"
    )
  if "train" not in found:
    raise UserError(f"{path} has no row of split train")
  return splits


def by_column(path: Path, pool: Dataset, splits: list[str]) -> tuple[Dataset, Dataset]:
  """The halves; 'val' is a part of the training half, which names its classes."""
  side = np.array(splits)
  of = {name: np.unique(pool.labels[side == name]) for name in SPLITS}
  of["test"] = np.unique(np.concatenate([of["test"], of["query"], of["gallery"]]))
  for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
    shared = np.intersect1d(of[one], of[other])
    if len(shared):
      raise UserError(
        f"{path}: {counted(len(shared), 'class')} in both {one} and {other}, such as "
        f"'{pool.class_names[shared[0]]}': a class belongs to one of them; without the column "
        "'split', whole classes are split by data.train_fraction"
      )
  names = pool.class_names
  held_out = tuple(names[k] for k in of["val"])
  train = of_classes(pool, "train", [names[k] for k in np.union1d(of["train"], of["val"])])
  if len(of["query"]):
    pool = dataclasses.replace(pool, is_query=side == "query")
  half = of_classes(pool, "test", [names[k] for k in of["test"]])
  return dataclasses.replace(train, val_classes=held_out), half
