"""Queries and a gallery of one part to a ranking, and the files of rankings."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lafg_jax.data.composed import Composed
from lafg_jax.evaluate import target_ranks
from lafg_jax.evaluate.target_ranks import Ranked
from lafg_jax.utils import files

FILE = "rankings.jsonl"
# Names that a line of the file has, and of how many each term's share is told.
NAMES, SHARES = 50, 10


def rank(part: Composed, q: np.ndarray, t: np.ndarray, k: int) -> Ranked:
  """The k best rows of part.ids for each query [Q, D], of a gallery [G, D] in part.gallery's order.

  The reference is left out where the part says so. `members` are CIRR's subset of each query in its
  order; [Q, 0] elsewhere.
  """
  row_of = {part.ids[row]: place for place, row in enumerate(part.gallery.tolist())}
  references = [query.reference for query in part.queries]
  dropped = [row_of.get(name, -1) if part.drop_reference else -1 for name in references]
  found = target_ranks.rank(
    q,
    t,
    k,
    targets=_places(row_of, [query.targets for query in part.queries]),
    dropped=np.array(dropped, np.int32),
    members=_places(row_of, [query.members for query in part.queries]),
  )
  rows, members = (_of_ids(part, x) for x in (found.rows, found.members))
  return Ranked(rows, found.scores, members)


def _places(row_of: Mapping[str, int], names: list[tuple[str, ...]]) -> np.ndarray:
  """[Q, most] int32 of the gallery, -1 for what is not in it and behind a shorter list."""
  found = np.full((len(names), max(map(len, names), default=0)), -1, np.int32)
  for row, of in enumerate(names):
    found[row, : len(of)] = [row_of.get(name, -1) for name in of]
  return found


def _of_ids(part: Composed, places: np.ndarray) -> np.ndarray:
  return np.where(places < 0, -1, part.gallery[np.maximum(places, 0)]).astype(np.int32)


def shares(pieces: Mapping[str, np.ndarray], t: np.ndarray, places: np.ndarray) -> dict[str, Any]:
  """{term: [Q, n] float32}: what each piece of the query adds to the score of the rows `places`."""
  near = t[np.maximum(places, 0)]
  return {name: np.einsum("qd,qnd->qn", x, near) for name, x in pieces.items()}


@contextlib.contextmanager
def writing(workdir: str) -> Iterator[TextIO]:
  """The file of rankings, which is whole or not there at all."""
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


def _rounded(x: np.ndarray) -> list[float]:
  return [round(float(v), 5) for v in x]
