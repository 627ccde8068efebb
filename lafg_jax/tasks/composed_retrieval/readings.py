"""The report stage: which queries of an evaluation are shown, and what is said about them."""

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import composed
from lafg_jax.data.composed import Composed, Looks, Query
from lafg_jax.evaluate import results
from lafg_jax.report import comparison, composed_page, curves, pictures
from lafg_jax.report.composed_page import Answer, Page, Shown
from lafg_jax.report.term_bars import Term
from lafg_jax.tasks.composed_retrieval import captions, edits, features, methods, ranking, tables
from lafg_jax.training import metrics_log
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# Queries that are shown of a kind of sentence, and of all.
OF_KIND, MOST = 4, 24
_TERMS = {
  "edit": ("m", "edited description"),
  "phi": ("f", "text with the pseudo word of the image"),
  "image": ("v", "reference image"),
  "text": ("t", "text alone"),
}
_CURVES = {"loss": ("Loss", "loss"), "images_per_second": ("Speed", "rows per second")}


def run(config: ConfigDict, workdir: str) -> None:
  """Writes `report.html`.

  Raises UserError: there is no evaluation yet, or it is of other queries than the config has.
  """
  config = methods.resolve(config)
  result, parts = results.read_result(workdir), composed.load(config)
  lines = read_rankings(workdir, parts)
  _check(config, workdir, result)
  others = comparison.read(config.evaluate.compare, result)
  runs = [("this run", workdir), *((one.name, one.workdir) for one in others)]
  said, changed = captions.read(workdir), edits.read(workdir)
  terms, looks = _terms(result), composed.looks(config)
  shown = [
    _shown(part, query, lines[part.name, query.id], list(terms), said, changed, looks)
    for part, query in chosen(parts, lines)
  ]
  by_name = {part.name: part for part in parts}
  unread: dict[str, str] = {}
  page = Page(
    name=result["dataset"],
    notes=_notes(result),
    tables=_tables(result),
    terms=list(terms.values()),
    shown=shown,
    share=share(parts, lines),
    picture=functools.partial(_picture, by_name, unread),
    training=curves.charts(runs, _CURVES),
    compared=comparison.section(result, others),
  )
  composed_page.run(workdir, page)
  if unread:
    text = "report: grey tiles stand for %s that cannot be read (the first: %s)"
    logging.warning(text, counted(len(unread), "image"), next(iter(unread.values())))


def inputs(config: ConfigDict, workdir: str) -> list[Any]:
  """What the page depends on, for `stages.Stage`."""
  names = (results.FILE, ranking.FILE, captions.FILE, edits.FILE, metrics_log.FILE)
  read = [Path(workdir, name) for name in names]
  return [config.composed, config.query, read, *comparison.inputs(config.evaluate.compare)]


def read_rankings(workdir: str, parts: Sequence[Composed]) -> dict[tuple[str, str], dict[str, Any]]:
  """{(part, query id): line} of rankings.jsonl.

  Raises UserError where it is missing or damaged, or lacks a query of `parts`.
  """
  path, lines = Path(workdir, ranking.FILE), ranking.read(workdir)
  for part in parts:
    known = set(part.ids)
    for query in part.queries:
      line = lines.get((part.name, query.id))
      if line is None or line.get("text") != query.text or not {*line["ranked"]} <= known:
        what = f"query {query.id} of {part.name}"
        raise UserError(f"{path} is of other queries ({what}): run --stage=evaluate first")
  return lines


def _check(config: ConfigDict, workdir: str, result: dict[str, Any]) -> None:
  now = {"method": config.query.method, "source": config.evaluate.source}
  now["split"] = config.composed.split
  changed = [f"{k}: {result.get(k)} -> {v}" for k, v in now.items() if result.get(k) != v]
  if changed:
    path = Path(workdir, results.FILE)
    raise UserError(
      f"{path} is of another evaluation ({'; '.join(changed)}): run --stage=evaluate first"
    )


