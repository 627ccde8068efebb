"""Training: the loop with the one jax.pmap, signals, and when a run may go on."""

import collections
import contextlib
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import logging
from ml_collections import ConfigDict

from lafg_jax import checkpoints, distributed, frozen, optimizers, out_of_memory, stages
from lafg_jax import config as config_keys
from lafg_jax.data import pack, pipeline
from lafg_jax.data.datasets import Dataset, content_of, fingerprint
from lafg_jax.data.prototypes import LoadedPrototypes
from lafg_jax.devices import AXIS, replicate, to_devices, unreplicate
from lafg_jax.errors import UserError
from lafg_jax.metrics_log import MetricsLog
from lafg_jax.models import weight_files
from lafg_jax.models.embedder import Embedder
from lafg_jax.selection import Selection, open_selection
from lafg_jax.train_step import TrainState, alignment_targets, init_state, make_step
from lafg_jax.validation import WORDLESS

MAX_IN_FLIGHT = 2
# Keys that do not change what is learned: a run may go on under other values of these.
FREE_KEYS = ("data.root", "data.num_workers", "data.prefetch", "train.log_every",
             "train.checkpoint_every", "train.keep_checkpoints", "data.expect_counts",
             "data.manifest", "data.builder", "data.test_classes", "data.pack",
             "train.validate_every", "train.keep_best", "train.allow_changed")  # fmt: skip

# What keys meant before they were there, for runs of that time: all ViTs were plain, for one.
BEFORE = {
  "model.options": "",
  "loss.auxiliary": "pairwise",
  "loss.proxy_alpha": 32.0,
  "loss.proxy_margin": 0.1,
  "loss.proxy_lr_factor": 100.0,
}


def deciding_keys(config: ConfigDict) -> list[str]:
  """The keys that decide what is learned.

  Of `language` only what happens when prototypes are loaded: the rest is in their fingerprint.
  """
  names = [
    k
    for k in config_keys.keys(config)
    if (k == "seed" or k.startswith(("data.", "model.", "loss.", "train."))) and k not in FREE_KEYS
  ]
  if config.loss.alignment in WORDLESS:
    return names
  return [*names, "language.centre", "language.shuffle"]


class _StopRequest:
  """Becomes true at the first SIGTERM or SIGINT; the second has its usual effect.

  Several processes stop at one and the same step whichever is asked: each sends its `flag` through
  the mapped step, and all hear of it when they look at that step's results.
  """

  def __init__(self) -> None:
    self.asked = self.told = False
    self.previous: dict[int, Any] = {}

  @property
  def agreed(self) -> bool:
    """Whether all processes stop here."""
    return self.asked if jax.process_count() == 1 else self.told

  def flag(self) -> jax.Array | None:
    """What this process sends, [devices] int32; None where there is no other."""
    return None if jax.process_count() == 1 else _on_devices(int(self.asked))

  def heard(self, loss: jax.Array, flag: jax.Array | None) -> None:
    """Reads what all processes have sent."""
    del loss
    if flag is not None:
      self.told = bool(np.asarray(flag.addressable_data(0)).any())

  def __enter__(self) -> "_StopRequest":
    for number in (signal.SIGTERM, signal.SIGINT):
      self.previous[number] = signal.signal(number, self._ask)
    return self

  def _ask(self, number: int, frame: Any) -> None:
    logging.info("%s: saving and leaving", signal.Signals(number).name)
    self.asked = True
    # Of both: whoever sends the other one next wants out as well.
    self._restore()

  def _restore(self) -> None:
    for number, handler in self.previous.items():
      signal.signal(number, handler)

  def __exit__(self, *unused) -> None:
    self._restore()


@functools.cache
def _on_devices(flag: int) -> jax.Array:
  # Kept: to send it anew with every step would cost more than the step's share of it.
  return replicate(np.int32(flag))


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
  with _StopRequest() as stop, out_of_memory.told(config, None):
    return _run(config, workdir, dataset, prototypes, val, stop)


