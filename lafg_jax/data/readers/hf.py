"""Any image data set of Hugging Face `datasets`: of the hub, or a folder in its formats."""

import dataclasses
import hashlib
import os
import re
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data.datasets import Dataset, size_of
from lafg_jax.data.readers import own
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The classes of all splits, put together and split into halves: see `own.halves`."""
  if not data.builder:
    raise UserError("data.builder is not set: pass --config.data.builder=HUB_ID, or a folder")
  splits = _load(data)
  where, label_key = data.builder, data.label_key
  values: list[Any] = []
  ids: list[str] = []
  names = None
  for split, part in splits.items():
    for key in ("image_key", "label_key"):
      if data[key] not in part.features:
        raise UserError(
          f"{where} has no column '{data[key]}': pass --config.data.{key}, of "
          f"{', '.join(part.features)}"
        )
    ours = getattr(part.features[label_key], "names", None)
    if values and ours != names:
      raise UserError(f"{where}: the splits have different class names in '{label_key}'")
    names = ours
    column = part.select_columns([label_key]).with_format("arrow")[:]
    values += column[label_key].to_pylist()
    ids += [f"{split}/{row}" for row in range(len(part))]
  images = _undecoded(data, list(splits.values()))
  labels, class_names, rows = own.of_values(values, names, where)
  if len(rows) < len(values):
    without = counted(len(values) - len(rows), "image")
    logging.warning("%s: %s without a label left out", where, without)
  pool = Dataset(
    name="hf",
    split="train",
    images=_Images(images, data.image_key, rows),
    labels=labels,
    class_names=class_names,
    ids=tuple(ids[row] for row in rows),
    version=_version(images, data.image_key),
  )
  return own.halves(data, pool, where, [name.rpartition("/")[0] for name in pool.ids])


def _load(data: Any) -> dict[str, Any]:
  """The splits by name, in the order of the names."""
  try:
    import datasets
  except ImportError as error:
    raise UserError("data.name=hf reads by Hugging Face datasets: pip install datasets") from error
  folder = os.path.expanduser(data.builder)
  name, _, config = data.builder.partition(":")
  # Raised without network, for an unknown id, missing or damaged files, and scripts.
  failures = (OSError, ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError)
  # It would find nothing, or the images of other folders.
  if os.path.isdir(folder) and re.search(r"[\[*?]|::", os.path.abspath(folder)):
    why = "Hugging Face datasets takes [ * ? :: in a path for a pattern; rename the folder"
    raise UserError(f"--config.data.builder={data.builder}: {why}")
  try:
    if any(os.path.isfile(os.path.join(folder, x)) for x in ("dataset_dict.json", "state.json")):
      loaded = datasets.load_from_disk(folder)
    elif os.path.isdir(folder):
      loaded = datasets.load_dataset(folder, cache_dir=data.root or None)
    else:
      loaded = datasets.load_dataset(name, config or None, cache_dir=data.root or None)
  except failures as error:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise UserError(f"--config.data.builder={data.builder} cannot be loaded: {reason}") from error
  splits = loaded if isinstance(loaded, dict) else {"train": loaded}
  return {str(split): splits[split] for split in sorted(splits, key=str)}


def _undecoded(data: Any, parts: list[Any]) -> Any:
  """The images' column over all parts, as bytes or paths."""
  import datasets

  key = data.image_key
  try:
    undecoded = datasets.Image(decode=False)
    columns = [part.select_columns([key]).cast_column(key, undecoded) for part in parts]
    return datasets.concatenate_datasets(columns)
  except (TypeError, ValueError, NotImplementedError) as error:
    kind = parts[0].features[key]
    raise UserError(
      f"{data.builder}: {key} holds {kind}, no images: pass --config.data.image_key"
    ) from error


def _version(images: Any, key: str) -> str:
  """Changes when the size of an image does; a row without bytes is the file that it names."""
  from pyarrow import compute

  digest = hashlib.sha256()
  for chunk in images.data.column(key).chunks:
    stored = compute.binary_length(compute.struct_field(chunk, "bytes")).fill_null(-1)
    sizes = np.asarray(stored, dtype="<i8").copy()
    without = np.flatnonzero(sizes < 0)
    paths = compute.struct_field(chunk, "path").take(without).to_pylist()
    sizes[without] = [size_of(path or "") for path in paths]
    digest.update(sizes.tobytes())
  return digest.hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class _Images:
  """The images' bytes by row, or the path of a file; other processes map the same files."""

  column: Any  # datasets.Dataset
  key: str
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, row: int) -> bytes | str:
    cell = self.column[int(self.rows[row])][self.key] or {}
    return cell.get("bytes") or cell.get("path") or b""
