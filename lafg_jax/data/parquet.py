"""Images kept in Parquet files, as Hugging Face stores them: read by row group when asked for."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.data.images import UnreadableImage
from lafg_jax.utils.errors import UserError

# Row groups kept per process: some for each thread that decodes. Hugging Face writes 100 images in
# one, about 10 MB of photographs.
_KEPT = 8


@dataclasses.dataclass(frozen=True)
class Images:
  """The bytes of image files, by row over several Parquet files; can be pickled.

  A row group is read whole: rows in order cost next to nothing beside decoding (0.2 ms), rows at
  random about as much as decoding itself (7 ms with groups of 100 photographs of 100 kB). A row
  of a damaged group raises `images.UnreadableImage`.
  """

  paths: tuple[str, ...]
  column: str
  starts: np.ndarray  # [G + 1] first row of each row group, over all files
  groups: np.ndarray  # [G, 2] which file, and which row group of it

  def __len__(self) -> int:
    return int(self.starts[-1])

  def __getitem__(self, row: int) -> bytes:
    row = range(len(self))[row]
    group = int(np.searchsorted(self.starts, row, side="right")) - 1
    file, number = (int(x) for x in self.groups[group])
    value = _group(self.paths[file], number, self.column)[row - int(self.starts[group])]
    # No bytes: such a row names a file of somebody's disk instead. Decoding reports the row.
    return value.as_py() or b""


@functools.lru_cache(_KEPT)
def _group(path: str, number: int, column: str) -> Any:
  import pyarrow
  import pyarrow.parquet

  try:
    with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
      chunk = file.read_row_group(number, columns=[column], use_threads=False)[column]
  except (pyarrow.ArrowInvalid, OSError) as error:
    # Arrow's messages have several lines.
    said = " ".join(str(error).split())
    raise UnreadableImage(f"row group {number} of {path} cannot be read: {said}") from error
  values = chunk.combine_chunks()
  return values.field("bytes") if pyarrow.types.is_struct(values.type) else values


def read(
  files: Sequence[Path], image: str = "image", label: str = "label"
) -> tuple[Images, np.ndarray, tuple[str, ...]]:
  """Images, labels [n] int64 and the names of the label's values; no image is read.

  Args:
    files: in order; all with the columns `image` (a struct with 'bytes', or binary) and `label`
      (whole numbers).
    image: its column.
    label: its column, whose names stand in the metadata that Hugging Face's `datasets` writes.

  Raises:
    UserError: a file is damaged, lacks a column, or has labels without names, or pyarrow is not
      installed.
  """
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError as error:
    raise UserError(
      f"{files[0]} is read by pyarrow: pip install 'lafg_jax[data]', or use another layout"
    ) from error

  names: tuple[str, ...] = ()
  starts, groups, labels = [0], [], []
  for number, path in enumerate(files):
    try:
      with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
        _check_columns(path, file.schema_arrow, image, label)
        found = file.read([label])[label].to_numpy()
        for group in range(file.num_row_groups):
          starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
          groups.append((number, group))
        said = _label_names(file.schema_arrow, label)
    except (pyarrow.ArrowInvalid, OSError) as error:
      raise UserError(f"{path} cannot be read as Parquet ({error}): fetch it again") from error
    if names and said != names:
      raise UserError(f"{path} names its labels otherwise than {files[0]}: fetch both again")
    if not len(said) or (len(found) and not 0 <= found.min() <= found.max() < len(said)):
      raise UserError(
        f"{path}: the values of '{label}' have no names in its metadata: use the copy that the "
        "'datasets' library wrote"
      )
    names = said
    labels.append(found)
  index = Images(
    tuple(map(str, files)), image, np.array(starts), np.array(groups, np.int64).reshape(-1, 2)
  )
  return index, np.concatenate(labels).astype(np.int64), names


def _check_columns(path: Path, schema: Any, image: str, label: str) -> None:
  import pyarrow.types as types

  kinds = {name: schema.field(name).type for name in schema.names}
  pictures, numbers = kinds.get(image), kinds.get(label)
  if pictures is None or numbers is None or not types.is_integer(numbers):
    raise UserError(f"{path} has the columns {', '.join(kinds)}, not {image} and a numeric {label}")
  if types.is_struct(pictures):
    fields = {field.name: field.type for field in pictures}
    pictures = fields.get("bytes")
  if pictures is None or not (types.is_binary(pictures) or types.is_large_binary(pictures)):
    raise UserError(f"{path}: the column '{image}' does not hold the bytes of image files")


def _label_names(schema: Any, label: str) -> tuple[str, ...]:
  try:
    known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = known["info"]["features"][label]["names"]
  except (ValueError, KeyError, TypeError):
    return ()
  return tuple(names) if isinstance(names, list) else ()
