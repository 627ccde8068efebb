"""Trains and evaluates language-driven fine-grained image retrieval.

  python -m lafg_jax.main --config configs/cars.py [--workdir DIR] [--stage NAME] \\
      [--config.KEY=VALUE ...]

Without --stage all stages of the config's task run in order; those of class retrieval (LaFG) are
describe, encode, prototypes, train, evaluate, report. A stage is skipped while its output exists
and its inputs are unchanged; a stopped one resumes. Two more run on request: --stage=data checks a
data set (counts, sizes, unreadable images, near duplicates), and --stage=inspect makes
language.html, a page about the classes' descriptions and attributes. --compare=RUN,RUN puts other
runs beside this one in report.html. python -m lafg_jax.config.reference explains every key.
"""

import os
from collections.abc import Sequence

from absl import flags

from lafg_jax import tasks
from lafg_jax.config import command_line
from lafg_jax.runtime import distributed, malloc
from lafg_jax.utils import packages
from lafg_jax.utils.errors import Stopped, UserError

_WORKDIR = flags.DEFINE(
  command_line.PATH,
  "workdir",
  None,
  "Folder or URL (gs://) for all output (default: runs/<name of the config>).",
)
_STAGE = flags.DEFINE_string("stage", None, "The only stage to run (default: see above).")
_COMPARE = flags.DEFINE_list(
  "compare", None, "Workdirs of other runs, RUN,RUN, that report.html compares this one with."
)


def main(argv: Sequence[str]) -> None:
  """Checks the flags and the config, then runs the stages."""
  del argv
  config, stage = command_line.CONFIG.value, _STAGE.value
  task = tasks.find(config, "default")
  known = (*task.STAGES, *task.ON_REQUEST)
  if stage is not None and stage not in known:
    raise UserError(f"--stage={stage}: it takes one of {', '.join(known)}")
  names = [stage] if stage else task.default_names(config)
  if _COMPARE.value:
    config.evaluate.compare = tuple(_COMPARE.value)
  task.validate(config, names)
  packages.require("train", *packages.TRAINING)
  if tracker := config.train.tracker:
    packages.require(tracker, tracker)
  if _WORKDIR.value == "":
    raise UserError("--workdir is empty: pass a folder, or leave it out for runs/<config name>")
  workdir = _WORKDIR.value or os.path.join("runs", command_line.config_name())
  malloc.keep_freed()
  with distributed.session():
    from lafg_jax.runtime import remote_workdir

    folder = remote_workdir.local_folder(workdir)
    command_line.make_folder("workdir", folder)
    with distributed.only_run(folder, workdir), remote_workdir.synced(workdir, folder):
      completed = tasks.run(config, folder, names)
  # After the session, whose processes leave together.
  if not completed:
    raise Stopped("by a signal")


if __name__ == "__main__":
  command_line.run(main, __doc__ or "")
