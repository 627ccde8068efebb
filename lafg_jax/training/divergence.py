"""The error of a run whose loss is no longer finite: the step, and what its batch shows."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.utils import files

# Metrics of a step that are finite while training is sound.
SIGNS = ("loss", "grad_norm", "param_norm")
# Names in the line itself.
_NAMED = 3


def finite(metrics: dict[str, Any]) -> bool:
  """Whether the `SIGNS` among plain numbers or device scalars are finite."""
  return all(np.isfinite(number(metrics[name])) for name in SIGNS)


def number(x: Any) -> float:
  """A metric as a plain number: [devices] copies on the device, or a number already."""
  return float(np.asarray(x.addressable_data(0)).reshape(-1)[0] if isinstance(x, jax.Array) else x)


def message(
  train: ConfigDict, workdir: str, names: Sequence[str], start: int, step: int, metrics: Any
) -> str:
  """The error line of a run that diverged; writes `names` to a file in the workdir.

  `step`, 1 or more, is the first that is not finite: `metrics` are its metrics, and `names` are of
  what its batch shows. The process resumed from the step `start`, which is 0 of a new run.
  """
  path = os.path.join(workdir, f"diverged_at_step_{step}.txt")
  if jax.process_index() == 0:
    with files.replacing(path) as temporary:
      temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
  loss, grad_norm, param_norm = (number(metrics[name]) for name in SIGNS)
  # Only finite steps are saved, so this one is there.
  saved = max(start, (step - 1) // train.checkpoint_every * train.checkpoint_every)
  kept = f"the checkpoint of step {saved} is kept" if saved else "no checkpoint was due before"
  return (
    f"training diverged at step {step} (loss {loss}, gradient norm {grad_norm}, parameter norm "
    f"{param_norm}), on {', '.join(names[:_NAMED])} and {len(names) - _NAMED} more ({path}); "
    f"{kept}: start anew in another --workdir with a --config.train.learning_rate below "
    f"{train.learning_rate}"
  )
