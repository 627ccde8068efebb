"""Checks before a run of class retrieval starts, of what would stop it after hours."""

from ml_collections import ConfigDict

from lafg_jax.config.table.data import OWN
from lafg_jax.data import datasets
from lafg_jax.models import embedder
from lafg_jax.tasks.class_retrieval import batches, objective
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
      f"{data.root or data.name} has {available} training classes, and two are needed to compare: "
      "does --config.data.root point at the right folder?"
    )
  if data.classes_per_batch > available and not data.instances:
    raise UserError(
      f"--config.data.classes_per_batch={data.classes_per_batch}: only {available} training "
      f"classes are available; pass {available} or less"
    )
  if data.recoloured_per_batch:
    batches.check_recoloured(datasets.num_images(data, "train"), data.recoloured_per_batch)


def leaves_no_test(config: ConfigDict) -> bool:
  """Whether one's own images all belong to training, so that nothing is left to evaluate on."""
  splits = datasets.class_splits(config.data)
  return config.data.name in OWN and config.evaluate.split == "test" and not splits["test"]


def evaluated(config: ConfigDict) -> None:
  """Raises UserError where no classes are left to evaluate on."""
  data, split = config.data, config.evaluate.split
  if datasets.class_splits(data)[split]:
    return
  remedy = f"data.name={data.name} has none here; complete it"
  if data.train_fraction == 1:
    remedy = "pass --config.data.train_fraction below 1 (now 1.0), --config.data.test_classes=FILE"
  raise UserError(
    f"no class is left for evaluate.split={split}: {remedy}, or --stage=train to only train"
  )


def parameters(config: ConfigDict) -> None:
  """Raises UserError where the model cannot be made, or paths of parameters find none."""
  embedder.build(config.model)
  if config.train.freeze or config.model.lora_rank:
    objective.check_paths(config)