def chosen(parts: Sequence[Composed], lines: Any) -> list[tuple[Composed, Query]]:
  """The queries that are shown: evenly spaced, half of each kind found and half not.

  A query counts under its rarest kind, which then is its first. What is found has a right answer in
  the first place.
  """
  often = Counter(kind for part in parts for query in part.queries for kind in query.kinds)
  kinds: dict[str, tuple[list, list]] = {}
  for part in parts:
    for query in part.queries:
      ordered = tuple(sorted(query.kinds, key=lambda kind: (often[kind], kind)))
      found = is_found(query, lines[part.name, query.id])
      of = kinds.setdefault(ordered[0] if ordered else "", ([], []))
      of[not found].append((part, query._replace(kinds=ordered)))
  each = max(2, min(OF_KIND if len(kinds) > 1 else MOST, MOST // max(len(kinds), 1)))
  picked: list[tuple[Composed, Query]] = []
  for good, bad in list(kinds.values())[: MOST // 2]:
    of_bad = min(len(bad), max(each // 2, each - len(good)))
    picked += [*_spaced(good, each - of_bad), *_spaced(bad, of_bad)]
  return picked


def share(parts: Sequence[Composed], lines: Any) -> dict[str, tuple[int, int]]:
  """{kind: (queries found in the first place, queries)}; {} where the answers are secret."""
  found: dict[str, tuple[int, int]] = {}
  for part in parts:
    for query in part.queries:
      for kind in query.kinds if query.targets else ():
        right, count = found.get(kind, (0, 0))
        found[kind] = (right + is_found(query, lines[part.name, query.id]), count + 1)
  return found


def is_found(query: Query, line: dict[str, Any]) -> bool:
  """Whether the first answer is right."""
  return bool(line["ranked"][:1]) and line["ranked"][0] in query.targets


def _spaced(of: Sequence[Any], count: int) -> list[Any]:
  rows = np.unique(np.linspace(0, len(of) - 1, min(count, len(of))).astype(int))
  return [of[row] for row in rows] if count else []


def _shown(
  part: Composed,
  query: Query,
  line: dict[str, Any],
  terms: Sequence[str],
  said: Any,
  changed: Any,
  looks: Looks | None,
) -> Shown:
  places = [place for place, image in enumerate(line["ranked"], 1) if image in query.targets]
  first = min(composed_page.NUM_ANSWERS, len(line["ranked"]))
  answers = [_answer(query, line, place, terms, looks) for place in range(1, first + 1)]
  if places and places[0] > first:
    answers.append(_answer(query, line, places[0], terms, looks))
  elif query.targets and not places:
    answers.append(Answer(0, query.targets[0], "right", None))
  edit = changed.get((part.name, query.id))
  return Shown(
    *(query.id, part.name, query.reference, query.text, query.kinds, tuple(answers)),
    rank=(places[0] if places else 0) if query.targets else None,
    ranked=len(line["ranked"]),
    num_targets=len(query.targets),
    captions=tuple(said.get(query.reference, ())),
    edited=tuple(edit.edited) if edit else (),
    added=edit.added if edit else "",
  )


def _answer(
  query: Query, line: dict[str, Any], place: int, terms: Sequence[str], looks: Looks | None
) -> Answer:
  """What stands at a place, from 1 on, of a ranking."""
  image, of = line["ranked"][place - 1], [line["terms"].get(name, ()) for name in terms]
  parts = tuple(x[place - 1] for x in of) if all(place <= len(x) for x in of) else ()
  kind, why = kind_of(query, image, looks)
  return Answer(place, image, kind, line["scores"][place - 1], parts, why)


def kind_of(query: Query, image: str, looks: Looks | None) -> tuple[str, str]:
  """Which of `composed_page.MARKS` an answer is, and what makes it a near miss.

  Near misses are the other images of a query's subset (CIRR), and where it is known how images
  look: what looks as the reference, and what differs from a right answer in one attribute.
  """
  if not query.targets:
    return "unknown", ""
  if image in query.targets:
    return "right", ""
  if image == query.reference:
    return "reference", ""
  if looks is None:
    return ("near", "of its subset") if image in query.members else ("wrong", "")
  look, right, before = (looks.of[x] for x in (image, query.targets[0], query.reference))
  differ = [name for name, a, b in zip(looks.names, look, right, strict=True) if a != b]
  if look == before:
    return "near", "unchanged"
  return ("near", f"another {differ[0]}") if len(differ) == 1 else ("wrong", "")


def _terms(result: dict[str, Any]) -> dict[str, Term]:
  """The terms of the query that have a weight."""
  weights = result["weights"][result["method"]]
  values = {"edit": "alpha", "phi": "beta", "image": "rest", "text": "text"}
  return {
    name: Term(*_TERMS[name], weights[key]) for name, key in values.items() if weights.get(key, 0.0)
  }


def _notes(result: dict[str, Any]) -> list[str]:
  notes = [tables.heading(result)]
  reference = "left out of" if result.get("drop_reference") else "kept in"
  notes.append(f"a query's reference image is {reference} its ranking")
  notes.append(f"weights of {result['clip']['name']} at {result['clip']['image_size']} px")
  if gamma := result["weights"][result["method"]].get("gamma"):
    notes.append(f"captions have weight {gamma:g} in the gallery")
  if missing := result.get("missing"):
    lacking = counted(sum(missing.values()), "listed image")
    notes.append(f"{lacking} missing: not comparable with published figures")
  for what in ("edit", "caption"):
    if count := result.get(f"num_without_{what}"):
      notes.append(f"{count:,} without {what}s")
  if count := result.get("num_unreadable"):
    notes.append(f"{counted(count, 'image')} cannot be read: not comparable with published figures")
  return [*notes, *tables.exact_of(result)]


def _tables(result: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
  if not result["by_method"]:
    return [("by method", [["the right answers are secret: submission files are written"]])]
  found = [("by method", tables.rows_of(result))]
  if kinds := tables.kinds_of(result):
    found.append(("By kind of sentence", kinds))
  for name, of in result.get("parts", {}).items():
    methods_of = {method: x["parts"][name] for method, x in result["by_method"].items()}
    found.append((name, tables.rows_of({"by_method": methods_of, "chance": of["chance"]})))
  return found


def _picture(
  parts: dict[str, Composed], unread: dict[str, str], part: str, image: str
) -> np.ndarray:
  of = parts[part]
  return pictures.tile(features.as_dataset(of), _rows(of)[image], composed_page.TILE, unread)


@functools.lru_cache(maxsize=8)
def _row_of(ids: tuple[str, ...]) -> dict[str, int]:
  return {name: row for row, name in enumerate(ids)}


def _rows(part: Composed) -> dict[str, int]:
  return _row_of(part.ids)
