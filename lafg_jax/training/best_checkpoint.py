"""Model selection while training: the validation classes are evaluated, and the best step is kept.

`<workdir>/best/<step>/` is a checkpoint as those in `checkpoints/`; its meta has 'validation', what
was measured. A later step takes its place only where its MAP@R is higher, so that a run that was
stopped and goes on keeps the same one as a run that was not.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data.datasets import Dataset
from lafg_jax.evaluate import metrics
from lafg_jax.evaluate.embed import embed_dataset, embedding_function
from lafg_jax.models.embedder import Embedder
from lafg_jax.runtime import distributed
from lafg_jax.training import checkpoints, resume
from lafg_jax.training.checkpoints import BEST

Measured = dict[str, float]


class Selection:
  """What is measured on `dataset` every train.validate_every steps, and the best of it.

  Args:
    config: reads train.validate_every, train.keep_best and what evaluation reads.
    mngr: of the folder of the best; None on processes that do not write.
    best: MAP@R of the checkpoint that is there, or -1.
  """

  def __init__(
    self, config: ConfigDict, dataset: Dataset, embedder: Embedder, mngr: Any, best: float
  ) -> None:
    self.config, self.dataset, self.mngr, self.best = config, dataset, mngr, best
    self.embedding = embedding_function(embedder)

  def is_due(self, step: int) -> bool:
    """Whether the validation classes are evaluated after this step."""
    return step % self.config.train.validate_every == 0 or step == self.config.train.steps

  def measure(self, params: dict[str, Any]) -> Measured:
    """'val_recall@1' and 'val_map@r' of unreplicated parameters, on every process alike."""
    config = self.config
    with distributed.unhurried("validation"):
      vectors, rows = embed_dataset(
        self.embedding(params), self.dataset, config.data, config.evaluate.batch_size
      )
      asks = None if self.dataset.is_query is None else self.dataset.is_query[rows]
      found = metrics.evaluate_embeddings(vectors, self.dataset.labels[rows], (1,), is_query=asks)
    return {f"val_{name}": float(found[name]) for name in ("recall@1", "map@r")}

  def keep(
    self, step: int, measured: Measured, arrays: checkpoints.Arrays, meta: dict[str, Any]
  ) -> None:
    """Saves this step where it is the best so far; `arrays` as `checkpoints.save` takes them."""
    if not self.config.train.keep_best or measured["val_map@r"] <= self.best:
      return
    self.best = measured["val_map@r"]
    logging.info("step %d is the best on the validation classes: MAP@R %.4f", step, self.best)
    if self.mngr is not None and step not in self.mngr.all_steps():
      # A step that is there was kept before a kill; on other devices it may now measure a bit more.
      checkpoints.save(self.mngr, step, arrays, meta | {"validation": {"step": step} | measured})
      # Before any newer checkpoint: a run that goes on from there validates no step before it.
      self.mngr.wait_until_finished()


@contextlib.contextmanager
def open_selection(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset | None,
  embedder: Embedder,
  meta: dict[str, Any],
) -> Iterator[Selection | None]:
  """A Selection that goes on with the best of the workdir; None where nothing is validated.

  Args:
    dataset: the validation classes.
    meta: of this run. A best that another config trained is set aside, and comparing starts over,
      whatever has become of the checkpoints beside it.
  """
  if dataset is None or not config.train.validate_every:
    yield None
    return
  if not config.train.keep_best:
    yield Selection(config, dataset, embedder, None, -1.0)
    return
  found = checkpoints.shared(workdir, set_aside=True, where=BEST)
  if found and resume.changes(config, found[1], meta):
    found = None
    if distributed.process_index() == 0:
      checkpoints.rename(workdir, checkpoints.steps(workdir, BEST), "before", BEST)
  best = found[1]["validation"]["val_map@r"] if found else -1.0
  with checkpoints.manager(workdir, 1, BEST) as mngr:
    yield Selection(config, dataset, embedder, mngr, best)
