"""Training: the loop with the one jax.pmap. It knows no task, but an `Objective` and a `Feed`."""

import collections
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.runtime import devices, distributed, out_of_memory
from lafg_jax.runtime.devices import AXIS, replicate, to_devices, unreplicate
from lafg_jax.runtime.preemption import StopRequest
from lafg_jax.training import (
  checkpoints,
  chunks,
  frozen_weights,
  optimizers,
  partition,
  resume,
)
from lafg_jax.training.best_checkpoint import Validation, open_selection
from lafg_jax.training.frozen_weights import Frozen
from lafg_jax.training.metrics_log import MetricsLog
from lafg_jax.training.step import Objective, TrainState, init_state, make_step
from lafg_jax.utils.counted import counted

MAX_IN_FLIGHT = 2
# Compiled steps that a process keeps.
MAX_PROGRAMS = 16
# Bytes of parameters and optimiser from which on a step is compiled beforehand: 8 million floats.
_LARGE = 32 * 2**20
# step, state, metrics and unreadable rows
Stepped = tuple[int, TrainState, dict[str, jax.Array], np.ndarray]


class Feed(NamedTuple):
  """The batches of a run, and names for messages.

  batches: (first step, params, stopped) -> this process's share of each batch from that step on, as
    {name: [b, ...]}, an iterator with close(); None where `stopped()` became true before the first.
    An optional 'unreadable' [b] has the rows that were replaced, else -1.
  batch: the global batch in words, such as '98 classes x 9 images'.
  names: of the rows, by number.
  names_in: step, from 1 on -> the names of what its batch shows.
  unit: what a row is, for speeds.
  """

  batches: Callable[[int, dict[str, Any], Callable[[], bool]], Any]
  batch: str
  names: Sequence[str]
  names_in: Callable[[int], list[str]]
  unit: str = "images"


def run(
  config: ConfigDict,
  workdir: str,
  objective: Callable[[], Objective],
  feed: Feed,
  *,
  meta: dict[str, Any],
  kept: dict[str, Any] | None = None,
  validation: Validation | None = None,
) -> tuple[int, bool]:
  """Trains to `train.steps`, from the newest checkpoint when there is one.

  Args:
    config: reads `seed`, `train` and the keys that decide training (`resume.deciding`).
    objective: makes what is trained; not called where training is done already.
    meta: the JSON of a checkpoint. 'config' and 'made_of' decide whether a run may resume from it
      (`resume.changes`).
    kept: {name: tree of arrays} that a checkpoint has beside the state.
    validation: what is measured every train.validate_every steps.

  Returns:
    The step reached, and whether SIGTERM or SIGINT asked to stop there; it is saved either way.

  Raises:
    UserError: another config trained this workdir and train.allow_changed is off, the loss is no
      longer finite, memory ran out, or a checkpoint or the metrics cannot be written.
  """
  # Outermost: a signal must not end the wait for the last, asynchronous save.
  with StopRequest() as stop, out_of_memory.as_user_error(feed.batch):
    found = checkpoints.shared(workdir, set_aside=True)
    if found is not None:
      resume.check_same(config, found[1], meta, workdir)
    step = found[1]["step"] if found else 0
    if step >= config.train.steps:
      logging.info("train: already at step %d", step)
      return step, False
    made = objective()
    optimizer, state = init_state(made, config.train)
    if found is not None:
      state = resume.restore(state, *found)
    _announce(config, made, state, feed)
    stopped = lambda: stop.asked and jax.process_count() == 1  # noqa: E731
    batches = feed.batches(step, state.params, stopped)
    if batches is None or stopped():
      # No step was made that is not saved. Several processes agree on that after a step.
      return step, True
    fixed = partition.split(state.params, optimizers.frozen(config.train, made))[1]
    known = Frozen(**found[1]["frozen"]) if found else None
    frozen = frozen_weights.keep(workdir, fixed, known)
    given = replicate(made.constants), replicate(np.uint32(config.seed))
    size = sum(x.nbytes for x in jax.tree.leaves((state, state.params, made.constants)))
    state = replicate(state)
    # Its arrays are on the devices now, and need not be held twice.
    made = made._replace(params={}, constants={})
    program = functools.partial(_mapped_step, made, optimizer, config)
    beforehand = _is_compiled_beforehand(size)
    needs = _planner(program, made, beforehand, state, *given)
    logging.info("train: compiling the step, which takes a while")
    begun = time.monotonic()
    rows = _rows_per_chunk(config, made, size, needs, workdir)
    reads = (*made.embed_reads, *made.loss_reads)
    steps = _steps(
      program(rows), step, state, given, to_devices(batches, reads), stop, begun, beforehand
    )
    del state, given, fixed, found
    with (
      out_of_memory.as_user_error(feed.batch, rows, needs),
      contextlib.closing(batches),
      frozen_weights.tidied(workdir),
      checkpoints.manager(workdir, config.train.keep_checkpoints) as mngr,
      open_selection(config, workdir, validation, meta) as selection,
      MetricsLog(workdir, step, config.train, made, feed) as log,
      # Innermost: while the last checkpoint is written, no process has to report progress.
      distributed.stepping(),
    ):
      step = _follow(config, steps, stop, kept or {}, meta, frozen, mngr, selection, log)
      return step, stop.agreed


