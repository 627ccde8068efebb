"""Other runs beside this one: which they are, and their figures with the differences."""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lafg_jax.evaluate import results
from lafg_jax.evaluate.intervals import Interval
from lafg_jax.report import frame
from lafg_jax.report.frame import Section
from lafg_jax.training import metrics_log
from lafg_jax.utils.errors import UserError

# What two evaluations must share to be compared.
_SAME = ("dataset", "split", "num_queries", "num_gallery", "num_images", "num_texts")
MOST_CHANGED = 12


class Other(NamedTuple):
  """Another run: its name, its workdir, and its evaluation.json."""

  name: str
  workdir: str
  result: dict[str, Any]


class Change(NamedTuple):
  """What of a metric changed from another run to this one: by class {name: (there, here)},
  fractions, and the interval of the mean difference over classes."""

  metric: str
  by_class: dict[str, tuple[float, float]]
  interval: Interval | None


def read(workdirs: Sequence[str], result: dict[str, Any]) -> list[Other]:
  """The runs that `evaluate.compare` names.

  Raises:
    UserError: one has no evaluation, or one of other data than `result`.
  """
  names = names_of(workdirs)
  found = []
  for name, workdir in zip(names, workdirs, strict=True):
    if not os.path.isdir(workdir):
      raise UserError(f"--compare={workdir}: no such folder; it takes the workdirs of other runs")
    other = results.read_result(workdir)
    differ = [key for key in _SAME if other.get(key) != result.get(key)]
    if differ:
      what = "; ".join(f"{key}: {other.get(key)}, here {result.get(key)}" for key in differ)
      raise UserError(f"--compare={workdir}: it was evaluated on other data ({what})")
    found.append(Other(name, workdir, other))
  return found


def inputs(workdirs: Sequence[str]) -> list[Any]:
  """What a page depends on beside its own workdir: other runs, and the frame."""
  names = (results.FILE, results.EMBEDDINGS, metrics_log.FILE)
  return [[Path(of, name) for of in workdirs for name in names], list(frame.TEMPLATE)]


def names_of(workdirs: Sequence[str]) -> list[str]:
  """The last parts of paths, or the paths where two would have the same name."""
  last = [os.path.basename(os.path.normpath(path)) for path in workdirs]
  names = last if len({*last}) == len(last) else list(workdirs)
  return ["another this run" if name == "this run" else name for name in names]


def section(
  result: dict[str, Any],
  others: Sequence[Other],
  changes: Sequence[Sequence[Change]] = (),
) -> Section | None:
  """The section of `others`; None without any. changes: of each, from there to here."""
  if not others:
    return None
  rows = [["%", "this run", *(x for one in others for x in (one.name, "difference"))], *(
    _row(metric, result, others) for metric in results.names_of(result)
  )]  # fmt: skip
  classes = "".join(
    f"<h3>Classes, against {html.escape(one.name)}</h3>{''.join(_changed(of) for of in all_of)}"
    for one, all_of in zip(others, changes, strict=False)
  )
  body = f"""<p class="note">The same images and queries. difference: this run less the other, in
points. One training of each says little about their settings: seeds differ too.</p>
{frame.table(rows)}{classes}"""
  return Section("compared", "Compared with other runs", body)


def _row(metric: str, result: dict[str, Any], others: Sequence[Other]) -> list[str]:
  cells = [metric, results.percent(result[metric])]
  for one in others:
    there = one.result.get(metric)
    cells += ["", ""] if there is None else [
      results.percent(there), results.percent(result[metric] - there, "+")
    ]  # fmt: skip
  return cells


def _changed(change: Change) -> str:
  """The classes that gained and lost most, and how many did."""
  differences = {name: here - there for name, (there, here) in change.by_class.items()}
  ordered = sorted(differences, key=lambda name: (differences[name], name))
  gained = sum(x > 0 for x in differences.values())
  lost = sum(x < 0 for x in differences.values())
  title = results.TITLES.get(change.metric, change.metric)
  over = ""
  if change.interval is not None:
    low, high = (results.percent(x, "+") for x in change.interval)
    over = f" The mean difference has a 95% interval of {low} to {high} points over classes."
  said = f"{title}: {gained} of {len(ordered)} classes gained, {lost} lost.{over}"
  half = [*ordered[::-1][:MOST_CHANGED], *ordered[:MOST_CHANGED][::-1]]
  rows = [["class", "there, %", "here, %", "change"]]
  rows += [
    [name, *(results.percent(x) for x in change.by_class[name]), _arrow(differences[name])]
    for name in dict.fromkeys(half) if differences[name]
  ]  # fmt: skip
  folded = frame.folded("the classes that changed most", frame.table(rows)) if rows[1:] else ""
  return f"<p>{html.escape(said)}</p>{folded}"


def _arrow(difference: float) -> str:
  sign = "\N{UPWARDS ARROW}" if difference > 0 else "\N{DOWNWARDS ARROW}"
  return f"{sign} {results.percent(difference, '+')}"
