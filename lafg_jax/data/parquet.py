"""Images in Parquet files, as Hugging Face stores them: a row group is read when it is needed."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.data.images import UnreadableImage
from lafg_jax.utils.errors import UserError

# Row groups cached per process: about one for each thread that decodes. Hugging Face writes 100
# images in one, about 10 MB of photographs.
_KEPT = 8


@dataclasses.dataclass(frozen=True)
class Images:
  """The bytes of image files, by row over several Parquet files; can be pickled.

  A row group is read whole: rows in order cost next to nothing beside decoding (0.2 ms), rows at
  random about as much as decoding itself (7 ms with groups of 100 photographs of 100 kB). A row
  of a damaged group raises `images.UnreadableImage`.
  """

  groups: tuple[tuple[str, int], ...]  # [G] path of the file, and number of the row group in it
  starts: np.ndarray  # [G + 1] first row of each group, over all files

  def __len__(self) -> int:
    return int(self.starts[-1])

  def __getitem__(self, row: int) -> bytes:
    row = range(len(self))[row]
    group = int(np.searchsorted(self.starts, row, side="right")) - 1
    value = _group(*self.groups[group])[row - int(self.starts[group])]
    # A row without bytes names a file on the disk of its writer. Decoding reports the row.
    return value.as_py() or b""


@functools.lru_cache(_KEPT)
def _group(path: str, number: int) -> Any:
  import pyarrow
  import pyarrow.parquet

  try:
    with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
      chunk = file.read_row_group(number, columns=["image"], use_threads=False)["image"]
  except (pyarrow.ArrowInvalid, OSError) as error:
    # Arrow's messages have several lines.
    said = " ".join(str(error).split())
    raise UnreadableImage(f"row group {number} of {path} cannot be read: {said}") from error
  values = chunk.combine_chunks()
  return values.field("bytes") if pyarrow.types.is_struct(values.type) else values


def read(files: Sequence[Path]) -> tuple[Images, np.ndarray, tuple[str, ...]]:
  """Images, labels [n] int64 and the names of the label's values; no image is read.

  All files have the column 'image', a struct with 'bytes' or binary, and the column 'label', whole
  numbers whose names stand in the metadata that Hugging Face's `datasets` writes.

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
  groups, sizes, labels = [], [0], []
  for path in files:
    try:
      with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
        _check_columns(path, file.schema_arrow)
        found = file.read(["label"])["label"].to_numpy()
        groups += [(str(path), number) for number in range(file.num_row_groups)]
        sizes += [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        said = _label_names(file.schema_arrow)
    except (pyarrow.ArrowInvalid, OSError) as error:
      raise UserError(f"{path} cannot be read as Parquet ({error}): fetch it again") from error
    if names and said != names:
      raise UserError(f"{path} names its labels otherwise than {files[0]}: fetch both again")
    if not len(said) or (len(found) and not 0 <= found.min() <= found.max() < len(said)):
      raise UserError(
        f"{path}: the values of 'label' have no names in its metadata: use the copy that the "
        "'datasets' library wrote"
      )
    names = said
    labels.append(found)
  index = Images(tuple(groups), np.cumsum(sizes))
  return index, np.concatenate(labels).astype(np.int64), names


def _check_columns(path: Path, schema: Any) -> None:
  import pyarrow.types as types

  kinds = {name: schema.field(name).type for name in schema.names}
  if not {"image", "label"} <= kinds.keys() or not types.is_integer(kinds["label"]):
    raise UserError(f"{path} has the columns {', '.join(kinds)}, not image and a numeric label")
  pictures = kinds["image"]
  if types.is_struct(pictures):
    pictures = {field.name: field.type for field in pictures}.get("bytes")
  if pictures is None or not (types.is_binary(pictures) or types.is_large_binary(pictures)):
    raise UserError(f"{path}: the column 'image' does not hold the bytes of image files")


def _label_names(schema: Any) -> tuple[str, ...]:
  try:
    known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = known["info"]["features"]["label"]["names"]
  except (ValueError, KeyError, TypeError):
    return ()
  return tuple(names) if isinstance(names, list) else ()
