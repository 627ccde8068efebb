"""Training: the loop with the one jax.pmap."""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import pipeline
from lafg_jax.data.datasets import Dataset
from lafg_jax.models.embedder import Embedder
from lafg_jax.runtime import distributed, out_of_memory
from lafg_jax.runtime.devices import AXIS, replicate, to_devices, unreplicate
from lafg_jax.runtime.preemption import StopRequest
from lafg_jax.tasks.class_retrieval import batches as class_batches
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import checkpoints, frozen_features, optimizers, resume
from lafg_jax.training.best_checkpoint import Selection, open_selection
from lafg_jax.training.metrics_log import MetricsLog
from lafg_jax.training.step import TrainState, alignment_targets, init_state, make_step
from lafg_jax.utils import config_keys

MAX_IN_FLIGHT = 2
# Compiled steps that a process keeps.
MAX_PROGRAMS = 16


def run(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset,
  prototypes: LoadedPrototypes | None,
  val: Dataset | None = None,
) -> tuple[int, bool]:
  """Trains to `train.steps`, from the newest checkpoint when there is one.

  Args:
    val: validation classes, for train.validate_every.

  Returns:
    The step reached, and whether SIGTERM or SIGINT asked to stop there; it is saved either way.

  Raises:
    UserError: another config trained this workdir and train.allow_changed is off, the loss is no
      longer finite, memory ran out, or a checkpoint or the metrics cannot be written.
  """
  # Outermost: a signal must not end the wait for the last, asynchronous save.
  with StopRequest() as stop, out_of_memory.told(config, None):
    return _run(config, workdir, dataset, prototypes, val, stop)


def _run(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset,
  prototypes: LoadedPrototypes | None,
  val: Dataset | None,
  stop: StopRequest,
) -> tuple[int, bool]:
  num_classes, words = len(dataset.class_names), resume.prototype_arrays(prototypes)
  meta = resume.meta(config, dataset, prototypes)
  found = checkpoints.shared(workdir, set_aside=True)
  if found is not None:
    resume.check_same(config, found[1], meta, workdir)
  step = found[1]["step"] if found else 0
  if step >= config.train.steps:
    logging.info("train: already at step %d", step)
    return step, False
  text_dim = words["prototypes"].shape[1] if words else None
  reading_dim = None if prototypes is None else prototypes.reading_dim
  embedder, optimizer, state = init_state(config, num_classes, text_dim, reading_dim)
  if found is not None:
    state = resume.restore(state, *found)
  _announce(config, state)
  batches = _batches(config, workdir, dataset, embedder, state, stop)
  if batches is None or (stop.asked and jax.process_count() == 1):
    # No step was made that is not saved. Several processes agree on that after a step.
    return step, True
  mapped = _mapped_step(embedder, optimizer, config)
  state = replicate(state)
  targets = replicate(alignment_targets(config, num_classes, prototypes))
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, targets))
  needs = functools.partial(_step_bytes, embedder, optimizer, config, *shapes)
  made = _steps(mapped, step, state, targets, batches, stop)
  with (
    out_of_memory.told(config, needs),
    contextlib.closing(batches),
    checkpoints.manager(workdir, config.train.keep_checkpoints) as mngr,
    open_selection(config, workdir, val, embedder, meta) as selection,
    MetricsLog(workdir, step, config, dataset) as log,
    # Innermost: nobody is missed while the last checkpoint is written.
    distributed.stepping(),
  ):
    return _follow(config, made, stop, words, meta, mngr, selection, log), stop.agreed


def _steps(
  mapped: Any, start: int, state: Any, targets: Any, batches: Any, stop: StopRequest
) -> Iterator[tuple[int, Any, dict[str, jax.Array], np.ndarray]]:
  """(step, state, metrics, unreadable rows) of each step after `start`; it waits for none.

  A state is good until the next is asked for, which takes its memory.
  """
  in_flight: collections.deque = collections.deque()
  for step, (host, batch) in enumerate(to_devices(batches), start=start + 1):
    state, metrics, asked = mapped(state, batch, targets, stop.flag())
    in_flight.append((metrics["loss"], asked))
    if len(in_flight) > MAX_IN_FLIGHT:
      # Two steps back is done or nearly so: this bounds memory without stalling the device.
      stop.heard(*jax.block_until_ready(in_flight.popleft()))
      distributed.beat(step)
    yield step, state, metrics, host["unreadable"]


