"""What --images names: a folder, or a manifest with columns of the user's own."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from lafg_jax.data import listing
from lafg_jax.data.readers import manifest, table
from lafg_jax.gallery import columns
from lafg_jax.utils.errors import UserError

_MANIFEST = ("path", "class", *table.BOX)
# Of a class or path, in bytes: the widest text of Milvus is 65,535.
_LONGEST = 60_000


class Item(NamedTuple):
  """One image to be in a gallery; `metadata`: the user's own columns, None where one is empty."""

  path: str  # absolute
  label: str  # its class, or ''
  metadata: dict[str, Any]


class Source(NamedTuple):
  """All that --images names.

  root: the folder or manifest, absolute: what is gone from it leaves the gallery.
  skipped: {path: why it is left out}.
  """

  root: str
  items: list[Item]
  columns: tuple[str, ...]
  skipped: dict[str, str]


def read(images: str, root: str | None = None) -> Source:
  """Lists a folder at any depth, or a CSV or Parquet file; opens no image.

  In a folder, the class of an image is the name of the folder that it lies in. A manifest has a
  column `path`, and maybe `class`; paths are relative to `root`, by default its own folder. Both
  have other usual names (`data.manifest`). Every other column is kept as it is called.

  Raises UserError where there is no image, or a manifest cannot be read.
  """
  if not os.path.exists(images):
    raise UserError(f"--images={images} does not exist: pass a folder, or a CSV or Parquet file")
  if os.path.isdir(images):
    if root is not None:
      raise UserError("--root is of a manifest: leave it out, or pass --images=MANIFEST")
    return _folder(os.path.abspath(images))
  return _manifest(Path(os.path.abspath(images)), root)


def _folder(root: str) -> Source:
  names, others = listing.images_below(root, leave_out=True)
  items = []
  skipped = {os.path.join(root, name): what for name, what in others.items()}
  for name in names:
    path = os.path.join(root, name)
    if _too_long(path):
      skipped[path] = "a path of more than 60,000 bytes"
    else:
      items.append(Item(path, os.path.basename(os.path.dirname(name)), {}))
  if not items:
    raise UserError(
      f"--images={root} holds no image, at any depth; to empty a gallery, search remove it"
    )
  return Source(root, items, (), skipped)


def _manifest(path: Path, root: str | None) -> Source:
  below = Path(os.path.abspath(root)) if root else path.parent
  if not below.is_dir():
    raise UserError(f"--root={root} is no folder")
  found = _table(path)
  head = [name for name, _ in found]
  at = table.named(path, head, {name: table.ALSO[name] for name in _MANIFEST})
  if "path" not in at:
    raise UserError(f"{path} needs a column path; it has {', '.join(head) or 'none'}")
  boxes = [name for name in table.BOX if name in at]
  if boxes:
    raise UserError(
      f"{path} has the columns {', '.join(boxes)}: a gallery shows whole images; cut them to their "
      "boxes first, or leave these columns out"
    )
  # A column that is the class under another name, such as 'category', is there by its own name too.
  ours = [at[name] for name in at if name == "path" or table.plain(head[at[name]]) == "class"]
  rest = [k for k in range(len(head)) if k not in ours]
  names = columns.named([head[k] for k in rest], str(path))
  cells = [columns.typed(found[k][1]) for k in rest]
  files = found[at["path"]][1]
  labels = found[at["class"]][1] if "class" in at else [""] * len(files)
  items, skipped = {}, {}
  for row, (file, label) in enumerate(zip(files, labels, strict=True)):
    try:
      where = _path(path, below, row + 1, file)
    except UserError as error:
      skipped[f"{path} row {row + 1}"] = str(error)
      continue
    metadata = {name: column[row] for name, column in zip(names, cells, strict=True)}
    if where in items:
      skipped[f"{path} row {row + 1}"] = f"{where} stands in an earlier row"
    elif _too_long(where, label, *metadata.values()):
      skipped[where] = "a path or cell of more than 60,000 bytes"
    else:
      items[where] = Item(where, "" if label is None else str(label), metadata)
  if not items:
    raise UserError(f"--images={path} lists no image")
  return Source(str(path), list(items.values()), tuple(names), skipped)


def _path(path: Path, root: Path, row: int, file: Any) -> str:
  if file is None or str(file) == "":
    raise UserError(f"{path} row {row}: no path")
  return os.path.abspath(root / manifest.clean_path(path, root, row, str(file)))


def _too_long(*cells: Any) -> bool:
  return sum(len(str(x).encode("utf-8", "replace")) for x in cells) > _LONGEST


def _table(path: Path) -> table.Table:
  """All columns, in the order of the file."""
  if not path.is_file():
    raise UserError(f"--images={path}: neither a folder nor a file")
  try:
    with open(path, "rb") as file:
      start = file.read(64)
  except OSError as error:
    raise UserError(f"--images={path} cannot be read: {error.strerror}") from error
  for magic, what in table.FOREIGN.items():
    if start.startswith(magic):
      raise UserError(f"{path} {what}")
  if start.startswith(table.PARQUET) or path.suffix.lower() in (".parquet", ".pq"):
    return _parquet(path)
  if listing.has_ending(path.name):
    raise UserError(f"--images={path} is one image: pass the folder that it lies in")
  return table.csv_table(path)


def _parquet(path: Path) -> table.Table:
  import pyarrow
  from pyarrow import parquet

  try:
    found = parquet.read_table(path)
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
  # Columns with parts may hold the images themselves.
  flat = [k for k, field in enumerate(found.schema) if not field.type.num_fields]
  named = [(found.schema.names[k], found.column(k).to_pylist()) for k in flat]
  return [(name, cells) for name, cells in named if not any(isinstance(x, bytes) for x in cells)]
