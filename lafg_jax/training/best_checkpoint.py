"""Model selection while training: a task measures every few steps, and the best step is kept.

`<workdir>/best/<step>/` is a checkpoint as those in `checkpoints/`; its meta has the figures as
'validation'. A later step replaces it only where it measured higher, so that a resumed run keeps
the same one as a run that was never stopped.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.runtime import distributed
from lafg_jax.training import checkpoints, frozen_weights, resume
from lafg_jax.training.checkpoints import BEST
from lafg_jax.training.frozen_weights import Frozen

Measured = dict[str, float]


class Validation(NamedTuple):
  """How a task measures a model while it trains.

  measure: unreplicated parameters -> {name: number}, on every process alike.
  best_by: the name of the number that is to be highest.
  """

  measure: Callable[[dict[str, Any]], Measured]
  best_by: str


class Selection:
  """Measures every train.validate_every steps, and keeps the best.

  mngr is of the folder of the best, None on processes that do not write. best is the figure of the
  checkpoint there, or -inf.
  """

  def __init__(self, train: ConfigDict, validation: Validation, mngr: Any, best: float) -> None:
    self.train, self.validation, self.mngr, self.best = train, validation, mngr, best

  def is_due(self, step: int) -> bool:
    """Whether the task measures after this step."""
    return step % self.train.validate_every == 0 or step == self.train.steps

  def keep(
    self,
    step: int,
    measured: Measured,
    arrays: checkpoints.Arrays,
    meta: dict[str, Any],
    frozen: Frozen = frozen_weights.NONE,
  ) -> None:
    """Saves this step where it is the best so far, as `checkpoints.save` takes it."""
    name = self.validation.best_by
    if not self.train.keep_best or measured[name] <= self.best:
      return
    self.best = measured[name]
    logging.info("step %d is the best in validation: %s %.4f", step, name, self.best)
    if self.mngr is not None and step not in self.mngr.all_steps():
      # A step that is there was kept before a kill; other devices may measure it a bit higher.
      meta = meta | {"validation": {"step": step} | measured}
      checkpoints.save(self.mngr, step, arrays, meta, frozen)
      # Before any newer checkpoint is saved: a run that resumes there does not validate this step.
      self.mngr.wait_until_finished()


@contextlib.contextmanager
def open_selection(
  config: ConfigDict, workdir: str, validation: Validation | None, meta: dict[str, Any]
) -> Iterator[Selection | None]:
  """A Selection that goes on with the best of the workdir; None where nothing is validated.

  A best that another config trained (`resume.changes` to `meta`, that of this run) is set aside,
  and selection starts anew.
  """
  if validation is None or not config.train.validate_every:
    yield None
    return
  best = float("-inf")
  if not config.train.keep_best:
    yield Selection(config.train, validation, None, best)
    return
  found = checkpoints.shared(workdir, set_aside=True, where=BEST)
  if found and resume.changes(config, found[1], meta):
    found = None
    if distributed.process_index() == 0:
      checkpoints.rename(workdir, checkpoints.steps(workdir, BEST), "before", BEST)
  if found:
    best = found[1]["validation"][validation.best_by]
  with checkpoints.manager(workdir, 1, BEST) as mngr:
    yield Selection(config.train, validation, mngr, best)