def _follow(
  config: ConfigDict,
  made: Iterator[tuple[int, Any, dict[str, jax.Array], np.ndarray]],
  stop: StopRequest,
  words: dict[str, np.ndarray],
  meta: dict[str, Any],
  mngr: Any,
  selection: Selection | None,
  log: MetricsLog,
) -> int:
  """Has the steps made, logged, validated and saved, and returns the last one."""
  step = 0
  for step, state, metrics, unreadable in made:
    log.unreadable(unreadable)
    log.watch(step, metrics)
    last = step == config.train.steps or stop.agreed
    if step % config.train.log_every == 0 or last:
      log.write(step, metrics)
    saves = step % config.train.checkpoint_every == 0 or last
    validates = selection is not None and selection.is_due(step)
    if saves or validates:
      log.flush()
      log.check_finite(step, metrics)
      arrays = checkpoints.flatten({"state": unreplicate(state), "prototypes": words})
      if selection is not None and validates:
        measured = selection.measure(checkpoints.subtree(arrays, "state/params"))
        log.validated(step, measured)
        selection.keep(step, measured, arrays, meta)
      checkpoints.save(mngr if saves else None, step, arrays, meta)
    if last:
      break
  return step


def _with_stop(step: Callable[..., Any]) -> Callable[..., Any]:
  """The step, and beside it whether any process is asked to stop; alone, a process just knows."""

  def mapped(state, batch, targets, asked):
    return *step(state, batch, targets), None if asked is None else jax.lax.pmax(asked, AXIS)

  return mapped


def _step_bytes(
  embedder: Embedder,
  optimizer: optax.GradientTransformation,
  config: ConfigDict,
  state: Any,
  targets: Any,
  classes: int,
) -> int:
  """Bytes that each device needs for a step of `classes` classes a batch, as XLA plans it.

  `state` and `targets` are the shapes of the replicated ones: nothing here needs their memory.
  """
  config = config.copy_and_resolve_references()
  data = config.data
  data.classes_per_batch = classes
  local = jax.local_device_count()
  rows = -(-(classes * data.images_per_class + data.recoloured_per_batch) // jax.device_count())
  shapes: dict[str, Any] = {"image": ((data.image_size, data.image_size, 3), np.uint8)}
  if config.train.frozen_backbone:
    shapes = {"feature": ((embedder.backbone.width,), np.float32)}
  shapes |= {"label": ((), np.int32), "index": ((), np.int32)}
  batch = {k: jax.ShapeDtypeStruct((local, rows, *s), t) for k, (s, t) in shapes.items()}
  mapped = jax.pmap(
    make_step(embedder, optimizer, config, AXIS), axis_name=AXIS, donate_argnums=(0,)
  )
  return out_of_memory.planned_bytes(mapped.lower(state, batch, targets).compile())


def _mapped_step(embedder: Embedder, optimizer: Any, config: ConfigDict) -> Any:
  """The mapped step: one for all runs of a process whose seeds alone differ.

  Tracing and compiling it takes seconds, which a study of hundreds of runs would pay each time.
  """
  program = repr(
    [(key, config_keys.get(config, key)) for key in resume.deciding_keys(config) if key != "seed"]
  )
  if program not in _mapped_steps:
    while len(_mapped_steps) >= MAX_PROGRAMS:
      del _mapped_steps[next(iter(_mapped_steps))]
    _mapped_steps[program] = jax.pmap(
      _with_stop(make_step(embedder, optimizer, config, AXIS)), axis_name=AXIS, donate_argnums=(0,)
    )
  return _mapped_steps[program]


_mapped_steps: dict[str, Any] = {}


def _batches(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset,
  embedder: Embedder,
  state: TrainState,
  stop: StopRequest,
) -> Any:
  """The batches that are left, or None where the making of features was stopped."""
  start = int(state.step)
  if config.train.frozen_backbone:
    stopped = lambda: stop.asked and jax.process_count() == 1  # noqa: E731
    cached = frozen_features.features(config, workdir, dataset, embedder, state.params, stopped)
    return None if cached is None else frozen_features.batches(config, dataset, cached, start)
  return pipeline.train_batches(
    dataset,
    config.data,
    class_batches.plan(dataset, config.data, config.seed),
    seed=config.seed,
    start_step=start,
    num_steps=config.train.steps - start,
    num_devices=jax.device_count(),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def _announce(config: ConfigDict, state: TrainState) -> None:
  data, learned = config.data, optimizers.split(config, state.params)[0]
  counts = [sum(x.size for x in jax.tree.leaves(tree)) / 1e6 for tree in (learned, state.params)]
  logging.info(
    "train: steps %d to %d of %d x %d images%s on %d devices, %.3g M of %.3g M parameters learn",
    int(state.step),
    config.train.steps,
    data.classes_per_batch,
    data.images_per_class,
    f" and {data.recoloured_per_batch} recoloured" if data.recoloured_per_batch else "",
    jax.device_count(),
    *counts,
  )
