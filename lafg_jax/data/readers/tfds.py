"""Any builder of images with labels of tensorflow-datasets, prepared as ArrayRecord.

TensorFlow is not imported.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import own
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

_FORMAT = "array_record"
_CARS = (
  "; the download of cars196 has been dead for years: get Stanford Cars elsewhere and read it by "
  "--config.data.name=cars, as devkit/ and cars_train/, folders of classes or Parquet files"
)


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The classes of all splits, put together and split into halves: see `own.halves`."""
  folder = _folder(data)
  _require_array_record(folder)
  pool = _pool(str(folder), data.image_key, data.label_key, _version(folder, data))
  return own.halves(data, pool, str(folder), [name.rpartition("/")[0] for name in pool.ids])


def _folder(data: Any) -> Path:
  """The prepared folder: data.builder itself, or the newest of that name below data.root."""
  if not data.builder:
    raise UserError("data.builder is not set: pass --config.data.builder=NAME, or a folder")
  given = Path(data.builder).expanduser()
  if _is_prepared(given):
    return given
  if given.is_absolute():
    raise UserError(
      f"--config.data.builder={data.builder} has no dataset_info.json: pass DATA_DIR/NAME/VERSION, "
      "or a NAME below --config.data.root=DATA_DIR"
    )
  root = Path(data.root or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
  name, _, version = data.builder.partition(":")
  there = [path for path in (root / name).glob("*/") if _is_prepared(path)]
  if found := [path for path in there if version in ("", path.name)]:
    return max(found, key=lambda path: [int(x) for x in path.name.split(".") if x.isdecimal()])
  deeper = sorted({path.parent.name for path in (root / name).glob("*/*/") if _is_prepared(path)})
  if deeper:
    raise UserError(
      f"{root / name} has the configs {', '.join(deeper)}: pass --config.data.builder={name}/"
      f"{deeper[0]}"
    )
  raise UserError(
    f"--config.data.builder={data.builder}: not prepared in {root}; "
    + (_CARS[2:] if name == "cars196" else "prepare it by " + _prepare(data.builder, root))
  )


def _is_prepared(path: Path) -> bool:
  return (path / "dataset_info.json").is_file()


def _prepare(name: str, root: Path, downloads: Path | None = None) -> str:
  """The command that prepares a builder; the tool `tfds` would need apache_beam as well."""
  given = f"download_dir='{downloads}'" if downloads else ""
  return (
    'python -c "import tensorflow_datasets as tfds; '
    f"tfds.builder('{name}', data_dir='{root}', file_format='{_FORMAT}')"
    f'.download_and_prepare({given})" (once, with tensorflow and importlib_resources installed)'
  )


def _info(folder: Path) -> dict[str, Any]:
  path = folder / "dataset_info.json"
  try:
    info = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise UserError(f"{path} is damaged: prepare the data set again") from error
  if not isinstance(info, dict) or not isinstance(info.get("splits"), list):
    raise UserError(f"{path} names no splits: prepare the data set again")
  return info


def _require_array_record(folder: Path) -> None:
  info = _info(folder)
  there = [info.get("fileFormat") or "tfrecord", *info.get("alternativeFileFormats", ())]
  if _FORMAT not in there:
    parts = [str(info.get(key)) for key in ("name", "configName") if info.get(key)]
    above = folder.absolute().parents
    root = above[min(len(parts), len(above) - 1)]
    # tensorflow-datasets refuses a second format in the folder of the first.
    new = root / _FORMAT
    raise UserError(
      f"{folder} is prepared as {there[0]}, which only TensorFlow reads: prepare it again by "
      f"{_prepare('/'.join(parts), new, root / 'downloads')} and pass "
      f"--config.data.builder={'/'.join(parts)} --config.data.root={new}"
      + (_CARS if parts[:1] == ["cars196"] else "")
    )
  if not (folder / "features.json").is_file():
    raise UserError(f"{folder}/features.json is missing: prepare the data set again")


def _version(folder: Path, data: Any) -> str:
  """Changes with the counts and sizes of the prepared files, and with the features to be read."""
  info = _info(folder)
  parts = [info.get("name"), info.get("version"), info["splits"], data.image_key, data.label_key]
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=4)
def _pool(folder: str, image_key: str, label_key: str, version: str) -> Dataset:
  """All images, in the order of the names of their splits.

  It is cached: the labels stand in the records between the images, which takes long to read.
  """
  builder = _builder(folder)
  features = _features(builder, folder, image_key, label_key)
  splits = sorted(builder.info.splits.items())
  names, keys = _given_names(features[label_key]), [label_key]
  # caltech_birds2011 numbers its labels, and names them in a feature of its own.
  if names is None and f"{label_key}_name" in features:
    keys.append(f"{label_key}_name")
  ids = [f"{name}/{row}" for name, split in splits for row in range(split.num_examples)]
  examples = _examples(folder, version, keys, len(ids))
  values = [_value(example[label_key]) for example in examples]
  if len(keys) > 1:
    if not all(isinstance(value, int) for value in values):
      raise UserError(
        f"{folder}: {label_key} holds no numbers that {keys[1]} would name: pass "
        f"--config.data.label_key={keys[1]}"
      )
    pairs = zip(values, examples, strict=True)
    name_of = {value: str(_value(example[keys[1]])) for value, example in pairs}
    names = tuple(name_of.get(k, f"class {k}") for k in range(max(name_of, default=-1) + 1))
  labels, class_names, rows = own.of_values(values, names, folder)
  if len(rows) < len(values):
    without = counted(len(values) - len(rows), "image")
    logging.warning("%s: %s without a label left out", folder, without)
  return Dataset(
    name="tfds",
    split="train",
    images=_Images(folder, version, image_key, rows),
    labels=labels,
    class_names=class_names,
    ids=tuple(ids[row] for row in rows),
    version=version,
  )