def completed(config: ConfigDict, step: int, stopped: bool) -> bool:
  """Whether a run, whose result these are, came to its end; the log has where it stopped if not."""
  if stopped:
    saved = ", saved" if step else ""
    steps = config.train.steps
    logging.info("stopped at step %d of %d%s; the same command goes on", step, steps, saved)
  return not stopped


def outputs(config: ConfigDict) -> list[str]:
  """What a whole run leaves in its workdir: the checkpoint of its last step."""
  return [f"{checkpoints.FOLDER}/{config.train.steps}"]


def share(config: ConfigDict, start: int) -> dict[str, int]:
  """Which batches a process makes from step `start` on, as `pipeline.train_batches` takes it."""
  return {
    "start_step": start,
    "num_steps": config.train.steps - start,
    "num_devices": jax.device_count(),
    "process_index": jax.process_index(),
    "process_count": jax.process_count(),
  }


def _steps(
  mapped: Any,
  start: int,
  state: Any,
  given: Any,
  batches: Iterator[tuple],
  stop: StopRequest,
  begun: float,
  beforehand: bool,
) -> Iterator[Stepped]:
  """Each step after `start`, without waiting for it.

  A state is valid until the next is asked for, which takes its memory. `begun` is when the step
  began to be compiled, of time.monotonic().
  """
  in_flight: collections.deque = collections.deque()
  for step, (host, batch) in enumerate(batches, start=start + 1):
    arguments = (state, batch, *given, stop.flag())
    if step == start + 1 and beforehand:
      mapped = devices.compiled(mapped, *arguments)
    state, metrics, asked = mapped(*arguments)
    del arguments
    if step == start + 1:
      logging.info("train: compiled in %.1f s", time.monotonic() - begun)
    in_flight.append((metrics["loss"], asked))
    if len(in_flight) > MAX_IN_FLIGHT:
      # The step before the last two is done or nearly so: waiting for it bounds memory and does
      # not stall the device.
      stop.heard(*jax.block_until_ready(in_flight.popleft()))
      distributed.beat(step)
    yield step, state, metrics, host.get("unreadable", np.empty(0, np.int32))


def _follow(
  config, made: Iterator[Stepped], stop, kept, meta, frozen: Frozen, mngr, selection, log
) -> int:
  """Logs, validates and saves the steps, and returns the last one."""
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
      # The frozen ones are on the disk, and stay on the device.
      params, fixed = partition.split(state.params, frozen.has)
      saved = unreplicate(state.replace(params=params))
      arrays = checkpoints.flatten({"state": saved} | kept)
      if selection is not None and validates:
        whole = partition.join(saved.ema or saved.params, unreplicate(fixed))
        measured = selection.validation.measure(whole)
        log.validated(step, measured)
        selection.keep(step, measured, arrays, meta, frozen)
      checkpoints.save(mngr if saves else None, step, arrays, meta, frozen)
    if last:
      break
  return step


