"""Finished cells -> ablation.json, ablation.md with its plots, and ablation.html."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.ablation import statistics
from lafg_jax.ablation.plan import Cell, read_cell
from lafg_jax.report import ablation_page, curves
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.errors import UserError

NAMES = ("ablation.json", "ablation.md", "ablation.html")
METRICS = {"recall@1": "R@1", "map@r": "MAP@R"}
# Rows of a table stand in this order.
BEST_FIRST = "recall@1"

Record = dict[str, Any]


def write(file: Any, every: Sequence[Cell], workdir: str, out: str = "") -> None:
  """Writes ablation.json, .md with a plot a table, and .html; with `out`, there too.

  What people wrote at the top of an ablation.md is kept (page.WRITTEN).

  `out` keeps the cells of other datasets and starts that its ablation.json has.

  Raises:
    UserError: no cell is finished, or cells cannot be compared.
  """
  records = _finished(every, workdir)
  if not records:
    raise UserError(f"no finished cell in {workdir}/cells: run without --report_only")
  _write(file, records, workdir)
  if out:
    _write(file, beside(_read(Path(out, NAMES[0])), records), out)


def beside(old: Sequence[Record], new: Sequence[Record]) -> list[Record]:
  """New cells, and of the old ones those of datasets and starts that the new ones lack."""
  fresh = {(r["dataset"], r["start"]) for r in new}
  return [r for r in old if (r["dataset"], r["start"]) not in fresh] + list(new)


def restore(every: Sequence[Cell], wanted: Sequence[Cell], out: str) -> None:
  """Takes the cells of `<out>/ablation.json` that the workdir lacks.

  What was measured elsewhere, and is kept under version control, is not measured again: a cell is
  finished where its settings and inputs are the same. It goes to the variant of its name, or where
  that is no more to the first that is the same; a wanted one is not run where only another is.

  Args:
    every: cells of the plan; those of any seed of their variants are taken.
    wanted: those that are about to run.
    out: folder with the results.

  Raises:
    UserError: the file is damaged.
  """
  path = Path(out, NAMES[0])
  old = _read(path)
  planned: dict[str, list[Cell]] = {}
  seeds = sorted({record["seed"] for record in old})
  for first in (cell for cell in every if cell.seed == 0):
    for cell in map(first.with_seed, seeds):
      planned.setdefault(cell.key, []).append(cell)
  any_of = {record.get("config_hash"): record for record in old}
  found = [(cell, any_of[cell.key]) for cell in wanted if cell.key in any_of]
  for record in old:
    if cells := planned.get(record.get("config_hash", "")):
      found.append((next((c for c in cells if c.variant == record["variant"]), cells[0]), record))
  missing = {cell.path: (cell, record) for cell, record in found if not cell.finished()}
  for cell, record in missing.values():
    keep(cell, record)
  if missing:
    logging.info("cells: %d are taken from %s", len(missing), path)
  tables = {(cell.dataset, cell.start) for cell in every}
  lost = [
    record
    for record in old
    if record.get("config_hash") not in planned and (record["dataset"], record["start"]) in tables
  ]
  if lost:
    example = lost[0]
    logging.warning(
      "%d cells of %s are of other settings or inputs, or of variants that are no more, and will "
      "not be there (%s/%s/%s)",
      *(len(lost), path, example["start"], example["variant"], example["seed"]),
    )


def share(every: Sequence[Cell], wanted: Sequence[Cell]) -> None:
  """Gives wanted cells the results of finished ones that are the same by another name."""
  finished = {cell.key: found for cell in every if (found := cell.finished())}
  same = [cell for cell in wanted if cell.key in finished and not cell.finished()]
  for cell in same:
    keep(cell, finished[cell.key])
  if same:
    logging.info("cells: %d are finished by another name (%s)", len(same), same[0])


def keep(cell: Cell, result: Record) -> None:
  """Writes a cell's result, whole, as the JSON that `Cell.finished` reads."""
  about = {"start": cell.start, "variant": cell.variant}
  config = config_keys.flatten(cell.config)
  record = {"dataset": cell.dataset} | result | about | {"config_hash": cell.key, "config": config}
  with files.replacing(cell.path) as temporary:
    temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")


