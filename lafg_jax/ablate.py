"""Compares variants of the training, over starts and seeds, and says how sure the difference is.

  python -m lafg_jax.ablate --config configs/synthetic.py --seeds=8 [--groups=headline,forms] \\
      [--starts=scratch,pretrained] [--only=REGEX] [--jobs=N] [--config.KEY=VALUE ...]

The groups of variants are defined in lafg_jax/tasks/class_retrieval/variants.py; without --groups
the headline group runs. A cell is a start, a variant and a seed, trained and evaluated in a worker
process. Finished cells are kept in <workdir>/cells, and with --out in its ablation.json; they do
not run again while their settings and inputs are the same. In the end (and with --report_only,
without running any) all finished cells are written to ablation.json. Of these, study/generated gets
for each dataset and start a Markdown file with the tables, and figures. --tune chooses settings on
held-out training classes alone, from as many for every variant, and writes tuning.json.
"""

import os
import re
from collections.abc import Sequence

from absl import flags, logging

from lafg_jax import command_line
from lafg_jax.utils import locks, packages, places
from lafg_jax.utils.errors import Incomplete, UserError

_SEEDS = flags.DEFINE_integer("seeds", 2, "Seeds of a variant: 0 to this number less one.")
_VARIANTS = flags.DEFINE_string(
  "variants", "", "Python file with starts, groups of variants and the grid (default: the task's)."
)
_TUNED = flags.DEFINE_string(
  "tuned", None, "Settings that --tune chose, which cells take; '': none (default: the task's)."
)
# allow_override: other commands have flags of these names, and a process may import several.
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of the cells and results (default: runs/ablation-<name of the config>).",
  allow_override=True,
)
_GROUPS = flags.DEFINE_list(
  "groups", None, "Groups of variants to run, or all (default: headline; with --only: all)."
)
_STARTS = flags.DEFINE_list("starts", None, "Starts to run (default: all of the variants file).")
_ONLY = flags.DEFINE_string("only", "", "Regular expression: run what it finds in START/VARIANT.")
_JOBS = flags.DEFINE_integer(
  "jobs", 0, "Worker processes; 0: one a core, or one an accelerator where there is one."
)
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Run nothing: report the finished cells.")
_OUT = flags.DEFINE_string(
  "out",
  "",
  "Folder to write the results to as well, beside cells of others that are there.",
  allow_override=True,
)
_TUNE = flags.DEFINE_bool("tune", False, "Choose settings on held-out training classes.")


def main(argv: Sequence[str]) -> None:
  """Plans the cells, runs those that are not there, reports all that are."""
  del argv
  only = _check_flags()
  packages.require("study", *packages.TRAINING, "matplotlib")
  workdir = _WORKDIR.value or os.path.join("runs", f"ablation-{command_line.config_name()}")
  if _OUT.value:
    command_line.make_folder("out", _OUT.value)
  from lafg_jax.ablation import plan, results, tuning
  from lafg_jax.data import datasets

  groups = _GROUPS.value or (["all"] if only.pattern else ["headline"])
  file = plan.read_variants(_VARIANTS.value)
  plan.check_names(file, command_line.CONFIG.value, groups, _STARTS.value)
  tuned = {} if _TUNE.value else tuning.read(_TUNED.value)
  command_line.make_folder("workdir", workdir)
  # Two commands in one folder would run the same cells.
  with locks.locked(os.path.join(workdir, ".lock"), workdir), datasets.remembered():
    if _TUNE.value:
      cells = tuning.cells(file, command_line.CONFIG.value, workdir, _STARTS.value, only)
      failed = _run(cells, workdir)
      tuning.choose(cells, workdir, _OUT.value)
    else:
      every = plan.cells(file, command_line.CONFIG.value, workdir, tuned, _SEEDS.value)
      wanted = plan.select(every, groups, _STARTS.value, only)
      if _OUT.value:
        results.restore(every, wanted, _OUT.value)
      results.share(every, wanted)
      failed = 0 if _REPORT_ONLY.value else _run(wanted, workdir)
      if not failed or any(cell.finished() for cell in every):
        results.write(file, every, workdir, _OUT.value)
  if failed:
    count = "1 cell" if failed == 1 else f"{failed} cells"
    raise Incomplete(f"{count} failed, see the .log files in {workdir}/cells")


def _run(cells: Sequence, workdir: str) -> int:
  from lafg_jax.ablation import pool

  return pool.run(cells, workdir, _JOBS.value)


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
  if command_line.CONFIG.value.evaluate.split == "val":
    logging.warning("evaluate.split=val: what is reported are held-out training classes")
  try:
    return re.compile(_ONLY.value)
  except re.error as error:
    raise UserError(f"--only={_ONLY.value}: no regular expression ({error})") from error


if __name__ == "__main__":
  command_line.run(main, __doc__ or "")