def _rows_per_chunk(config, objective, fixed, needs, workdir) -> int:
  rows = -(-objective.rows // jax.device_count())
  program = [resume.deciding(config), config.model.remat, jax.device_count()]
  return chunks.choose(config.train.rows_per_chunk, rows, fixed, needs, workdir, program)


def _is_compiled_beforehand(size: int) -> bool:
  """Whether the step is compiled with `devices.compiler_options`; `size` is that of its state.

  jax.pmap takes no options, and a program that is compiled beforehand costs some milliseconds a
  call: too many for a small model. Among several processes it takes no arrays of one of them.
  """
  return size >= _LARGE and jax.process_count() == 1 and bool(devices.compiler_options())


def _planner(program, objective, beforehand: bool, *arrays) -> Callable[[int], int]:
  """rows per chunk -> bytes that each device needs for a step, as XLA plans it.

  `arrays` are the replicated state, constants and seed. In a run of one process, the first call of
  the step does not compile again what was planned here.
  """
  rows = -(-objective.rows // jax.device_count())
  reads = objective.embed_reads | objective.loss_reads
  single = jax.process_count() == 1

  def like(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    sharding = devices.sharding(every_process=True)
    return jax.ShapeDtypeStruct((jax.device_count(), *shape), dtype, sharding=sharding)

  batch = {name: like((rows, *x.shape), x.dtype) for name, x in reads.items()}
  shapes = jax.tree.map(lambda x: like(x.shape[1:], x.dtype), arrays)
  asked = None if single else like((), np.int32)

  def needs(rows_per_chunk: int) -> int:
    mapped = program(rows_per_chunk)
    # Among several processes pmap plans for arrays alone, and what is planned is compiled again.
    mapped = mapped if single else devices.as_jit(mapped.__wrapped__)
    given = (shapes[0], batch, *shapes[1:], asked)
    plan = devices.compiled(mapped, *given) if beforehand else mapped.lower(*given).compile()
    return out_of_memory.planned_bytes(plan)

  return needs


def _mapped_step(
  objective: Objective, optimizer: Any, config: ConfigDict, rows_per_chunk: int
) -> Any:
  """The mapped step, which runs of a process that differ in their seeds alone share.

  Tracing and compiling it takes seconds: much, in a study of hundreds of runs.
  """
  deciding = {key: x for key, x in resume.deciding(config).items() if key != "seed"}
  program = repr([deciding, config.model.remat, rows_per_chunk])
  if program not in _mapped_steps:
    if len(_mapped_steps) >= MAX_PROGRAMS:
      del _mapped_steps[next(iter(_mapped_steps))]
    step = make_step(objective, optimizer, config.train, AXIS, rows_per_chunk)

    def mapped(state, batch, constants, seed, asked):
      # Also whether any process is asked to stop; a process by itself passes None.
      stop = None if asked is None else jax.lax.pmax(asked, AXIS)
      return *step(state, batch, constants, seed), stop

    _mapped_steps[program] = jax.pmap(mapped, axis_name=AXIS, donate_argnums=(0,))
  return _mapped_steps[program]


_mapped_steps: dict[str, Any] = {}


def _announce(config: ConfigDict, objective: Objective, state: TrainState, feed: Feed) -> None:
  learned = partition.split(state.params, optimizers.frozen(config.train, objective))[0]
  counts = [sum(x.size for x in jax.tree.leaves(tree)) / 1e6 for tree in (learned, state.params)]
  steps = (int(state.step), config.train.steps)
  text = "train: steps %d to %d of %s on %s, %.3g M of %.3g M parameters learn"
  logging.info(text, *steps, feed.batch, counted(jax.device_count(), "device"), *counts)
