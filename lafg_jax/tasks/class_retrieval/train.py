"""The train stage of class retrieval: hands its objective, batches and meta to the loop."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import datasets, pack, pipeline
from lafg_jax.data.datasets import Dataset
from lafg_jax.models import embedder as embedders
from lafg_jax.models.weights import files
from lafg_jax.tasks.class_retrieval import batches as class_batches
from lafg_jax.tasks.class_retrieval import finishing, objective, protocol, start
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import checkpoints, frozen_features, loop
from lafg_jax.training.best_checkpoint import Validation
from lafg_jax.training.step import Objective
from lafg_jax.utils import config_keys
from lafg_jax.utils.files import fingerprint


def run(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset,
  prototypes: LoadedPrototypes | None,
  val: Dataset | None = None,
) -> tuple[int, bool]:
  """Trains on `dataset` as `loop.run` does, with its result and errors; then `finishing.run`.

  Args:
    config: resolved.
    prototypes: the language base as training reads it; None without words.
    val: images of the validation classes, for train.validate_every and train.interpolate.
  """
  measure = None if val is None else protocol.make_validation(config, val)
  head = start.make_head(config, workdir, dataset)

  def made() -> Objective:
    return objective.build(config, len(dataset.class_names), prototypes, make_head=head)

  step, stopped = loop.run(
    config,
    workdir,
    made,
    make_feed(config, workdir, dataset),
    meta=meta(config, dataset, prototypes),
    kept={"prototypes": prototype_arrays(prototypes)},
    validation=Validation(measure, "val_map@r") if measure else None,
  )
  if not stopped:
    finishing.run(config, workdir, dataset, val, lambda: made().params)
  return step, stopped


def outputs(config: ConfigDict) -> list[str]:
  """What a whole run leaves in its workdir."""
  final = [f"{checkpoints.FINAL}/{config.train.steps}"]
  return loop.outputs(config) + (final if finishing.is_wanted(config) else [])


def make_feed(config: ConfigDict, workdir: str, dataset: Dataset) -> loop.Feed:
  """The class-balanced batches of a data set: images, or features of a frozen backbone."""
  data, plan = config.data, class_batches.plan(dataset, config.data, config.seed)

  def batches(start: int, params: dict[str, Any], stopped: Any) -> Any:
    if config.train.frozen_backbone:
      embedder = embedders.build(config.model)
      cached = frozen_features.features(config, workdir, dataset, embedder, params, stopped)
      return None if cached is None else frozen_features.batches(config, dataset, cached, start)
    shared = loop.share(config, start)
    return pipeline.train_batches(dataset, data, plan, seed=config.seed, **shared)

  def names_in(step: int) -> list[str]:
    of_classes = data.classes_per_batch * data.images_per_class
    return [dataset.ids[row] for row in plan.rows(step - 1).row[:of_classes]]

  return loop.Feed(batches, _batch_in_words(config), dataset.ids, names_in)


def _batch_in_words(config: ConfigDict) -> str:
  data = config.data
  beside = f" and {data.recoloured_per_batch} recoloured" if data.recoloured_per_batch else ""
  return f"{data.classes_per_batch} classes x {data.images_per_class} images{beside}"


def meta(
  config: ConfigDict, dataset: Dataset, prototypes: LoadedPrototypes | None
) -> dict[str, Any]:
  """The JSON that a checkpoint has beside its arrays."""
  of_dataset = {
    "name": dataset.name,
    "fingerprint": datasets.fingerprint(dataset),
    "content": datasets.content_of(dataset),
    "class_names": list(dataset.class_names),
    "partial": dataset.partial,
  }
  words, arrays = None, prototype_arrays(prototypes)
  if prototypes is not None:
    words = fingerprint(prototypes.encoder, arrays | prototypes.teacher_features)
  return {
    "config": config_keys.flatten(config),
    "dataset": of_dataset,
    "made_of": {
      "the training images or classes": fingerprint(of_dataset),
      # A pack may be moved within a run, but not left out, added or made in another size.
      "data.pack": f"with {pack.side(config.data)} px" if config.data.pack else "without",
      "the pretrained weights": files.content_hash(config.model.pretrained),
      "the prototypes": words,
    },
    "box": shared_box(dataset),
    # The descriptions nearest to each row of the vocabulary.
    "sentences": [] if prototypes is None else [list(row) for row in prototypes.sentences],
  }


def shared_box(dataset: Dataset) -> list[float] | None:
  """The box that all images are cut to, and so a retriever's; None where boxes differ."""
  boxes = dataset.boxes
  if boxes is not None and len(boxes) and (boxes == boxes[0]).all():
    return [float(x) for x in boxes[0]]
  return None


def prototype_arrays(prototypes: LoadedPrototypes | None) -> dict[str, np.ndarray]:
  """The arrays of the language base that a checkpoint keeps."""
  names = ("prototypes", "queries", "vocabulary", "mean")
  return {} if prototypes is None else {name: getattr(prototypes, name) for name in names}
