"""Composed queries of one's own: a JSONL with an object a line.

  {"id": "1", "reference": "a.jpg", "text": "the same, but red", "targets": ["b.jpg"]}

`id` may be left out (the line's number), and `targets` may be one name, or empty for all queries
(secret). Also read, where they are there: `split` (train, val or test), `kinds` (what a query asks,
for figures of each kind) and `edited` (a true description of the answer). Images are named by their
path below the folder, or by their name alone. The gallery is all images of the folder, or those
that composed.gallery_file lists.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lafg_jax.data import listing
from lafg_jax.data.composed import Composed, Query, Training
from lafg_jax.data.composed_readers import common
from lafg_jax.data.composed_readers.common import Found
from lafg_jax.data.readers.split_folders import part_of
from lafg_jax.utils import ground as grounds
from lafg_jax.utils.errors import UserError


def read(config: Any) -> list[Composed]:
  """One part, 'listed', of the lines of composed.split; of all lines where none has a split."""
  path, folder, rows, there = _files(config)
  chosen = _of_split(path, rows, config.composed.split)
  given = config.composed.gallery_file
  named = common.names_of(Path(given), "composed.gallery_file") if given else []
  find = _finder(folder, there, config.composed.missing == "annotations")
  queries = [_query(path, number, row, find) for number, row in chosen]
  gallery = [find(name) for name in named] if given else list(there)
  if not gallery:
    raise UserError(
      f"no image of {folder} could be the gallery: pass --config.composed.images=FOLDER, or "
      "--config.composed.gallery_file=FILE with a name a line"
    )
  if not given:
    # What is named and not there would else be 'not in the gallery'.
    gallery += dict.fromkeys(x for q in queries for x in q.targets if x not in there)
  ids = there
  if config.composed.missing == "annotations":
    ids = dict.fromkeys((*gallery, *(x for q in queries for x in (q.reference, *q.targets))))
  return [
    common.part(
      config,
      queries,
      gallery,
      Found({x: os.path.join(folder, x) for x in ids}),
      name="listed",
      about=f"the names of {given}" if given else f"all images of {folder}",
      protocol="targets",
      drop=common.drops(config, True),
      where=folder,
    )
  ]


def training(config: Any) -> Training:
  """The images of the lines whose split is train, and their `edited` texts.

  Raises UserError: no line is for training.
  """
  path, folder, rows, there = _files(config)
  find = _finder(folder, there, config.composed.missing == "annotations")
  train = [(k, row) for k, row in rows if part_of(str(row.get("split", ""))) == "train"]
  if not train:
    raise UserError(
      f"{path} has no line of split train: pass --config.mapping.texts=FILE ('lincir') or "
      "--config.mapping.images=FOLDER, or --config.mapping.source=CHECKPOINT"
    )
  queries = [_query(path, number, row, find) for number, row in train]
  ids = dict.fromkeys(x for query in queries for x in (query.reference, *query.targets))
  if config.composed.missing != "annotations":
    lost = [x for x in ids if x not in there]
    if lost and config.composed.missing == "refuse":
      raise UserError(f"{folder} lacks '{listing.shown(lost[0])}', which {path} trains on")
    ids = {x: None for x in ids if x in there}
  images = Found({x: os.path.join(folder, x) for x in ids}).take(tuple(ids))
  texts = tuple(dict.fromkeys(query.edited for query in queries if query.edited))
  return Training(images, texts, tuple(ids), grounds.of(config.data))


_Rows = list[tuple[int, dict[str, Any]]]


def _files(config: Any) -> tuple[Path, Path, _Rows, Mapping[str, None]]:
  """The JSONL, the folder of the images, the numbered rows, and the images that are there."""
  path = Path(config.composed.file)
  if not config.composed.file:
    raise UserError("composed.file is not set: pass --config.composed.file=FILE, a JSONL")
  folder = common.images_folder(config, path.parent)
  rows = _rows(path)
  there = () if config.composed.missing == "annotations" else listing.images_below(folder)[0]
  return path, folder, rows, dict.fromkeys(there)


def _rows(path: Path) -> _Rows:
  if not path.is_file():
    raise UserError(f"--config.composed.file={path} is no file: it takes a JSONL")
  try:
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as a text in UTF-8: {error}") from error
  rows = []
  # Not splitlines: a text may hold signs that it takes for ends of lines.
  for number, line in enumerate(text.split("\n"), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:
      raise UserError(f"{path} line {number} is no JSON ({error}): it takes an object") from error
    if not isinstance(row, dict):
      raise UserError(f"{path} line {number} is no object with reference, text and targets")
    rows.append((number, row))
  if not rows:
    raise UserError(f"{path} has no line")
  return rows


def _of_split(path: Path, rows: _Rows, split: str) -> _Rows:
  told = [str(row.get("split", "")) for _, row in rows]
  if not any(told):
    return rows
  parts = [part_of(x) for x in told]
  for (number, _), part, said in zip(rows, parts, told, strict=True):
    if part not in ("train", "val", "test"):
      raise UserError(
        f"{path} line {number}: split '{listing.shown(said)}' is none of train, val, test"
      )
  chosen = [row for row, part in zip(rows, parts, strict=True) if part == split]
  if not chosen:
    raise UserError(f"{path} has no line of split {split}: pass another --config.composed.split")
  return chosen


def _finder(folder: Path, there: Mapping[str, None], unread: bool) -> Callable[[str], str]:
  """name -> the path of that image below the folder; the name itself where there is none."""
  names: dict[str, list[str]] = {}
  for path in there:
    base = os.path.basename(path)
    for name in dict.fromkeys((base, os.path.splitext(base)[0])):
      names.setdefault(name, []).append(path)

  def find(name: str) -> str:
    path = os.path.normpath(name)
    if unread or path in there:
      return path
    return common.only(folder, name, names.get(path, [path]))

  return find


def _query(path: Path, number: int, row: Mapping[str, Any], find: Callable[[str], str]) -> Query:
  def text(key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if isinstance(value, int) and key == "id":
      value = str(value)
    if not isinstance(value, str) or (default is None and not value.strip()):
      raise UserError(f"{path} line {number}: '{key}' is no text")
    return value

  return Query(
    id=text("id", str(number)),
    reference=find(text("reference")),
    text=text("text"),
    targets=tuple(map(find, _several(path, number, row, "targets"))),
    kinds=_several(path, number, row, "kinds"),
    edited=text("edited", ""),
  )


def _several(path: Path, number: int, row: Mapping[str, Any], key: str) -> tuple[str, ...]:
  value: Any = row.get(key) or []
  several: Sequence[Any] = [value] if isinstance(value, str) else value
  if not isinstance(several, list) or not all(isinstance(x, str) and x for x in several):
    raise UserError(f"{path} line {number}: '{key}' is no list of texts")
  if len(set(several)) < len(several):
    raise UserError(f"{path} line {number}: '{key}' names something twice")
  return tuple(several)
