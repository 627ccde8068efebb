"""Chooses settings on held-out training classes, from as many for every variant.

No test image is evaluated: held-out training classes or images are, by evaluate.split='val'
(`hold_out` of a task's variants).
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax import tasks
from lafg_jax.ablation import plan
from lafg_jax.ablation.plan import Cell
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

FILE, CHOSEN = "tuning.json", "ablation_tuned.json"
# What tuning.json has of each trial.
_COLUMNS = "dataset start variant seed split steps recall@1 map@r seconds".split()


def read(path: str) -> dict[str, Any]:
  """{dataset: {start: {variant: overrides}}} of a file that `choose` wrote; '' has none.

  Raises:
    UserError: it is missing or damaged.
  """
  if not path:
    return {}
  try:
    found = json.loads(Path(path).read_text(encoding="utf-8"))["chosen"]
    return {d: {s: {v: dict(x) for v, x in of.items()} for s, of in starts.items()}
            for d, starts in found.items()}  # fmt: skip
  except FileNotFoundError as error:
    raise UserError(f"--tuned={path}: no such file; --tune writes one, '' takes none") from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"--tuned={path} is damaged ({error}): take it from version control") from error


def cells(
  file: Any, config: ConfigDict, workdir: str, starts: Sequence[str] | None, only: re.Pattern[str]
) -> list[Cell]:
  """Every trial of the variants of the tuned group; `file` is what `plan.read_variants` gave.

  Raises:
    UserError: variants have grids of different sizes, or none goes with the config.
  """
  config = config.copy_and_resolve_references()
  config.evaluate.split = "val"
  tasks.find(config, "variants").hold_out(config, file.VAL_CLASSES)
  every = plan.cells(file, config, workdir, {}, 1, [file.TUNED_GROUP])
  every = plan.select(every, [file.TUNED_GROUP], starts, only)
  found, sizes = [], {}
  for one in (one for one in every if one.trains):
    grid = file.grid(one.config)
    sizes[len(grid)] = f"{one.variant} has {len(grid)}"
    for number, tried in enumerate(grid):
      made = plan.prepared(one.config, [tried], f"{one.start}/{one.variant}")
      for seed in range(file.TUNING_SEEDS):
        path = Path(workdir, "cells", "tuning", one.start, one.variant, f"{number}-{seed}.json")
        where = (one.start, one.variant, seed, one.group)
        found.append(plan.cell(made, where, True, path)._replace(tried=tried))
  if len(sizes) > 1:
    raise UserError(f"grids of different sizes: {'; '.join(sizes.values())}; make them equal")
  if not found:
    raise UserError("--tune: nothing of these groups, starts and variants trains")
  return found


def choose(trials: Sequence[Cell], workdir: str, out: str, metric: str) -> None:
  """Writes tuning.json: for each start and variant the settings of the highest mean
  of `metric`.

  Variants with an unfinished trial are left out. With `out`, the chosen settings also go into
  `<out>/ablation_tuned.json`, which `--tuned` reads, beside those of other datasets and starts.
  """
  chosen: dict[str, Any] = {}
  rows: list[dict[str, Any]] = []
  for dataset, start, variant in dict.fromkeys((t.dataset, t.start, t.variant) for t in trials):
    of = [t for t in trials if (t.dataset, t.start, t.variant) == (dataset, start, variant)]
    done = [(trial.tried, result) for trial in of if (result := trial.finished())]
    rows += [{k: r[k] for k in _COLUMNS if k in r} | {"tried": tried} for tried, r in done]
    if len(done) < len(of):
      logging.warning("%s/%s: %d of %d trials done", start, variant, len(done), len(of))
      continue
    scores: dict[str, list[float]] = {}
    for tried, result in done:
      scores.setdefault(json.dumps(tried), []).append(result[metric])
    # Of equals the first.
    means = {text: sum(values) / len(values) for text, values in scores.items()}
    best = max(means, key=means.__getitem__)
    chosen.setdefault(dataset, {}).setdefault(start, {})[variant] = json.loads(best)
    logging.info("%s/%s: %s %.4f with %s", start, variant, metric, means[best], best)
  _write(Path(workdir, FILE), {"chosen": chosen, "cells": rows})
  if out:
    path = Path(out, CHOSEN)
    old = read(str(path)) if path.exists() else {}
    for dataset, starts in chosen.items():
      for start, of_start in starts.items():
        old.setdefault(dataset, {}).setdefault(start, {}).update(of_start)
    _write(path, {"chosen": old})


def _write(path: Path, content: dict[str, Any]) -> None:
  with files.replacing(path) as temporary:
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
  logging.info("%s", path)
