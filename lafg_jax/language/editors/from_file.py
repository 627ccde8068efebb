"""Edits out of a file: JSONL of id, edited and added (such as edits.jsonl), or LDRE's JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from lafg_jax.language import exchanged
from lafg_jax.language.editors.record import Asked, Edit, Said
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

KEY = "editor.file"
_WANTED = 'JSONL of {"id": ..., "edited": [...], "added": ...}, or LDRE\'s JSON'
_ID = ("id", "pairid", "pair_id", "query_id")
_EDITED = ("edited", "multi_gpt-3.5_opt", "gpt-3.5-turbo")


def read(path: str) -> dict[tuple[str, str], Edit]:
  """{(part, id): edit} of a file; the part is '' where a line names none.

  Raises UserError where the file is missing or a row has another form.
  """
  found: dict[tuple[str, str], Edit] = {}
  for number, row in enumerate(exchanged.rows(path, KEY, _WANTED), 1):
    name, edited = exchanged.first(row, _ID), exchanged.texts(exchanged.first(row, _EDITED))
    added, part = row.get("added") or "", row.get("part") or ""
    if name is None or not edited or not isinstance(added, str) or not isinstance(part, str):
      raise UserError(f"{path}: row {number} is no edit: it takes {_WANTED}")
    key = part, exchanged.plain_id(name)
    if key in found:
      of = f" of part {part!r}" if part else ""
      raise UserError(f"{path}: row {number}: the query {name!r}{of} comes twice; keep one")
    found[key] = Edit(tuple(edited), " ".join(added.split()))
  return found


def run(editor: Any, queries: Sequence[Asked]) -> Iterator[tuple[Asked, Said]]:
  """The edit of each query; raises UserError where the file lacks some, or one could be of two."""
  found = read(editor.file)
  lacking: list[str] = []
  used: dict[tuple[str, str], Asked] = {}
  said: list[tuple[Asked, Said]] = []
  for asked in queries:
    name = exchanged.plain_id(asked.id)
    key = next((key for key in ((asked.part, name), ("", name)) if key in found), None)
    if key is None:
      lacking.append(asked.id)
    elif key in used:
      both = f"{used[key].part!r} and {asked.part!r}"
      raise UserError(
        f'--config.{KEY}={editor.file}: the query {asked.id!r} is in {both}: add "part" to each row'
      )
    else:
      used[key] = asked
      said.append((asked, Said(found[key], {})))
  if lacking:
    raise UserError(
      f"--config.{KEY}={editor.file} has no edit of {counted(len(lacking), 'query')} of "
      f"{len(queries)} ({shorten(lacking)}): complete it, or pass another editor.kind"
    )
  if len(used) < len(found):
    unused = counted(len(found) - len(used), "row")
    logging.info("edit: %s of %s about other queries are left out", unused, editor.file)
  yield from said