def _run(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset,
  prototypes: LoadedPrototypes | None,
  val: Dataset | None,
  stop: _StopRequest,
) -> tuple[int, bool]:
  num_classes, words = len(dataset.class_names), _prototype_arrays(prototypes)
  meta = _meta(config, dataset, prototypes)
  found = checkpoints.shared(workdir, set_aside=True)
  changed = found is not None and _check_same(config, found[1], meta, workdir)
  step = found[1]["step"] if found else 0
  if step >= config.train.steps:
    logging.info("train: already at step %d", step)
    return step, False
  text_dim = words["prototypes"].shape[1] if words else None
  embedder, optimizer, state = init_state(config, num_classes, text_dim)
  if found is not None:
    state = _restore(state, *found)
  _announce(config, state)
  batches = _batches(config, workdir, dataset, embedder, state, stop)
  if batches is None or (stop.asked and jax.process_count() == 1):
    # No step was made that is not saved. Several processes agree on that after a step.
    return step, True
  state = replicate(state)
  targets = replicate(alignment_targets(config, num_classes, prototypes))
  mapped = jax.pmap(
    _with_stop(make_step(embedder, optimizer, config, AXIS)), axis_name=AXIS, donate_argnums=(0,)
  )
  in_flight: collections.deque = collections.deque()
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, targets))
  step_bytes = functools.partial(_step_bytes, embedder, optimizer, config, *shapes)
  with (
    out_of_memory.told(config, step_bytes),
    distributed.stepping(),
    contextlib.closing(batches),
    checkpoints.manager(workdir, config.train.keep_checkpoints) as mngr,
    open_selection(config, workdir, val, embedder, changed) as selection,
    MetricsLog(workdir, step, config, dataset) as log,
  ):
    for host, batch in to_devices(batches):
      log.unreadable(host["unreadable"])
      state, metrics, asked = mapped(state, batch, targets, stop.flag())
      step += 1
      log.watch(step, metrics)
      in_flight.append((metrics["loss"], asked))
      if len(in_flight) > MAX_IN_FLIGHT:
        # Two steps back is done or nearly so: this bounds memory without stalling the device.
        stop.heard(*jax.block_until_ready(in_flight.popleft()))
        distributed.beat(step)
      last = step == config.train.steps or stop.agreed
      if step % config.train.log_every == 0 or last:
        log.write(step, metrics)
      saves = step % config.train.checkpoint_every == 0 or last
      validates = selection is not None and selection.is_due(step)
      if saves or validates:
        log.check_finite(step, metrics)
        kept = {"state": unreplicate(state), "prototypes": words}
        _keep(step, kept, meta, mngr if saves else None, selection if validates else None, log)
      if last:
        break
  return step, stop.agreed