def _examples(folder: str, version: str, keys: list[str], count: int) -> list[dict[str, Any]]:
  try:
    record = _records(folder, version, *keys)
    return [record(row) for row in range(count)]
  except (OSError, ValueError, RuntimeError, IndexError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f"{folder} is damaged ({reason}): prepare it again") from error


def _builder(folder: str) -> Any:
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UserError("data.name=tfds: pip install tensorflow-datasets array_record") from error
  try:
    return tfds.builder_from_directory(folder)
  except (OSError, ValueError, KeyError, AttributeError) as error:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{folder} cannot be read: {reason}; prepare it again") from error


def _features(builder: Any, folder: str, image_key: str, label_key: str) -> Any:
  features = builder.info.features
  there = ", ".join(sorted(features))
  for key, value, wanted in (("image_key", image_key, True), ("label_key", label_key, False)):
    if value not in features:
      raise UserError(f"{folder} has no feature '{value}': pass --config.data.{key}, of {there}")
    if (type(features[value]).__name__ == "Image") != wanted:
      kind = "no images" if wanted else "images"
      raise UserError(f"{folder}: {value} holds {kind}: pass --config.data.{key}, of {there}")
  return features


def _given_names(label: Any) -> tuple[str, ...] | None:
  """The names of a ClassLabel; without any, tensorflow-datasets gives '0', '1', ..."""
  names = tuple(getattr(label, "names", None) or ())
  return None if names == tuple(str(k) for k in range(len(names))) else names


def _value(x: Any) -> Any:
  """An int or a str where the feature is a number or a text."""
  if isinstance(x, bytes):
    return x.decode("utf-8")
  return int(x) if np.ndim(x) == 0 and np.asarray(x).dtype.kind in "iu" else x


@functools.lru_cache(maxsize=8)
def _records(folder: str, version: str, *keys: str) -> Callable[[int], dict[str, Any]]:
  """record(row) over all splits: the features `keys` alone, images as bytes. Once a process."""
  import tensorflow_datasets as tfds

  builder = _builder(folder)
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  split = "+".join(sorted(builder.info.splits))
  source = builder.as_data_source(split=split, deserialize_method=raw, file_format=_FORMAT)
  # PartialDecoding would do the same, but imports TensorFlow.
  features = tfds.features.FeaturesDict({key: builder.info.features[key] for key in keys})
  images = [key for key in keys if type(features[key]).__name__ == "Image"]
  decoders = {key: tfds.decode.SkipDecoding() for key in images}

  def record(row: int) -> dict[str, Any]:
    return features.deserialize_example_np(source[row], decoders=decoders)

  return record


@dataclasses.dataclass(frozen=True)
class _Images:
  """The images' bytes by row; each process opens the files for itself."""

  folder: str
  version: str
  key: str
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, row: int) -> bytes:
    record = _records(self.folder, self.version, self.key)
    return record(int(self.rows[row]))[self.key]