def _finished(every: Sequence[Cell], workdir: str) -> list[Record]:
  """The records on disk whose settings are those of the plan, whatever the number of seeds."""
  records, stale = [], []
  for first in (cell for cell in every if cell.seed == 0):
    for path in sorted(first.path.parent.glob("*.json"), key=lambda p: (len(p.name), p.name)):
      record = read_cell(path)
      if record is None or not path.stem.isdigit():
        continue
      if record.get("config_hash") == first.with_seed(int(path.stem)).key:
        records.append({k: v for k, v in record.items() if k != "config"})
      else:
        stale.append(f"{first.start}/{first.variant}/{path.stem}")
  if stale:
    logging.warning(
      "%d finished cells are of other settings or inputs and are left out (%s)",
      *(len(stale), ", ".join(stale[:3])),
    )
  return records


def _read(path: Path) -> list[Record]:
  if not path.exists():
    return []
  try:
    return list(json.loads(path.read_text(encoding="utf-8"))["cells"])
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged ({error}): take it from version control") from error


def _write(file: Any, records: Sequence[Record], folder: str) -> None:
  tables = summarise(records, file.REFERENCE, file.CONTROLS, getattr(file, "PAIRS", ()))
  # A line a cell: what version control shows is which cells changed.
  lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
  old = Path(folder, NAMES[1])
  texts = (
    '{"cells": [\n' + lines + "\n]}\n",
    ablation_page.markdown(
      tables, file.REFERENCE, old.read_text(encoding="utf-8") if old.exists() else ""
    ),
    ablation_page.document(tables, file.REFERENCE),
  )
  written = list(zip(NAMES, texts, strict=True))
  written += [x for t in tables for x in ablation_page.pictures(t, file.REFERENCE).items()]
  names = {name for name, _ in written}
  for picture in {
    ablation_page.picture_name(t, of) for t in tables for of in ("", "sweeps")
  } - names:
    Path(folder, picture).unlink(missing_ok=True)
  for name, text in written:
    path = os.path.join(folder, name)
    with files.replacing(path) as temporary:
      temporary.write_text(text, encoding="utf-8")
    logging.info("%s", path)


