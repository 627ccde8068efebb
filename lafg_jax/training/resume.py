"""What a checkpoint says of its run, and whether a run may go on from it."""

from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import datasets, pack
from lafg_jax.data.datasets import Dataset
from lafg_jax.models.weights import files
from lafg_jax.tasks.class_retrieval.choices import reads_words
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import checkpoints
from lafg_jax.training.step import TrainState
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint

# Keys that do not change what is learned: a run may go on under other values of these.
FREE_KEYS = ("data.root", "data.num_workers", "data.prefetch", "train.log_every",
             "train.checkpoint_every", "train.keep_checkpoints", "data.expect_counts",
             "data.manifest", "data.builder", "data.test_classes", "data.pack",
             "train.validate_every", "train.keep_best", "train.allow_changed")  # fmt: skip

# What keys meant before they were there, for runs of that time: all ViTs were plain, for one.
BEFORE = {
  "model.options": "",
  "data.max_train_classes": 0,
  "data.instances": False,
  "data.color_jitter": 0.0,
  "data.recoloured_per_batch": 0,
  "data.recolourings": 6,
  "language.prototype": "attention",
  "loss.image_alignment": "none",
  "loss.image_beta": 5.0,
  "loss.image_temperature": 0.1,
  "loss.projector_init": "random",
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
  if not reads_words(config):
    return names
  return [*names, "language.centre", "language.shuffle", "language.prototype"]


def changes(config: ConfigDict, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """What decides a run and differs between the meta of two checkpoints, each in a few words."""
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
  return changed


def check_same(config: ConfigDict, old: dict[str, Any], new: dict[str, Any], workdir: str) -> None:
  """Raises UserError where something has changed and train.allow_changed is off."""
  changed = changes(config, old, new)
  if changed and not config.train.allow_changed:
    raise UserError(
      f"{checkpoints.folder(workdir)} was trained with another config ({'; '.join(changed)}): "
      "pass another --workdir, delete that folder to start anew, or go on all the same with "
      "--config.train.allow_changed=True"
    )
  if changed:
    logging.warning("train: going on under another config: %s", "; ".join(changed))


def restore(state: TrainState, arrays: checkpoints.Arrays, meta: dict[str, Any]) -> TrainState:
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


def meta(
  config: ConfigDict, dataset: Dataset, prototypes: LoadedPrototypes | None
) -> dict[str, Any]:
  """What a checkpoint says of itself beside its arrays; JSON."""
  return {
    "config": config_keys.flatten(config),
    "dataset": {
      "name": dataset.name,
      "fingerprint": datasets.fingerprint(dataset),
      "content": datasets.content_of(dataset),
      "class_names": list(dataset.class_names),
      "partial": dataset.partial,
    }
    # Where a pack lies may change within a run; whether there is one, and of what size, may not.
    | ({"packed": pack.side(config.data)} if config.data.pack else {}),
    "box": shared_box(dataset),
    "pretrained": _weights_hash(config.model.pretrained),
    "prototypes": None
    if prototypes is None
    else {
      "encoder": prototypes.encoder,
      "fingerprint": fingerprint(prototype_arrays(prototypes) | prototypes.readings),
    },
    # What the rows of the vocabulary are, for people.
    "sentences": [] if prototypes is None else [list(row) for row in prototypes.sentences],
  }


def _weights_hash(source: str) -> str | None:
  """Of the files of pretrained weights; None without, and for what a hub or a URL keeps."""
  if files.local(source) is None:
    return None
  return fingerprint([Path(path) for path in files.find(source)])


def shared_box(dataset: Dataset) -> list[float] | None:
  """What of each image is shown, where that is the same for all: what a retriever cuts by."""
  boxes = dataset.boxes
  if boxes is None or not len(boxes) or (boxes != boxes[0]).any():
    return None
  return [float(x) for x in boxes[0]]


def prototype_arrays(prototypes: LoadedPrototypes | None) -> dict[str, np.ndarray]:
  names = ("prototypes", "queries", "vocabulary", "mean")
  return {} if prototypes is None else {name: getattr(prototypes, name) for name in names}
