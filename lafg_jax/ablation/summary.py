"""Finished cells -> means, paired differences and sweeps, as numbers for tables and figures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lafg_jax.ablation import statistics
from lafg_jax.evaluate import intervals
from lafg_jax.evaluate.results import TITLES
from lafg_jax.utils.errors import UserError

Record = dict[str, Any]
Pairs = Sequence[tuple[str, str]]
# NAME@KEY=VALUE.
_SWEPT = re.compile(r"(.+)@([^@=]+)=(.+)")


def summarise(
  records: Sequence[Record],
  reference: str,
  controls: Sequence[str],
  pairs: Pairs = (),
  titles: Mapping[str, str] = TITLES,
) -> list[dict[str, Any]]:
  """One table for each dataset and start.

  Args:
    reference: the variant that every other one is compared with.
    controls: those that `default` is compared with as well.
    pairs: further comparisons, made where both variants were measured.
    titles: {metric: how tables call it}; rows are ranked by the first.

  Returns:
    [{'dataset', 'start', 'split', 'steps', 'num_classes', 'num_queries', 'partial', 'measured',
    'clusters', 'titles', 'rows', 'differences', 'sweeps'}] with
    'measured' and 'clusters', what the task says of its queries and of what the bootstrap is over,
    '' if nothing; 'rows', highest first:
    [{'variant', 'seeds', metric: {'values', 'mean', 'sd', 't'}}]; 'differences': [{'variant',
    'against', 'seeds', metric: {'mean', 't', 'bootstrap'}}]; 'sweeps', of the variants
    NAME@KEY=VALUE: [{'key', 'values': [str], 'lines': {NAME: {value: row}}}], with ascending
    numbers before words.
    All numbers are fractions; 'sd' and 't' of one seed, and 'bootstrap' of one class, are None.

  Raises:
    UserError: cells of one table trained for different numbers of steps, or on other splits.
  """
  tables, ranking = [], next(iter(titles))
  for dataset, start in dict.fromkeys((r["dataset"], r["start"]) for r in records):
    of = [r for r in records if (r["dataset"], r["start"]) == (dataset, start)]
    _check_comparable(of, f"{dataset}, {start}")
    variants: dict[str, dict[int, Record]] = {}
    for record in of:
      variants.setdefault(record["variant"], {})[record["seed"]] = record
    every = [_row(name, list(cells.values()), titles) for name, cells in variants.items()]
    rows = [row for row in every if not parse(row["variant"])]
    rows.sort(key=lambda row: -row.get(ranking, {"mean": 0.0})["mean"])
    compared = _pairs([row["variant"] for row in rows], list(variants), reference, controls, pairs)
    differences = [_difference(variants, *pair, titles) for pair in compared]
    same = ("dataset", "start", "split", "num_classes", "num_queries")
    table: dict[str, Any] = {name: of[0][name] for name in same}
    table |= {"steps": max(r["steps"] for r in of), "partial": any(r.get("partial") for r in of)}
    table |= {name: of[0].get(name, "") for name in ("measured", "clusters")}
    table |= {"titles": dict(titles)}
    table |= {"rows": rows, "differences": [found for found in differences if found["seeds"]]}
    tables.append(table | {"sweeps": _sweeps(every)})
  return tables


def parse(variant: str) -> tuple[Any, ...] | None:
  """'l_aux@classes=10' -> ('l_aux', 'classes', '10'); None for a variant of no sweep."""
  found = _SWEPT.fullmatch(variant)
  return found and found.groups()


def _sweeps(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  found: dict[str, dict[str, Any]] = {}
  for row in rows:
    if (parsed := parse(row["variant"])) is not None:
      name, key, value = parsed
      sweep = found.setdefault(key, {"key": key, "values": [], "lines": {}})
      sweep["lines"].setdefault(name, {})[value] = row
  for sweep in found.values():
    sweep["values"] = sorted(set().union(*sweep["lines"].values()), key=_order)
  return list(found.values())


def _order(value: str) -> tuple[bool, float, str]:
  try:
    return False, float(value), value
  except ValueError:
    return True, 0.0, value


def _pairs(
  rows: Sequence[str], variants: Sequence[str], reference: str, controls: Sequence[str], more: Pairs
) -> list[tuple[str, str]]:
  """Pairs to compare; under each @CHANGE the same pairs again, with both variants changed."""
  pairs = [("default", control) for control in controls if control != reference]
  pairs += [pair for pair in more if pair not in pairs]
  plain = [(row, reference) for row in rows if "@" not in row]
  plain += [pair for pair in pairs if "@" not in "".join(pair)]
  changes = dict.fromkeys(x.partition("@")[2] for x in variants if "@" in x)
  changed = [(f"{a}@{change}", f"{b}@{change}") for change in changes for a, b in plain]
  found = [(row, reference) for row in rows] + pairs + changed
  return [(a, b) for a, b in dict.fromkeys(found) if a in variants and b in variants and a != b]


def _check_comparable(of: Sequence[Record], what: str) -> None:
  for name in ("steps", "split"):
    values = {r[name] for r in of if r[name]}
    if len(values) > 1:
      raise UserError(f"cells of {what} differ in {name} ({sorted(values)}): that is no comparison")


def _row(variant: str, cells: Sequence[Record], titles: Mapping[str, str]) -> dict[str, Any]:
  row: dict[str, Any] = {"variant": variant, "seeds": [r["seed"] for r in cells]}
  for metric in titles:
    values = [r[metric] for r in cells if metric in r]
    if values:
      sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
      row[metric] = {"values": values, "sd": sd} | _mean(values)
  return row


def _difference(
  variants: Mapping[str, Mapping[int, Record]],
  variant: str,
  against: str,
  titles: Mapping[str, str],
) -> dict[str, Any]:
  """Paired by seed, over the seeds that both have.

  A model before training that one seed measured stands beside every seed.
  """
  first, second = variants[variant], variants[against]
  of_a, of_b = _for_seeds(first, second), _for_seeds(second, first)
  seeds = sorted(of_a.keys() & of_b.keys())
  a, b = ([of[seed] for seed in seeds] for of in (of_a, of_b))
  found: dict[str, Any] = {"variant": variant, "against": against, "seeds": seeds}
  for metric in titles:
    if seeds and all(metric in record for record in a + b):
      values = [x[metric] - y[metric] for x, y in zip(a, b, strict=True)]
      found[metric] = _mean(values) | {"bootstrap": _bootstrap(a, b, metric)}
  return found


def _for_seeds(of: Mapping[int, Record], beside: Mapping[int, Record]) -> Mapping[int, Record]:
  """Records by seed; the one record of a model before training for each seed of the other."""
  alone = len(of) == 1 and all(not record["steps"] for record in of.values())
  return dict.fromkeys(beside, next(iter(of.values()))) if alone else of


def _mean(values: Sequence[float]) -> dict[str, Any]:
  return {"mean": float(np.mean(values)), "t": statistics.t_interval(values)}


def _bootstrap(a: Sequence[Record], b: Sequence[Record], metric: str) -> intervals.Interval | None:
  """Interval over test classes of the difference, averaged over seeds."""
  if any(metric not in r["by_class"] for r in (*a, *b)):
    return None
  weights = np.array([r["by_class"]["num_queries"] for r in (*a, *b)])
  if (weights != weights[0]).any():
    # One cell could not read some images that another could: classes cannot be paired.
    return None
  of_a, of_b = ([r["by_class"][metric] for r in side] for side in (a, b))
  values = np.mean(np.subtract(of_a, of_b), axis=0)
  return intervals.cluster_bootstrap(values, weights[0])
