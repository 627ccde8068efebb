"""Features of any encoder in place of images: an .npz, .safetensors or Parquet file of vectors."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data import feature_files
from lafg_jax.data.datasets import Dataset, of_classes
from lafg_jax.data.feature_files import Stored
from lafg_jax.data.readers import common, manifest, own
from lafg_jax.utils import files
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# '1 001.Black_footed_Albatross'
_NUMBER_AND_NAME = re.compile(r"(\d+)[\s,;]+(.+)")


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The halves by the file's split, or by data.last_train_label; else `own.halves` splits them.

  The vectors are `Dataset.images`, [n, D]. Classes stand in the order of their numbers, which may
  have gaps, or of their names.
  """
  if not data.manifest:
    kinds = feature_files.KINDS
    raise UserError(f"data.manifest is not set: pass --config.data.manifest=FILE, {kinds}")
  path = Path(data.manifest)
  stored = feature_files.load(path, "data.manifest")
  labels, class_names, rows = own.of_values(stored.labels, None, str(path))
  used = [stored.labels[row] for row in rows]
  numbered = isinstance(used[0], int)
  if numbered:
    class_names = _names(data, path, stored, sorted(set(used))) or class_names
  elif data.class_names:
    raise UserError(f"--config.data.class_names: labels of {path} are names already; leave it out")
  common.check_names(path, dict(enumerate(class_names)), own=True)
  if len(rows) < len(stored.labels):
    left_out = counted(len(stored.labels) - len(rows), "vector")
    logging.warning("%s: %s without a label (below 0) left out", path, left_out)
  features = stored.features if len(rows) == len(stored.labels) else stored.features[rows]
  pool = Dataset(
    name="features",
    split="train",
    images=features,
    labels=labels,
    class_names=class_names,
    ids=_ids(path, stored, rows),
    version=files.fingerprint(features)[:12],
  )
  if stored.split is not None:
    own.refuse_split_keys(data, f"{path} has a split")
    _refuse_last(data, f"{path} has a split")
    side = manifest.splits_of(path, {"split": [stored.split[row] for row in rows]})
    return manifest.by_column(path, pool, side or [])
  if data.last_train_label >= 0:
    return _by_number(data, path, pool, used)
  return own.halves(data, pool, str(path))


def _ids(path: Path, stored: Stored, rows: np.ndarray) -> tuple[str, ...]:
  digits = len(str(len(stored.labels)))
  if stored.ids is None:
    return tuple(f"row/{row:0{digits}d}" for row in rows)
  ids = [stored.ids[row] for row in rows]
  if len(set(ids)) < len(ids):
    twice = next(x for k, x in enumerate(ids) if x in ids[:k])
    raise UserError(f"{path}: ids has '{twice}' twice: remove one row, or leave ids out")
  return tuple(ids)


def _refuse_last(data: Any, why: str) -> None:
  if data.last_train_label >= 0:
    raise UserError(f"--config.data.last_train_label={data.last_train_label}: {why}; leave it out")


def _by_number(data: Any, path: Path, pool: Dataset, used: Sequence[Any]) -> tuple:
  """The classes of numbers up to data.last_train_label, and the others."""
  own.refuse_split_keys(data, "data.last_train_label says already which classes train")
  if not isinstance(used[0], int):
    _refuse_last(data, f"labels of {path} are names; pass data.test_classes=FILE")
  numbers = sorted(set(used))
  trains = [number <= data.last_train_label for number in numbers]
  if not any(trains):
    _refuse_last(data, f"the numbers of {path} start at {numbers[0]}, so that no class trains")
  parts = [
    [name for name, first in zip(pool.class_names, trains, strict=True) if first == wanted]
    for wanted in (True, False)
  ]
  return of_classes(pool, "train", parts[0]), of_classes(pool, "test", parts[1])


def _names(data: Any, path: Path, stored: Stored, numbers: Sequence[int]) -> tuple[str, ...] | None:
  """The name of each number, from data.class_names or the file; None where neither has any."""
  if data.class_names:
    where = Path(data.class_names)
    of = _named_by(where, numbers)
  elif stored.class_names is not None:
    where, named = path, stored.class_names
    if stored.class_numbers:
      of = dict(zip(stored.class_numbers, named, strict=True))
    else:
      of = _in_order(named, numbers)
  else:
    return None
  if missing := [number for number in numbers if number not in of]:
    raise UserError(
      f"{where}: {counted(len(of), 'class name')}, and none for class {missing[0]} of {path}"
    )
  found = own.clean_names([of[number] for number in numbers])
  first, last = (f"class {numbers[k]} is '{found[k]}'" for k in (0, -1))
  logging.info("%s: %s, %s", where, first, last)
  return tuple(found)


def _in_order(names: Sequence[str], numbers: Sequence[int]) -> Mapping[int, str]:
  """{number: name} of names without numbers: as many as there are numbers, or all from 0 or 1 on.

  They begin with number 0 only where a class has that number.
  """
  if len(names) == len(numbers):
    return dict(zip(numbers, names, strict=True))
  return dict(enumerate(names, int(numbers[0] > 0)))


def _named_by(path: Path, numbers: Sequence[int]) -> Mapping[int, str]:
  """The names of a file that data.class_names names."""
  key = f"--config.data.class_names={path}"
  if not path.is_file():
    raise UserError(f"{key}: no such file")
  if path.suffix.lower() == ".mat":
    cells = common.read_mat(path, SimpleNamespace(name="cars"), "class_names").ravel()
    return dict(enumerate((str(np.squeeze(cell)) for cell in cells), 1))
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{key}: no text file in UTF-8, and no .mat") from error
  lines = [line.strip() for line in lines if line.strip()]
  found = [_NUMBER_AND_NAME.fullmatch(line) for line in lines]
  if not lines or not all(found):
    odd = next((line for line, x in zip(lines, found, strict=True) if not x), "")
    raise UserError(f"{key}: '{odd[:40]}' is not a number and a name, as each line must be")
  of = {int(x[1]): x[2].strip() for x in found if x}
  if len(of) < len(lines):
    raise UserError(f"{key}: a number stands there twice")
  return of
