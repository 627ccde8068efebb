"""Submissions to the servers of CIRR and CIRCO: written, checked, and read as rankings.

CIRR takes two files, {"version": "rc2", "metric": "recall", "<pairid>": [50 names], ...} and
{"version": "rc2", "metric": "recall_subset", "<pairid>": [3 names], ...}, the reference in none of
the lists, of at most 5 MB (so no indents). CIRCO takes one, {"<id>": [50 ids], ...}, whose ids are
whole numbers; where a file has them as texts they are read as numbers, as its server does. The
servers are often down: `check` says beforehand what they would refuse.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.data.composed import Composed, Query
from lafg_jax.data.listing import shown
from lafg_jax.tasks.composed_retrieval import protocol
from lafg_jax.utils import files
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# protocol -> {metric: name of its file}; CIRCO has one file and calls no metric.
FILES = {
  "cirr": {"recall": "submission_recall.json", "recall_subset": "submission_recall_subset.json"},
  "circo": {"": "submission.json"},
}
# Rankings of a query, and of its subset, that a server takes.
LENGTH = {"": 50, "recall": 50, "recall_subset": 3}
MAX_BYTES = 5_000_000
_VERSION = "rc2"


def names() -> list[str]:
  """The names of all files of submissions."""
  return [name for of in FILES.values() for name in of.values()]


def write(
  part: Composed, ranked: np.ndarray, subset_ranked: np.ndarray | None, folder: str | Path
) -> list[Path]:
  """Writes the submission of a part into a folder, checked before; returns the paths of its files.

  Args:
    ranked, subset_ranked: as `protocol.figures` takes them.

  Raises:
    UserError: the benchmark takes no submissions, or would refuse this one.
    ValueError: a ranking is not as it must be.
  """
  protocol.check(part, ranked, subset_ranked)
  paths = []
  for metric, name in _files(part).items():
    rows = np.asarray(subset_ranked if metric == "recall_subset" else ranked)[:, : LENGTH[metric]]
    made = _made(part, rows, metric)
    check(part, made, metric)
    path = Path(folder) / name
    with files.replacing(path) as temporary:
      temporary.write_text(json.dumps(made, separators=(",", ":")), encoding="utf-8")
    paths.append(check_file(part, path, metric))
  return paths


def check_file(part: Composed, path: str | Path, metric: str = "") -> Path:
  """Raises UserError with the first thing that a server would refuse; see `check`."""
  path = Path(path)
  try:
    check(part, _load(path), metric)
  except UserError as error:
    raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
  if part.protocol == "cirr" and path.stat().st_size > MAX_BYTES:
    raise UserError(
      f"{path} has {path.stat().st_size:,} bytes, and CIRR's server takes {MAX_BYTES:,}: write it "
      "without indents"
    )
  return path


def check(part: Composed, submission: Mapping[Any, Any], metric: str = "") -> None:
  """Raises UserError, in one line, where a server would refuse a submission.

  Args:
    part: all queries of the split.
    metric: of CIRR, 'recall' or 'recall_subset'.
  """
  if metric not in _files(part):
    raise UserError(f"'{metric}' is no metric of {part.name}: {' or '.join(_files(part))}")
  odd = next((key for key in submission if not isinstance(key, str)), None)
  if odd is not None:
    raise UserError(f'key {odd!r} is a {type(odd).__name__}: keys are texts, such as "{odd}"')
  lists = dict(submission)
  if metric:
    for key, wanted in (("version", _VERSION), ("metric", metric)):
      if lists.pop(key, None) != wanted:
        raise UserError(f'"{key}" is {submission.get(key)!r}, not "{wanted}"')
  missing = [query.id for query in part.queries if query.id not in lists]
  foreign = set(lists) - {query.id for query in part.queries}
  if missing:
    raise UserError(f"query {missing[0]} is missing ({counted(len(missing), 'query')} in all)")
  if foreign:
    raise UserError(f"'{shown(min(foreign))}' is no query of {part.name} {part.split}")
  gallery = {part.ids[k] for k in part.gallery.tolist()}
  for query in part.queries:
    candidates = set(query.members) if metric == "recall_subset" else gallery
    _check_list(query, lists[query.id], metric, candidates)


def read(part: Composed, path: str | Path, metric: str = "") -> np.ndarray:
  """[Q, 50] int32 rows of `part.ids` of a submission, checked; [Q, 3] of 'recall_subset'."""
  check_file(part, path, metric)
  content = _load(Path(path))
  row = {name: k for k, name in enumerate(part.ids)}
  return np.array(
    [[row[_name("", x, metric)] for x in content[query.id]] for query in part.queries], np.int32
  )


def _files(part: Composed) -> dict[str, str]:
  if part.protocol not in FILES:
    raise UserError(f"{part.name} has no server that takes submissions; CIRR and CIRCO have")
  return FILES[part.protocol]


def _made(part: Composed, rows: np.ndarray, metric: str) -> dict[str, Any]:
  lists: dict[str, Any] = {"version": _VERSION, "metric": metric} if metric else {}
  for query, one in zip(part.queries, rows.tolist(), strict=True):
    names = [part.ids[k] for k in one if k >= 0]
    lists[query.id] = names if metric else [int(name) for name in names]
  return lists


def _check_list(query: Query, names: Any, metric: str, candidates: set[str]) -> None:
  where = f"query {query.id}"
  if not isinstance(names, list):
    raise UserError(f"{where} has a {type(names).__name__}, not a list")
  names = [_name(where, x, metric) for x in names]
  if len(names) != LENGTH[metric]:
    raise UserError(f"{where} has {counted(len(names), 'image')}, not {LENGTH[metric]}")
  twice = [name for name, count in Counter(names).items() if count > 1]
  if twice:
    raise UserError(f"{where} has '{twice[0]}' twice")
  if metric and query.reference in names:
    raise UserError(f"{where} has its reference '{query.reference}', which CIRR leaves out")
  foreign = next((name for name in names if name not in candidates), None)
  if foreign is not None:
    of = "its subset" if metric == "recall_subset" else "the gallery"
    hint = ": names have no .png" if foreign.endswith(".png") else ""
    raise UserError(f"{where} has '{shown(foreign)}', which is not in {of}{hint}")


def _name(where: str, value: Any, metric: str) -> str:
  """The id of an image in a list."""
  if metric and isinstance(value, str):
    return value
  number = isinstance(value, int) and not isinstance(value, bool)
  if not metric and (number or (isinstance(value, str) and value.isdecimal())):
    return str(int(value))
  raise UserError(f"{where} has {value!r}, which is no {'name' if metric else 'whole number'}")


def _load(path: Path) -> dict[str, Any]:
  """The object of a JSON file; a key twice, which json would pass over, is refused."""

  def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
      raise UserError(f"query {shown(twice[0])} stands there twice")
    return dict(pairs)

  try:
    content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
  except UserError:
    raise
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read as JSON: {error}") from error
  if not isinstance(content, dict):
    raise UserError(f"{path} holds no object of queries")
  return content
