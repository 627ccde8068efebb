"""Checks before a run of class retrieval starts, of what would stop it after hours."""

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import rules
from lafg_jax.config.table.data import OWN
from lafg_jax.data import datasets, matches
from lafg_jax.models import embedder, heads
from lafg_jax.tasks.class_retrieval import batches, objective
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError


def names(config: ConfigDict) -> None:
  """Raises UserError where classes without names need language.query=image."""
  if config.language.query != "image" and datasets.super_classes(config.data) is not None:
    raise UserError(
      f"--config.language.query={config.language.query}: the classes of data.name="
      f"{config.data.name} have no names of their own; pass --config.language.query=image"
    )


def batch(config: ConfigDict) -> None:
  """Raises UserError where there are too few classes or images for a batch."""
  data = config.data
  available = len(datasets.class_splits(data)["train"])
  if available < 2:
    raise UserError(
      f"{data.root or data.name} has {counted(available, 'training class')}, and two are needed: "
      "does --config.data.root point at the right folder?"
    )
  if data.classes_per_batch > available and not data.instances:
    raise UserError(
      f"--config.data.classes_per_batch={data.classes_per_batch}: only "
      f"{counted(available, 'training class')}; pass {available} or less"
    )
  if data.recoloured_per_batch:
    batches.check_recoloured(datasets.num_images(data, "train"), data.recoloured_per_batch)


def leaves_no_test(config: ConfigDict) -> bool:
  """Whether one's own images all belong to training, so that nothing is left to evaluate on."""
  splits = datasets.class_splits(config.data)
  return config.data.name in OWN and config.evaluate.split == "test" and not splits["test"]


def evaluated(config: ConfigDict, trains: bool) -> None:
  """Raises UserError where the classes of evaluate.split cannot be evaluated.

  With `trains`, also where every figure would be 100 by chance: without a training that is said
  beside the figures.
  """
  data, split = config.data, config.evaluate.split
  only = ", or --stage=train to only train" if trains else ""
  if not datasets.class_splits(data)[split]:
    remedy = f"data.name={data.name} has none here; complete it"
    if data.train_fraction == 1:
      remedy = (
        "pass --config.data.train_fraction below 1 (now 1.0), --config.data.test_classes=FILE"
      )
    raise UserError(f"no class is left for evaluate.split={split}: {remedy}{only}")
  _measurable(config, split, f"evaluate.split={split}", trains, only)
  found = matches.of(datasets.load_splits(data, (split,))[split])
  if found.without_match:
    logging.warning(
      "evaluate.split=%s: %s of %s left out, having no other image to be found by (classes %s)",
      *(split, f"{found.without_match:,}", counted(found.queries, "query")),
      shorten(found.alone),
    )
  if large := [k for k in config.evaluate.ks if k >= found.gallery]:
    logging.warning(
      "evaluate.ks=%s: a query has only %s to find, so that recall@%d is 100 whatever the model",
      *(tuple(config.evaluate.ks), counted(found.gallery, "image"), large[0]),
    )


def validated(config: ConfigDict) -> None:
  """Raises UserError where nothing could be measured on the classes of validation."""
  train, asks = config.train, config.train.interpolate == -1
  if (asks or train.validate_every) and "val" in datasets.class_splits(config.data):
    setting = "train.interpolate=auto" if asks else f"train.validate_every={train.validate_every}"
    _measurable(config, "val", setting, True, ", or leave it out")


def _measurable(config: ConfigDict, split: str, setting: str, trains: bool, only: str) -> None:
  """Raises UserError where no query of a split has a match, or where nothing else can be found."""
  dataset = datasets.load_splits(config.data, (split,))[split]
  found = matches.of(dataset)
  more = "data.num_val_classes" if split == "val" and not dataset.val_classes else ""
  remedy = f"pass more of --config.{more}" if more else "add images, or change the split"
  if why := matches.nothing_to_measure(dataset, found):
    raise UserError(f"--config.{setting}: {why}: {remedy}{only}")
  if found.all_match and trains:
    raise UserError(
      f"--config.{setting}: {matches.split_of(dataset)} has one class to find, so that every "
      f"figure is 100 whatever the model: it takes two; {remedy}{only}"
    )
  if not matches.any_readable(dataset):
    raise UserError(
      f"--config.{setting}: of {matches.split_of(dataset)} no two images of a class can be read, "
      f"such as {dataset.ids[0]}: --stage=data lists them and says why{only}"
    )


def parameters(config: ConfigDict) -> None:
  """Raises UserError where the model cannot be made, or paths of parameters find none.

  The config is resolved: what a family cannot have shows now, when its weights are known.
  """
  rules.check_tuning(config)
  network, model = embedder.build(config.model), config.model
  if model.embedding_dim:
    heads.check(model.head_init, model.embedding_dim, network.backbone.width)
  if config.train.freeze or config.model.lora_rank:
    objective.check_paths(config)
