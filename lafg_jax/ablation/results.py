"""Finished cells -> JSON for each dataset and start, and the tables and figures made of it."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.ablation import summary
from lafg_jax.ablation.plan import Cell, read_cell
from lafg_jax.evaluate.results import TITLES
from lafg_jax.report import study_figures, study_tables
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.errors import UserError

# <dataset>_<start>.json, .md, .svg and _sweeps.svg, below a workdir and the folder of --out.
GENERATED = "study/generated"

Record = dict[str, Any]


def write(file: Any, every: Sequence[Cell], workdir: str, out: str = "") -> None:
  """Writes the cells, a Markdown file and figures of each dataset and start; also into `out`.

  Raises:
    UserError: no cell is finished, or cells cannot be compared.
  """
  records = _finished(every)
  if not records:
    raise UserError(f"no finished cell in {workdir}/cells: run without --report_only")
  for folder in filter(None, (workdir, out)):
    _write(file, records, folder)


def restore(every: Sequence[Cell], wanted: Sequence[Cell], out: str) -> None:
  """Copies the cells of `<out>/study/generated/*.json` that the workdir lacks into it.

  A cell that was measured elsewhere is not measured again while its settings and inputs are the
  same, whatever its seed. It becomes the cell of its variant; where `every` has no such variant any
  more, the first one with the same settings. A cell of `wanted`, which are about to run, also takes
  the figures of any other one with the same settings.

  Raises:
    UserError: a file is damaged.
  """
  folder = Path(out, GENERATED)
  old = read(folder)
  planned: dict[str, list[Cell]] = {}
  for seed in sorted({record["seed"] for record in old}):
    for cell in (first.with_seed(seed) for first in every if first.seed == 0):
      planned.setdefault(cell.key, []).append(cell)
  tables = {(cell.dataset, cell.start) for cell in every}
  by_key = {record.get("config_hash"): record for record in old}
  found = [(cell, by_key[cell.key]) for cell in wanted if cell.key in by_key]
  lost = []
  for record in old:
    same = planned.get(record.get("config_hash", ""), [])
    named = [cell for cell in same if cell.variant == record["variant"]]
    found += [(cell, record) for cell in (named or same)[:1]]
    if not same and (record["dataset"], record["start"]) in tables:
      lost.append(f"{record['start']}/{record['variant']}/{record['seed']}")
  if taken := _keep_missing(found):
    logging.info("cells: %d are taken from %s", len(taken), folder)
  if lost:
    why = "of other settings or inputs, or of variants that are no more, and will not be there"
    logging.warning("%d cells of %s are %s (%s)", len(lost), folder, why, lost[0])


def share(every: Sequence[Cell], wanted: Sequence[Cell]) -> None:
  """Gives wanted cells the results of finished ones that are the same by another name."""
  finished = {cell.key: found for cell in every if (found := cell.finished())}
  pairs = [(cell, finished[cell.key]) for cell in wanted if cell.key in finished]
  if same := _keep_missing(pairs):
    logging.info("cells: %d are finished by another name (%s)", len(same), same[0])


def _keep_missing(found: Sequence[tuple[Cell, Record]]) -> list[Cell]:
  """Writes the results of the cells that are not finished; returns these cells."""
  missing = {cell.path: (cell, record) for cell, record in found if not cell.finished()}
  for cell, record in missing.values():
    keep(cell, record)
  return [cell for cell, _ in missing.values()]


def keep(cell: Cell, result: Record) -> None:
  """Writes a cell's result as the JSON that `Cell.finished` reads."""
  # Also the seed: figures that no seed decides are measured once, for all.
  of_cell = {name: getattr(cell, name) for name in ("dataset", "start", "variant", "seed")}
  record = result | of_cell | {"config_hash": cell.key, "config": config_keys.flatten(cell.config)}
  with files.replacing(cell.path) as temporary:
    temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")


def _finished(every: Sequence[Cell]) -> list[Record]:
  """The records on disk with the settings of the plan, of any seed."""
  records, stale = [], []
  for first in (cell for cell in every if cell.seed == 0):
    for seed in sorted(int(p.stem) for p in first.path.parent.glob("*.json") if p.stem.isdigit()):
      cell = first.with_seed(seed)
      if record := cell.finished():
        records.append({k: v for k, v in record.items() if k != "config"})
      elif read_cell(cell.path) is not None:
        stale.append(f"{cell.start}/{cell.variant}/{seed}")
  if stale:
    why = "of other settings or inputs and are left out"
    logging.warning("%d finished cells are %s (%s)", len(stale), why, ", ".join(stale[:3]))
  return records


def read(folder: Path) -> list[Record]:
  """The cells of all tables in a folder.

  Raises:
    UserError: a file is damaged.
  """
  found: list[Record] = []
  for path in sorted(folder.glob("*.json")):
    try:
      found += json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(f"{path} is damaged ({error}): take it from version control") from error
  return found


def _write(file: Any, records: Sequence[Record], folder: str) -> None:
  """Writes the cells of each dataset and start, and the tables and figures made of them."""
  texts = {}
  of_table = itertools.groupby(sorted(records, key=_table), _table)
  for (dataset, start), cells in of_table:
    # One line for each cell: version control shows which cells changed.
    lines = ",\n".join(json.dumps(cell, separators=(",", ":")) for cell in cells)
    texts[f"{GENERATED}/{dataset}_{start}.json"] = '{"cells": [\n' + lines + "\n]}\n"
  pairs, labels = getattr(file, "PAIRS", ()), getattr(file, "LABELS", {})
  about = getattr(file, "ABOUT", {})
  titles = getattr(file, "TITLES", TITLES)
  changes = {name: keys for of in file.groups().values() for name, keys in of.items()}
  groups = getattr(file, "FIGURE_GROUPS", ("headline",))
  shown = [variant for group in groups for variant in file.groups()[group]]
  marked = {
    "reference": file.REFERENCE,
    "controls": getattr(file, "FIGURE_CONTROLS", file.CONTROLS),
  }
  for table in summary.summarise(records, file.REFERENCE, file.CONTROLS, pairs, titles):
    name = f"{GENERATED}/{table['dataset']}_{table['start']}"
    texts[f"{name}.md"] = study_tables.markdown(table, labels, about, changes)
    texts[f"{name}.svg"] = study_figures.means(table, labels, shown=shown, **marked)
    texts[f"{name}_sweeps.svg"] = study_figures.sweeps(table, labels)
  for name, text in texts.items():
    path = Path(folder, name)
    if not text:
      path.unlink(missing_ok=True)
      continue
    with files.replacing(path) as temporary:
      temporary.write_text(text, encoding="utf-8")
    logging.info("%s", path)


def _table(record: Record) -> tuple[str, str]:
  return record["dataset"], record["start"]
