"""Training: the loop with the one jax.pmap, signals, and when a run may go on."""

import collections
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax import checkpoints, frozen, optimizers, stages
from lafg_jax import config as config_keys
from lafg_jax.data import pack, pipeline
from lafg_jax.data.datasets import Dataset, content_of, fingerprint
from lafg_jax.data.prototypes import LoadedPrototypes
from lafg_jax.devices import AXIS, replicate, to_devices, unreplicate
from lafg_jax.errors import UserError
from lafg_jax.metrics_log import MetricsLog
from lafg_jax.models import weight_files
from lafg_jax.models.embedder import Embedder
from lafg_jax.train_step import TrainState, alignment_targets, init_state, make_step
from lafg_jax.validation import WORDLESS

MAX_IN_FLIGHT = 2
# Compiled steps that a process keeps.
MAX_PROGRAMS = 16
# Keys that do not change what is learned: a run may go on under other values of these.
FREE_KEYS = ("data.root", "data.num_workers", "data.prefetch", "train.log_every",
             "train.checkpoint_every", "train.keep_checkpoints", "data.expect_counts",
             "data.manifest", "data.builder", "data.test_classes", "data.pack")  # fmt: skip


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
  return [*names, "language.centre", "language.shuffle", "language.prototype"]


class _StopRequest:
  """Becomes true at the first SIGTERM or SIGINT; the second has its usual effect."""

  def __init__(self) -> None:
    self.asked = False
    self.previous: dict[int, Any] = {}

  def __enter__(self) -> "_StopRequest":
    for number in (signal.SIGTERM, signal.SIGINT):
      self.previous[number] = signal.signal(number, self._ask)
    return self

  def _ask(self, number: int, frame: Any) -> None:
    logging.info("%s: saving and leaving", signal.Signals(number).name)
    self.asked = True
    signal.signal(number, self.previous[number])

  def __exit__(self, *unused) -> None:
    for number, handler in self.previous.items():
      signal.signal(number, handler)


def run(
  config: ConfigDict, workdir: str, dataset: Dataset, prototypes: LoadedPrototypes | None
) -> tuple[int, bool]:
  """Trains to `train.steps`, from the newest checkpoint when there is one.

  Returns:
    The step reached, and whether SIGTERM or SIGINT asked to stop there; it is saved either way.

  Raises:
    UserError: another config trained this workdir, or the loss is no longer finite.
  """
  num_classes, words = len(dataset.class_names), _prototype_arrays(prototypes)
  meta = _meta(config, dataset, prototypes)
  found = checkpoints.latest(workdir, set_aside=True)
  if found is not None:
    _check_same(config, found[1], meta, workdir)
  step = found[1]["step"] if found else 0
  if step >= config.train.steps:
    logging.info("train: already at step %d", step)
    return step, False
  text_dim = words["prototypes"].shape[1] if words else None
  embedder, optimizer, state = init_state(config, num_classes, text_dim)
  if found is not None:
    state = _restore(state, *found)
  _announce(config, state)
  batches = _batches(config, workdir, dataset, embedder, state)
  state = replicate(state)
  targets = replicate(alignment_targets(config, num_classes, prototypes))
  mapped = _mapped_step(embedder, optimizer, config)
  in_flight: collections.deque = collections.deque()
  with (
    # Outermost: a signal must not end the wait for the last, asynchronous save.
    _StopRequest() as stop,
    contextlib.closing(batches),
    checkpoints.manager(workdir, config.train.keep_checkpoints) as mngr,
    MetricsLog(workdir, step, config) as log,
  ):
    for host, batch in to_devices(batches):
      log.unreadable(host["unreadable"], dataset)
      state, metrics = mapped(state, batch, targets)
      step += 1
      in_flight.append(metrics["loss"])
      if len(in_flight) > MAX_IN_FLIGHT:
        # Two steps back is done or nearly so: this bounds memory without stalling the device.
        jax.block_until_ready(in_flight.popleft())
      last = step == config.train.steps or stop.asked
      if step % config.train.log_every == 0 or last:
        log.write(step, metrics)
      if step % config.train.checkpoint_every == 0 or last:
        log.check_finite(step, metrics)
        arrays = {"state": unreplicate(state), "prototypes": words}
        checkpoints.save(mngr, step, checkpoints.flatten(arrays), meta)
      if last:
        break
  return step, stop.asked


def _mapped_step(embedder: Embedder, optimizer: Any, config: ConfigDict) -> Any:
  """The mapped step: one for all runs of a process whose seeds alone differ.

  Tracing and compiling it takes seconds, which a study of hundreds of runs would pay each time.
  """
  program = repr(
    [(key, config_keys.get(config, key)) for key in deciding_keys(config) if key != "seed"]
  )
  if program not in _mapped_steps:
    while len(_mapped_steps) >= MAX_PROGRAMS:
      del _mapped_steps[next(iter(_mapped_steps))]
    _mapped_steps[program] = jax.pmap(
      make_step(embedder, optimizer, config, AXIS), axis_name=AXIS, donate_argnums=(0,)
    )
  return _mapped_steps[program]


_mapped_steps: dict[str, Any] = {}


def _batches(
  config: ConfigDict, workdir: str, dataset: Dataset, embedder: Embedder, state: TrainState
) -> Any:
  start = int(state.step)
  if config.train.frozen_backbone:
    cached = frozen.features(config, workdir, dataset, embedder, state.params)
    return frozen.batches(config, dataset, cached, start)
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


def _check_same(config: ConfigDict, old: dict[str, Any], new: dict[str, Any], workdir: str) -> None:
  # Runs from before these were keys are of plain ViTs, of all classes, and of T_c.
  before = {
    "model.options": "",
    "data.max_train_classes": 0,
    "language.prototype": "attention",
  } | old["config"]
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
  if changed:
    raise UserError(
      f"{checkpoints.folder(workdir)} was trained with another config ({'; '.join(changed)}): "
      "pass another --workdir, or delete that folder to start anew"
    )


def _restore(state: TrainState, arrays: checkpoints.Arrays, meta: dict[str, Any]) -> TrainState:
  logging.info("train: going on from the checkpoint of step %d", meta["step"])
  inner = {p.removeprefix("state/"): x for p, x in arrays.items() if p.startswith("state/")}
  return checkpoints.unflatten_like(state, inner)


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