def _keep(
  step: int,
  kept: dict[str, Any],
  meta: dict[str, Any],
  mngr: Any,
  selection: Selection | None,
  log: MetricsLog,
) -> None:
  """Validates, keeps the best and saves, each where it is given."""
  arrays = checkpoints.flatten(kept)
  if selection is not None:
    measured = selection.measure(kept["state"].params)
    log.validated(step, measured)
    selection.keep(step, measured, arrays, meta)
  checkpoints.save(mngr, step, arrays, meta)


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
  rows = -(-classes * data.images_per_class // jax.device_count())
  shapes: dict[str, Any] = {"image": ((data.image_size, data.image_size, 3), np.uint8)}
  if config.train.frozen_backbone:
    shapes = {"feature": ((embedder.backbone.width,), np.float32)}
  shapes["label"] = ((), np.int32)
  batch = {k: jax.ShapeDtypeStruct((local, rows, *s), t) for k, (s, t) in shapes.items()}
  mapped = jax.pmap(
    make_step(embedder, optimizer, config, AXIS), axis_name=AXIS, donate_argnums=(0,)
  )
  return out_of_memory.planned_bytes(mapped.lower(state, batch, targets).compile())


def _batches(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset,
  embedder: Embedder,
  state: TrainState,
  stop: _StopRequest,
) -> Any:
  """The batches that are left, or None where the making of features was stopped."""
  start = int(state.step)
  if config.train.frozen_backbone:
    stopped = lambda: stop.asked and jax.process_count() == 1  # noqa: E731
    cached = frozen.features(config, workdir, dataset, embedder, state.params, stopped)
    return None if cached is None else frozen.batches(config, dataset, cached, start)
  return pipeline.train_batches(
    dataset,
    config.data,
    seed=config.seed,
    start_step=start,
    num_steps=config.train.steps - start,
    num_devices=jax.device_count(),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def _announce(config: ConfigDict, state: TrainState) -> None:
  learned = optimizers.split(config, state.params)[0]
  counts = [sum(x.size for x in jax.tree.leaves(tree)) / 1e6 for tree in (learned, state.params)]
  logging.info(
    "train: steps %d to %d of %d x %d images on %d devices, %.3g M of %.3g M parameters learn",
    int(state.step),
    config.train.steps,
    config.data.classes_per_batch,
    config.data.images_per_class,
    jax.device_count(),
    *counts,
  )


def _check_same(config: ConfigDict, old: dict[str, Any], new: dict[str, Any], workdir: str) -> bool:
  """False; True where something has changed and train.allow_changed lets the run go on."""
  before = BEFORE | old["config"]
  changed = config_keys.differences(deciding_keys(config), before, new["config"])
  packs = ["with" if "packed" in x["dataset"] else "without" for x in (old, new)]
  if packs[0] != packs[1]:
    changed.append(f"data.pack: {' -> '.join(packs)}")
  # What a checkpoint from before such a key says nothing of does not stop its run.
  if any(old["dataset"][k] != new["dataset"][k] for k in old["dataset"].keys() & new["dataset"]):
    changed.append("the training images or classes")
  if "pretrained" in old and old["pretrained"] != new["pretrained"]:
    changed.append("the pretrained weights")
  if old["prototypes"] != new["prototypes"]:
    changed.append("the prototypes")
  if changed and not config.train.allow_changed:
    raise UserError(
      f"{checkpoints.folder(workdir)} was trained with another config ({'; '.join(changed)}): "
      "pass another --workdir, delete that folder to start anew, or go on all the same with "
      "--config.train.allow_changed=True"
    )
  if changed:
    logging.warning("train: going on under another config: %s", "; ".join(changed))
  return bool(changed)


def _restore(state: TrainState, arrays: checkpoints.Arrays, meta: dict[str, Any]) -> TrainState:
  logging.info("train: going on from the checkpoint of step %d", meta["step"])
  inner = {p.removeprefix("state/"): x for p, x in arrays.items() if p.startswith("state/")}
  try:
    return checkpoints.unflatten_like(state, inner)
  except ValueError as error:
    first, *more = str(error).split("; ")
    rest = f" and {len(more)} more" if more else ""
    raise UserError(
      f"the checkpoint of step {meta['step']} cannot go on under this config ({first}{rest}): pass "
      "the config it was trained with, or another --workdir"
    ) from error


def _meta(
  config: ConfigDict, dataset: Dataset, prototypes: LoadedPrototypes | None
) -> dict[str, Any]:
  """What a checkpoint says of itself beside its arrays; JSON."""
  return {
    "config": config_keys.flatten(config),
    "dataset": {
      "name": dataset.name,
      "fingerprint": fingerprint(dataset),
      "content": content_of(dataset),
      "class_names": list(dataset.class_names),
      "partial": dataset.partial,
    }
    # Where a pack lies may change within a run; whether there is one, and of what size, may not.
    | ({"packed": pack.side(config.data)} if config.data.pack else {}),
    "box": _shared_box(dataset),
    "pretrained": _weights_hash(config.model.pretrained),
    "prototypes": None
    if prototypes is None
    else {
      "encoder": prototypes.encoder,
      "fingerprint": stages.fingerprint(_prototype_arrays(prototypes)),
    },
    # What the rows of the vocabulary are, for people.
    "sentences": [] if prototypes is None else [list(row) for row in prototypes.sentences],
  }


def _weights_hash(source: str) -> str | None:
  """Of the files of pretrained weights; None without, and for what a hub or a URL keeps."""
  if not source or not os.path.exists(source):
    return None
  return stages.fingerprint([Path(path) for path in weight_files.find(source)])


def _shared_box(dataset: Dataset) -> list[float] | None:
  """What of each image is shown, where that is the same for all: what a retriever cuts by."""
  boxes = dataset.boxes
  if boxes is None or not len(boxes) or (boxes != boxes[0]).any():
    return None
  return [float(x) for x in boxes[0]]


def _prototype_arrays(prototypes: LoadedPrototypes | None) -> dict[str, np.ndarray]:
  names = ("prototypes", "queries", "vocabulary", "mean")
  return {} if prototypes is None else {name: getattr(prototypes, name) for name in names}
