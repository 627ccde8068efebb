"""Files of features that any encoder made: .npz, .safetensors or Parquet, as plain arrays."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.data.readers import table
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

KINDS = ".npz, .safetensors or Parquet"
# What a file has, each under one of these names; all but the first two may be missing.
ARRAYS = {
  "features": ("features", "vectors", "embeddings"),
  "labels": ("labels", "label", "class", "classes"),
  "split": ("split", "splits"),
  "ids": ("ids", "id", "paths", "path"),
  "class_names": ("class_names",),
  "class_numbers": ("class_numbers",),
}
_OF_ROWS = ("labels", "split", "ids")
# safetensors holds no texts: there a split is one of these numbers.
_SPLIT_NUMBERS = ("train", "val", "test")


class Stored(NamedTuple):
  """features [n, D] float16 or float32, finite, no row all zeros. labels [n], int or str. split
  and ids [n], str, or None. class_names [C], str, and class_numbers [C], int, or None."""

  features: np.ndarray
  labels: list[Any]
  split: list[str] | None
  ids: list[str] | None
  class_names: list[str] | None
  class_numbers: list[int] | None


def load(path: Path, key: str) -> Stored:
  """The content of a file that the config key `key` names.

  Raises:
    UserError: it is missing or damaged, lacks features or labels, has Python objects, features
      that are not finite float16 or float32 [n, D] or are all zeros, or arrays of other lengths.
  """
  start = table.start_of(path, key, KINDS)
  if start.startswith(b"PK\x03\x04"):
    every = [name for also in ARRAYS.values() for name in also]
    found = files.read_npz(path, (), stage=None, optional=every)
  elif start.startswith(table.PARQUET):
    found = _parquet(path)
  elif path.suffix.lower() == ".safetensors":
    found = _safetensors(path)
  else:
    raise UserError(f"--config.{key}={path}: it is no {KINDS}")
  arrays = _named(path, found)
  features = _features(path, arrays["features"])
  rows = {name: _column(path, name, arrays[name]) for name in _OF_ROWS if name in arrays}
  for name, x in rows.items():
    if len(x) != len(features):
      raise UserError(f"{path}: {name} has {len(x)} rows, and features {len(features)}")
  names = _column(path, "class_names", arrays["class_names"]) if "class_names" in arrays else None
  numbers = None
  if "class_numbers" in arrays:
    numbers = _column(path, "class_numbers", arrays["class_numbers"])
    if names is None or len(names) != len(numbers) or not all(type(x) is int for x in numbers):
      raise UserError(f"{path}: class_numbers takes a whole number for each of class_names")
  return Stored(
    features,
    rows["labels"],
    _splits(path, rows["split"]) if "split" in rows else None,
    [str(x) for x in rows["ids"]] if "ids" in rows else None,
    None if names is None else [str(x) for x in names],
    numbers,
  )


def _named(path: Path, found: dict[str, Any]) -> dict[str, Any]:
  """The arrays by the keys of ARRAYS."""
  arrays = {}
  for name, also in ARRAYS.items():
    there = [x for x in also if x in found]
    if len(there) > 1:
      raise UserError(f"{path} has {' and '.join(there)}: keep the one that counts as {name}")
    if there:
      arrays[name] = found[there[0]]
  for name in ("features", "labels"):
    if name not in arrays:
      has = ", ".join(found) or "nothing that is read"
      raise UserError(f"{path} lacks {name} (or {', '.join(ARRAYS[name][1:])}); it has {has}")
  return arrays


def _features(path: Path, x: np.ndarray) -> np.ndarray:
  if x.ndim != 2 or x.dtype not in (np.float16, np.float32):
    hint = "; write them as float32" if x.dtype.kind in "fiu" and x.ndim == 2 else ""
    raise UserError(
      f"{path}: features are {x.dtype} {x.shape}, and not float16 or float32 [n, D]{hint}"
    )
  if not x.size:
    raise UserError(f"{path}: features are empty, {x.shape}")
  for wrong, what in ((~np.isfinite(x).all(axis=1), "not finite"), (~x.any(axis=1), "all zeros")):
    if wrong.any():
      raise UserError(
        f"{path}: features of row {int(wrong.argmax())} are {what} ({int(wrong.sum())} such rows): "
        "leave them out"
      )
  return x


def _column(path: Path, name: str, x: Any) -> list[Any]:
  """One value a row as int or str."""
  if isinstance(x, list):
    return x
  x = x.reshape(-1) if x.ndim == 2 and 1 in x.shape else x
  if x.ndim != 1 or x.dtype.kind not in "iuSU":
    raise UserError(f"{path}: {name} is {x.dtype} {x.shape}, not one whole number or text a row")
  try:
    return [v.decode() if isinstance(v, bytes) else v for v in x.tolist()]
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: {name} holds bytes that are no UTF-8 text") from error


def _splits(path: Path, values: Sequence[Any]) -> list[str]:
  if all(isinstance(x, str) for x in values):
    return list(values)
  if all(type(x) is int and 0 <= x < len(_SPLIT_NUMBERS) for x in values):
    return [_SPLIT_NUMBERS[x] for x in values]
  raise UserError(f"{path}: split takes texts, or 0, 1 and 2 for {', '.join(_SPLIT_NUMBERS)}")


def _safetensors(path: Path) -> dict[str, Any]:
  """The arrays, and class_names as a JSON list in the metadata."""
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, "np") as file:
      known = [name for also in ARRAYS.values() for name in also if name in file.keys()]  # noqa: SIM118
      found: dict[str, Any] = {name: file.get_tensor(name) for name in known}
      said = (file.metadata() or {}).get("class_names")
    if said is not None:
      found["class_names"] = np.array([str(x) for x in json.loads(said)])
  except (SafetensorError, OSError, TypeError, ValueError) as error:
    raise UserError(f"{path} cannot be read as safetensors: {error}") from error
  return found


def _parquet(path: Path) -> dict[str, Any]:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise UserError(f"{path} is read by pyarrow: pip install 'lafg_jax[data]'") from error
  try:
    file = parquet.ParquetFile(path)
    known = [x for also in ARRAYS.values() for x in also if x in file.schema_arrow.names]
    columns = file.read(columns=known)
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
  found: dict[str, Any] = {}
  for name in known:
    column = columns[name].combine_chunks()
    if column.null_count:
      raise UserError(f"{path}: {name} is empty in {column.null_count} rows: leave them out")
    if name in ARRAYS["features"]:
      found[name] = _lists(path, name, column)
    else:
      found[name] = [x.decode() if isinstance(x, bytes) else x for x in column.to_pylist()]
  return found


def _lists(path: Path, name: str, column: Any) -> np.ndarray:
  """[n, D] of a column with a list of D numbers in each row."""
  import pyarrow

  kinds = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
  if not any(is_kind(column.type) for is_kind in kinds):
    raise UserError(f"{path}: {name} is {column.type}: it takes a list of numbers in each row")
  flat = column.flatten()
  widths = np.unique([len(x) for x in column]) if len(column) else np.zeros(1, int)
  if len(widths) > 1 or flat.null_count:
    raise UserError(f"{path}: rows of {name} have {widths[0]} to {widths[-1]} numbers, not D each")
  return flat.to_numpy(zero_copy_only=False).reshape(len(column), int(widths[0]))
