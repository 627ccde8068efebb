"""Trains and evaluates language-driven fine-grained image retrieval.

  python -m lafg_jax.main --config configs/cars.py [--workdir DIR] [--stage NAME] \\
      [--config.KEY=VALUE ...]

Without --stage all stages of the config's task run in order; those of class retrieval (LaFG) are
describe, encode, prototypes, train, evaluate, report. A stage whose output is there and whose
inputs are unchanged is skipped; a stopped one goes on where it stopped. On request: --stage=data
checks a data set before hours are spent (counts, sizes, unreadable images, near duplicates), and
--stage=inspect makes language.html, a page to browse what was written and mined about the classes.
python -m lafg_jax.config.reference explains every key.
"""

import os
from collections.abc import Sequence

from absl import flags

from lafg_jax import command_line, tasks
from lafg_jax.runtime import distributed, malloc
from lafg_jax.utils import packages
from lafg_jax.utils.errors import UserError

_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder or URL (gs://) for everything that is written (default: runs/<name of the config>).",
)
_STAGE = flags.DEFINE_string(
  "stage", None, "Run one stage of the config's task (default: all that a bare run has)."
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
  task.validate(config, names)
  packages.require("train", *packages.TRAINING)
  if _WORKDIR.value == "":
    raise UserError("--workdir is empty: pass a folder, or leave it out for runs/<config name>")
  workdir = _WORKDIR.value or os.path.join("runs", command_line.config_name())
  malloc.keep_freed()
  with distributed.session():
    from lafg_jax.runtime import remote_workdir

    folder = remote_workdir.local_folder(workdir)
    command_line.make_folder("workdir", folder)
    with distributed.only_run(folder, workdir), remote_workdir.synced(workdir, folder):
      tasks.run(config, folder, names)


if __name__ == "__main__":
  command_line.run(main, __doc__ or "")