def summarise(
  records: Sequence[Record],
  reference: str,
  controls: Sequence[str],
  more: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
  """One table for each dataset and start.

  Args:
    records: contents of cells.
    reference: the variant that all others are compared with.
    controls: those that `full` is compared with as well.
    more: further pairs, where both are there.

  Returns:
    [{'dataset', 'start', 'split', 'steps', 'num_classes', 'num_queries', 'partial', 'rows',
    'differences', 'sweeps'}]; sweeps, of variants NAME@KEY=VALUE, as `curves.gather`; rows, the
    rest, the best first: [{'variant', 'seeds', metric: {'values', 'mean', 'sd', 't'}}],
    differences: [{'variant', 'against', 'seeds', 'trained', metric: {'mean', 't', 'bootstrap'}}],
    all as fractions; sd, 't' and 'bootstrap' may be None; 'trained': both variants are.

  Raises:
    UserError: cells of one table trained for different numbers of steps, or on other splits.
  """
  tables = []
  for dataset, start in dict.fromkeys((r["dataset"], r["start"]) for r in records):
    of = [r for r in records if (r["dataset"], r["start"]) == (dataset, start)]
    _check_comparable(of, f"{dataset}, {start}")
    variants: dict[str, dict[int, Record]] = {}
    for record in of:
      variants.setdefault(record["variant"], {})[record["seed"]] = record
    rows = [_row(name, list(cells.values())) for name, cells in variants.items()]
    swept = [row for row in rows if curves.parse(row["variant"])]
    rows = [row for row in rows if not curves.parse(row["variant"])]
    rows.sort(key=lambda row: -row.get(BEST_FIRST, {"mean": 0.0})["mean"])
    found = _pairs([row["variant"] for row in rows], list(variants), reference, controls, more)
    differences = [_difference(variants, *pair) for pair in found]
    tables.append(
      {
        "dataset": dataset,
        "start": start,
        "split": of[0]["split"],
        "steps": max(r["steps"] for r in of),
        "num_classes": of[0]["num_classes"],
        "num_queries": of[0]["num_queries"],
        "partial": any(r.get("partial") for r in of),
        "rows": rows,
        "differences": [x for x in differences if x["seeds"]],
        "sweeps": curves.gather(swept),
      }
    )
  return tables


def _pairs(
  rows: Sequence[str],
  variants: Sequence[str],
  reference: str,
  controls: Sequence[str],
  more: Sequence[tuple[str, str]],
) -> list[tuple[str, str]]:
  """What is told apart: of NAME@CHANGE with the reference and controls under the change as well."""
  pairs = [("full", control) for control in controls if control != reference]
  pairs += [pair for pair in more if pair not in pairs]
  plain = [(row, reference) for row in rows if "@" not in row]
  plain += [pair for pair in pairs if "@" not in "".join(pair)]
  changes = dict.fromkeys(x.partition("@")[2] for x in variants if "@" in x)
  same = [(f"{a}@{change}", f"{b}@{change}") for change in changes for a, b in plain]
  found = [(row, reference) for row in rows] + pairs + same
  return [(a, b) for a, b in dict.fromkeys(found) if a in variants and b in variants and a != b]


def _check_comparable(of: Sequence[Record], what: str) -> None:
  steps = {r["steps"] for r in of if r["steps"]}
  for name, values in (("steps", steps), ("split", {r["split"] for r in of})):
    if len(values) > 1:
      raise UserError(f"cells of {what} differ in {name} ({sorted(values)}): that is no comparison")


def _row(variant: str, cells: Sequence[Record]) -> dict[str, Any]:
  row: dict[str, Any] = {"variant": variant, "seeds": [r["seed"] for r in cells]}
  for metric in METRICS:
    values = [r[metric] for r in cells if metric in r]
    if values:
      sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
      interval = statistics.t_interval(values)
      row[metric] = {"values": values, "mean": float(np.mean(values)), "sd": sd, "t": interval}
  return row


def _difference(
  variants: dict[str, dict[int, Record]], variant: str, against: str
) -> dict[str, Any]:
  a, b = variants[variant], variants[against]
  seeds = sorted(a.keys() & b.keys())
  found: dict[str, Any] = {"variant": variant, "against": against, "seeds": seeds}
  found["trained"] = all(r["steps"] for x in (a, b) for r in x.values())
  for metric in METRICS:
    if seeds and all(metric in x[seed] for x in (a, b) for seed in seeds):
      values = [a[seed][metric] - b[seed][metric] for seed in seeds]
      found[metric] = {
        "mean": float(np.mean(values)),
        "t": statistics.t_interval(values),
        "bootstrap": _bootstrap([a[s] for s in seeds], [b[s] for s in seeds], metric),
      }
  return found


def _bootstrap(a: Sequence[Record], b: Sequence[Record], metric: str) -> statistics.Interval | None:
  """Of the difference in the mean over seeds, by test class."""
  weights = [np.array(r["by_class"]["num_queries"]) for r in (*a, *b)]
  if any((w != weights[0]).any() for w in weights[1:]):
    # Images that could not be read in one cell alone: no class stands against itself.
    return None
  values = [
    np.array(x["by_class"][metric]) - np.array(y["by_class"][metric])
    for x, y in zip(a, b, strict=True)
  ]
  return statistics.cluster_bootstrap(np.mean(values, axis=0), weights[0])
