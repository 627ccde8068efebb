"""A table of images and their attributes, made into composed queries: 'the same, but red'.

The table (composed.file: CSV, JSONL or Parquet) has a row for each image: its path, its type, and
columns of attributes. A query changes one or two of composed.columns. Its right answers are all
other images of the gallery that have the new values, and agree in the type and in all other columns
of composed.agree.

Types have a seen and an unseen half, by the rule and the keys of `own.halves`, which split classes
of captions too (captions.classes): a CLIP trained on the seen half has met no unseen type. Of a
seen type, composed.test_fraction of the images are in queries and gallery, and `training` has the
others: those that captions.split='images' trains on. Every second of the images of a type queries
in the test, the others in val; both search the same gallery.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.data import captions
from lafg_jax.data.caption_readers import table as captioned_tables
from lafg_jax.data.composed import Composed, Query, Training
from lafg_jax.data.composed_readers import common, phrases
from lafg_jax.data.composed_readers.common import Found
from lafg_jax.data.composed_readers.phrases import Change
from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import manifest, own, table
from lafg_jax.utils import ground as grounds
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

NUM_QUERIES = 2000  # under composed.num_queries=0
_TYPES = ("type", "class")
_NO_ATTRIBUTES = ("id", "split", "path")
_VALUES = (2, 60)  # a column with fewer or more says nothing, or is a name


class Rows(NamedTuple):
  """The n images of a table that are there, in the order of their paths."""

  path: Path  # of the table
  ids: tuple[str, ...]  # [n] paths as the table has them
  found: Found
  cells: Mapping[str, Sequence[str]]  # {plain name of a column: [n]}; '' where a cell says nothing
  types: np.ndarray  # [n] int32, index into `names`
  names: tuple[str, ...]  # of all types, in order
  of_type: str  # plain name of their column
  missing: tuple[str, ...]


def read(config: Any) -> list[Composed]:
  """One part, 'attributes'; raises UserError where table or keys are not as they must be."""
  if config.composed.split == "train":
    raise UserError("--config.composed.split=train: a table of attributes has val and test")
  rows = _rows(config)
  change, agree = _columns(config, rows)
  known = np.all([[cell != "" for cell in rows.cells[name]] for name in agree], axis=0)
  chosen = _of_types(config, rows)
  pool = np.flatnonzero(chosen & known)
  if not len(pool):
    raise UserError(f"{rows.path} has no image of composed.types={config.composed.types}")
  second = captions.held_out(np.arange(len(pool)), rows.types[pool], 0.5)
  asking = pool[second == (config.composed.split == "test")]
  queries = _queries(config, rows, pool, asking, change, agree)
  about = f"{config.composed.types} types of {rows.path.name}"
  if unknown := int((chosen & ~known).sum()):
    about += f", without {counted(unknown, 'image')} with an empty cell"
  made = common.part(
    config,
    queries,
    [rows.ids[row] for row in pool],
    rows.found,
    name="attributes",
    about=about,
    protocol="targets",
    drop=common.drops(config, True),
    where=Path(config.composed.images or rows.path.parent),
  )
  return [made._replace(missing=rows.missing)]


def training(config: Any) -> Training:
  """The images of seen types that are in no gallery, and the texts of composed.template."""
  rows = _rows(config)
  seen = _seen(config, rows)
  held = captions.held_out(np.arange(len(seen)), rows.types, config.composed.test_fraction)
  kept = np.flatnonzero(seen & ~held).tolist()
  texts: list[str] = []
  if config.composed.template:
    texts = captioned_tables.filled(
      rows.path, "composed.template", config.composed.template, rows.cells
    )
  ids = tuple(rows.ids[row] for row in kept)
  distinct = tuple(dict.fromkeys(texts[row] for row in kept)) if texts else ()
  return Training(rows.found.take(ids), distinct, ids, grounds.of(config.data))


def spoken(config: Any) -> dict[str, dict[str, tuple[str, ...]]]:
  """{column: {value: its phrases}} of the type and of the columns that a query may change."""
  rows = _rows(config)
  change, _ = _columns(config, rows)
  found: dict[str, dict[str, tuple[str, ...]]] = {}
  for name in (rows.of_type, *change):
    values = sorted({cell for cell in rows.cells[name] if cell})
    found[name] = {value: (phrases.spoken(name, value, name == rows.of_type),) for value in values}
  return found


def looks(config: Any) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
  """The columns in which answers agree, and {image id: cells} of all images of the table."""
  rows = _rows(config)
  agree = _columns(config, rows)[1]
  columns = zip(*(rows.cells[name] for name in agree), strict=True)
  return tuple(agree), dict(zip(rows.ids, columns, strict=True))


def _rows(config: Any) -> Rows:
  composed = config.composed
  if not composed.file:
    raise UserError("composed.file is not set: pass --config.composed.file=FILE, a table of images")
  path = Path(composed.file)
  columns, kept = captioned_tables.columns_of(path, "composed.file")
  cells = {table.plain(name): [_said(x) for x in column] for name, column in columns}
  if len(cells) < len(columns):
    raise UserError(f"{path} has two columns of one name: keep one")
  at = table.named(path, list(cells), {"image": captioned_tables.ALSO["image"]})
  if "image" not in at:
    raise UserError(f"{path} needs a column image or path; it has {', '.join(cells)}")
  image = list(cells)[at["image"]]
  of_type = _type_column(composed, path, cells)
  folder = common.images_folder(config, path.parent)
  raw = [str(x).strip() for x in dict(columns)[columns[at["image"]][0]]]
  ids = [manifest.clean_path(path, folder, k, x) for k, x in enumerate(raw, 1)]
  if len(set(ids)) < len(ids) or "" in raw:
    raise UserError(f"{path}: each row has an image of its own")
  if kept is None:
    found = common.find(config, folder, ids, {x: (x,) for x in ids})
  else:
    found = Found({x: k for k, x in enumerate(ids)}, kept)
  missing = tuple(x for x in ids if x not in found.at)
  if missing and composed.missing == "refuse":
    raise UserError(common.lacking("attributes", folder, missing, len(ids)))
  order = sorted((k for k in range(len(ids)) if ids[k] in found.at), key=_natural(ids))
  if not order:
    raise UserError(f"none of the images of {path} is below {folder}: pass composed.images")
  cells = {name: [column[k] for k in order] for name, column in cells.items() if name != image}
  types, names = _types(path, cells[of_type])
  ours = tuple(ids[k] for k in order)
  return Rows(path, ours, found, cells, types, names, of_type, missing)


def _natural(ids: Sequence[str]) -> Any:
  return lambda k: captions.natural(ids[k])


def _said(cell: Any) -> str:
  text = " ".join(str(cell).split())
  return "" if text.lower() in captioned_tables.NOTHING else text


def _type_column(composed: Any, path: Path, cells: Mapping[str, Any]) -> str:
  wanted = (composed.type_column,) if composed.type_column else _TYPES
  name = next((table.plain(x) for x in wanted if table.plain(x) in cells), None)
  if name is None:
    raise UserError(
      f"--config.composed.type_column={composed.type_column}: {path} has the columns "
      f"{', '.join(cells)}: name that of the types"
    )
  return name


def _types(path: Path, written: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
  """Types as numbers, and their names, as captions have classes: the halves must be the same."""
  if "" in written:
    raise UserError(f"{path} row {list(written).index('') + 1}: no type")
  raw = sorted(set(written))
  clean = dict(zip(raw, own.clean_names(raw), strict=True))
  names = tuple(sorted(set(clean.values())))
  number = {name: k for k, name in enumerate(names)}
  return np.array([number[clean[x]] for x in written], np.int32), names


def _seen(config: Any, rows: Rows) -> np.ndarray:
  """[n] bool: of a seen type."""
  everything = Dataset(
    "attributes", "train", np.arange(len(rows.ids)), rows.types, rows.names, rows.ids
  )
  train, _ = own.halves(config.data, everything, str(rows.path))
  ours = set(train.class_names)
  return np.array([name in ours for name in rows.names])[rows.types]


def _of_types(config: Any, rows: Rows) -> np.ndarray:
  """[n] bool: in queries and gallery under composed.types; of seen types what is not trained on."""
  types = config.composed.types
  seen = _seen(config, rows)
  held = captions.held_out(np.arange(len(seen)), rows.types, config.composed.test_fraction)
  return {"seen": seen & held, "unseen": ~seen, "all": held | ~seen}[types]


def _columns(config: Any, rows: Rows) -> tuple[list[str], list[str]]:
  """The columns that queries change, and all in which answers agree, the type first."""
  usual = [
    name
    for name, column in rows.cells.items()
    if name not in (rows.of_type, *_NO_ATTRIBUTES)
    and _VALUES[0] <= len(set(column) - {""}) <= _VALUES[1]
  ]
  named = {}
  for key in ("columns", "agree"):
    given = [table.plain(x) for x in config.composed[key]]
    wrong = [x for x in given if x not in rows.cells]
    if wrong:
      raise UserError(
        f"--config.composed.{key}: '{wrong[0]}' is no column; {rows.path} has "
        f"{', '.join(rows.cells)}"
      )
    named[key] = given or usual
  change = [name for name in named["columns"] if name != rows.of_type]
  if not change:
    raise UserError(
      f"{rows.path} has no column of attributes with {_VALUES[0]} to {_VALUES[1]} values: pass "
      "--config.composed.columns=\"('colour',)\""
    )
  return change, list(dict.fromkeys((rows.of_type, *change, *named["agree"])))


_Key = tuple[str, ...]


class _Groups(NamedTuple):
  """The images of a gallery by their cells in the columns `agree`."""

  agree: list[str]
  key_of: dict[int, _Key]  # row -> its cells
  members: dict[_Key, list[int]]  # cells -> all rows with these


def _queries(
  config: Any,
  rows: Rows,
  pool: np.ndarray,
  asking: np.ndarray,
  change: Sequence[str],
  agree: list[str],
) -> list[Query]:
  """At most composed.num_queries, a kind after the other; each image asks once of a kind.

  Which image asks for what depends on names alone (a hash), not on other rows of the table.
  """
  key_of = {row: tuple(rows.cells[name][row] for name in agree) for row in pool.tolist()}
  members: dict[_Key, list[int]] = defaultdict(list)
  for row, key in key_of.items():
    members[key].append(row)
  groups = _Groups(agree, key_of, members)
  kinds = [*((name,) for name in change), *itertools.combinations(change, 2)]
  streams = [_of_kind(rows, groups, asking, kind) for kind in kinds]
  template = _template(config, rows, agree)
  most = config.composed.num_queries or NUM_QUERIES
  queries: list[Query] = []
  for turn in itertools.zip_longest(*streams):
    queries += [_query(rows, groups, template, *made) for made in turn if made is not None]
    if len(queries) >= most:
      break
  if not queries:
    raise UserError(
      f"{rows.path}: no two images differ in {', '.join(change)} alone: pass fewer columns as "
      "--config.composed.agree"
    )
  return queries[:most]


_Made = tuple[int, tuple[Change, ...], _Key, int]


def _of_kind(
  rows: Rows, groups: _Groups, asking: np.ndarray, kind: tuple[str, ...]
) -> Iterator[_Made]:
  """(row of the reference, changes, cells of the answers, number) of each image that can ask."""
  places = [groups.agree.index(name) for name in kind]
  options: dict[_Key, list[_Key]] = defaultdict(list)
  for key in groups.members:
    options[_without(key, places)].append(key)
  said = ", ".join(kind)
  order = sorted(asking.tolist(), key=lambda row: _hash(said, rows.ids[row]))
  number = 0
  for row in order:
    key = groups.key_of[row]
    others = [x for x in options[_without(key, places)] if all(x[p] != key[p] for p in places)]
    if others:
      new = sorted(others)[_hash("new", said, rows.ids[row]) % len(others)]
      changes = tuple(Change(groups.agree[p], key[p], new[p]) for p in places)
      yield row, changes, new, number
      number += 1


def _without(key: _Key, places: Sequence[int]) -> _Key:
  return tuple(x for p, x in enumerate(key) if p not in places)


def _hash(*parts: str) -> int:
  return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big")


def _query(
  rows: Rows,
  groups: _Groups,
  template: str,
  row: int,
  changes: Sequence[Change],
  new: _Key,
  number: int,
) -> Query:
  told = ", ".join(f"{change.column}={change.new}" for change in changes)
  edited = ""
  if template:
    cells = {name: [cell] for name, cell in zip(groups.agree, new, strict=True)}
    free = {name: [""] for name in rows.cells if name not in cells}
    [edited] = captioned_tables.filled(rows.path, "composed.template", template, cells | free)
  return Query(
    id=f"{rows.ids[row]}: {told}",
    reference=rows.ids[row],
    text=phrases.sentence(changes, number),
    targets=tuple(rows.ids[x] for x in groups.members[new]),
    kinds=(" and ".join(change.column for change in changes),),
    # What a column that says nothing leaves at the ends.
    edited=edited.strip(" ,.;"),
  )


def _template(config: Any, rows: Rows, agree: Sequence[str]) -> str:
  """composed.template; raises UserError where it names none of the columns that answers share."""
  template: str = config.composed.template
  if template:
    # Of a column that is no attribute, such as a product's name, an answer's cell is not known.
    captioned_tables.filled(
      rows.path, "composed.template", template, {name: [] for name in rows.cells}
    )
    if not any("{" + name + "}" in table.plain(template) for name in agree):
      raise UserError(f"--config.composed.template={template}: it names no attribute")
  return template
