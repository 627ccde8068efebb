"""Compares variants of the training over starts and seeds, with intervals of the differences.

  python -m lafg_jax.ablate --config configs/synthetic.py --seeds=8 [--groups=headline,forms] \\
      [--starts=scratch,pretrained] [--only=REGEX] [--jobs=N] [--config.KEY=VALUE ...]

The groups of variants are defined in lafg_jax/tasks/class_retrieval/variants.py; without --groups
the headline group runs. A cell is a start, a variant and a seed, trained and evaluated in a worker
process. Finished cells are kept in <workdir>/cells, and with --out beside its tables; they run
again only when their settings or inputs change. At the end (with --report_only, at once) the folder
study/generated gets the finished cells as JSON, tables and figures of each data set and start.
--tune chooses settings on held-out training classes alone, from equally many for each variant, and
writes tuning.json.
"""

import os
import re
from collections.abc import Sequence

from absl import flags, logging

from lafg_jax import tasks
from lafg_jax.config import command_line
from lafg_jax.utils import locks, packages, places
from lafg_jax.utils.errors import Incomplete, UserError

_SEEDS = flags.DEFINE_integer("seeds", 2, "Seeds per variant: 0 to this number minus one.")
_VARIANTS = flags.DEFINE(
  command_line.PATH,
  "variants",
  "",
  "Python file with starts, groups of variants and the grid (default: the task's).",
)
_TUNED = flags.DEFINE(
  command_line.PATH,
  "tuned",
  None,
  "Settings that --tune chose, which cells take; '': none (default: the task's).",
)
# allow_override: other commands have flags of these names, and a process may import several.
_FOLDER = "Folder of the cells and results (default: runs/ablation-<name of the config>)."
_WORKDIR = flags.DEFINE(command_line.PATH, "workdir", None, _FOLDER, allow_override=True)
_GROUPS = flags.DEFINE_list("groups", None, "Groups, or all (default: headline; with --only: all).")
_STARTS = flags.DEFINE_list("starts", None, "Starts to run (default: all of the variants file).")
_ONLY = flags.DEFINE_string("only", "", "Regular expression over START/VARIANT: cells to run.")
_JOBS = flags.DEFINE_integer("jobs", 0, "Worker processes; 0: one per core, or per accelerator.")
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Run nothing: report the finished cells.")
_OUT = flags.DEFINE(
  command_line.PATH,
  "out",
  "",
  "Folder to which the results are added too, beside other cells.",
  allow_override=True,
)
_TUNE = flags.DEFINE_bool("tune", False, "Choose settings on held-out training classes.")


def main(argv: Sequence[str]) -> None:
  """Plans the cells, runs those that are missing, and reports all that are finished."""
  del argv
  only = _check_flags()
  packages.require("study", *packages.TRAINING, "matplotlib")
  workdir = _WORKDIR.value or os.path.join("runs", f"ablation-{command_line.config_name()}")
  if _OUT.value:
    command_line.make_folder("out", _OUT.value)
  from lafg_jax.runtime import jax_settings

  jax_settings.check()
  from lafg_jax.ablation import plan, pool, results, tuning
  from lafg_jax.data import datasets

  config, starts, out = command_line.CONFIG.value, _STARTS.value, _OUT.value
  groups = _GROUPS.value or (["all"] if only.pattern else ["headline"])
  shipped = tasks.find(config, "variants")
  if hasattr(shipped, "file_of"):
    shipped = tasks.find(config, shipped.file_of(config))
  file = plan.read_variants(_VARIANTS.value) if _VARIANTS.value else shipped
  plan.check_names(file, config, groups, starts)
  tuned_file = str(shipped.TUNED) if _TUNED.value is None else _TUNED.value
  tuned = {} if _TUNE.value else tuning.read(tuned_file)
  command_line.make_folder("workdir", workdir)
  # Without the lock, two commands in one folder would run the same cells.
  with locks.locked(os.path.join(workdir, ".lock"), workdir), datasets.remembered():
    if _TUNE.value:
      cells = tuning.cells(file, config, workdir, starts, only)
      failed = pool.run(cells, workdir, _JOBS.value)
      tuning.choose(cells, workdir, out, shipped.TUNED_BY)
    else:
      every = plan.cells(file, config, workdir, tuned, _SEEDS.value)
      wanted = plan.select(every, groups, starts, only)
      if out:
        results.restore(every, wanted, out)
      results.share(every, wanted)
      failed = 0 if _REPORT_ONLY.value else pool.run(wanted, workdir, _JOBS.value)
      if not failed or any(cell.finished() for cell in every):
        results.write(file, every, workdir, out)
  if failed:
    noun = "cell" if failed == 1 else "cells"
    raise Incomplete(f"{failed} {noun} failed, see the .log files in {workdir}/cells")


def _check_flags() -> re.Pattern[str]:
  if _SEEDS.value < 1:
    raise UserError(f"--seeds={_SEEDS.value}: it takes 1 or more")
  if _JOBS.value < 0:
    raise UserError(f"--jobs={_JOBS.value}: it takes 1 or more, or 0 for one a core")
  if _WORKDIR.value == "":
    raise UserError("--workdir is empty: pass a folder, or leave it out")
  if places.is_url(_WORKDIR.value or ""):
    raise UserError(f"--workdir={_WORKDIR.value}: it takes a folder of this machine")
  if _TUNE.value and _REPORT_ONLY.value:
    raise UserError("--report_only: --tune reports what is finished anyway; pass one of the two")
  if tracker := command_line.CONFIG.value.train.tracker:
    raise UserError(
      f"--config.train.tracker={tracker}: a study sends nothing to a tracker, its results are in "
      "study/generated; pass --config.train.tracker="
    )
  if command_line.CONFIG.value.evaluate.split == "val":
    logging.warning("evaluate.split=val: the results are about held-out training classes")
  try:
    return re.compile(_ONLY.value)
  except re.error as error:
    raise UserError(f"--only={_ONLY.value}: no regular expression ({error})") from error


if __name__ == "__main__":
  command_line.run(main, __doc__ or "")
