"""Queries and a gallery of one part to a ranking, and the files of rankings."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lafg_jax.data.composed import Composed
from lafg_jax.evaluate import target_ranks
from lafg_jax.evaluate.target_ranks import Ranked
from lafg_jax.runtime import distributed
from lafg_jax.tasks.composed_retrieval import protocol
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

FILE = "rankings.jsonl"
# Names that a line of the file has, and of how many each term's share is told.
NAMES, SHARES = 50, 10
# Queries whose shares are computed at a time.
_BLOCK = 512


def rank(part: Composed, q: np.ndarray, t: np.ndarray, k: int) -> Ranked:
  """The k best rows of part.ids for each query [Q, D], of a gallery [G, D] in part.gallery's order.

  The reference is left out where the part says so. `members` are CIRR's subset of each query in its
  order; [Q, 0] elsewhere.
  """
  row_of = {part.ids[row]: place for place, row in enumerate(part.gallery.tolist())}
  members = protocol.members(part)
  references = [query.reference for query in part.queries]
  dropped = [row_of.get(name, -1) if part.drop_reference else -1 for name in references]
  found = target_ranks.rank(
    q,
    t,
    k,
    targets=_places(row_of, [query.targets for query in part.queries]),
    dropped=np.array(dropped, np.int32),
    members=None if members is None else in_gallery(part, members),
  )
  rows, members = (_of_ids(part, x) for x in (found.rows, found.members))
  return Ranked(rows, found.scores, members)


def _places(row_of: Mapping[str, int], names: list[tuple[str, ...]]) -> np.ndarray:
  """[Q, most] int32 of the gallery, -1 for what is not in it and behind a shorter list."""
  found = np.full((len(names), max(map(len, names), default=0)), -1, np.int32)
  for row, of in enumerate(names):
    found[row, : len(of)] = [row_of.get(name, -1) for name in of]
  return found


def in_gallery(part: Composed, rows: np.ndarray) -> np.ndarray:
  """Rows of part.ids as places in its gallery; -1 stays."""
  place = np.full(len(part.ids) + 1, -1, np.int32)
  place[part.gallery] = np.arange(len(part.gallery))
  return place[rows]


def _of_ids(part: Composed, places: np.ndarray) -> np.ndarray:
  return np.where(places < 0, -1, part.gallery[np.maximum(places, 0)]).astype(np.int32)


def shares(pieces: Mapping[str, np.ndarray], t: np.ndarray, places: np.ndarray) -> dict[str, Any]:
  """{term: [Q, n] float32}: what each piece of the query adds to the score of the rows `places`."""
  found = {name: np.zeros(places.shape, np.float32) for name in pieces}
  for first in range(0, len(places), _BLOCK):
    rows = slice(first, first + _BLOCK)
    near = t[np.maximum(places[rows], 0)]
    for name, x in pieces.items():
      found[name][rows] = np.einsum("qd,qnd->qn", x[rows], near)
  return found


@contextlib.contextmanager
def writing(workdir: str) -> Iterator[TextIO]:
  """The file of rankings, which is whole or not there at all; of several processes one writes."""
  if distributed.process_index() != 0:
    with open(os.devnull, "w", encoding="utf-8") as file:
      yield file
    return
  with files.replacing(Path(workdir, FILE)) as temporary:
    with open(temporary, "w", encoding="utf-8") as file:
      yield file


def write(file: TextIO, part: Composed, ranked: Ranked, terms: Mapping[str, np.ndarray]) -> None:
  """A line a query: part, id, reference, text, targets, ranked ids, scores, each term's share."""
  for row, query in enumerate(part.queries):
    there = ranked.rows[row][:NAMES]
    there = there[there >= 0]
    line: dict[str, Any] = {"part": part.name, "id": query.id, "reference": query.reference}
    line |= {"text": query.text, "targets": list(query.targets), "kinds": list(query.kinds)}
    line["ranked"] = [part.ids[x] for x in there]
    line["scores"] = _rounded(ranked.scores[row][: len(there)])
    line["terms"] = {name: _rounded(x[row][: len(there)]) for name, x in terms.items()}
    if ranked.members.shape[1]:
      line["subset"] = [part.ids[x] for x in ranked.members[row] if x >= 0]
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read(workdir: str) -> dict[tuple[str, str], dict[str, Any]]:
  """{(part, query id): line} of the file; UserError where it is missing or damaged."""
  path = Path(workdir, FILE)
  if not path.is_file():
    raise UserError(f"{path} does not exist: run --stage=evaluate first")
  try:
    # Not splitlines: a text may hold signs that it takes for ends of lines.
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    [line[name] for line in found for name in ("ranked", "scores", "terms")]
    return {(line["part"], line["id"]): line for line in found}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged ({error}): run --stage=evaluate again") from error


def of_lines(part: Composed, lines: Mapping) -> tuple[np.ndarray, np.ndarray | None]:
  """The rankings [Q, K] of a part, and those of its subsets [Q, M] or None, as lines have them."""
  row_of = {name: row for row, name in enumerate(part.ids)}
  mine = [lines[part.name, query.id] for query in part.queries]

  def rows(name: str) -> np.ndarray:
    most = max(len(line[name]) for line in mine)
    found = np.full((len(mine), most), -1, np.int32)
    for row, line in enumerate(mine):
      found[row, : len(line[name])] = [row_of[x] for x in line[name]]
    return found

  return rows("ranked"), rows("subset") if "subset" in mine[0] else None


def _rounded(x: np.ndarray) -> list[float]:
  return [round(float(v), 5) for v in x]
