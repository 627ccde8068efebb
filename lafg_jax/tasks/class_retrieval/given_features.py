"""Training on features that are given, data.name=features: what it excludes, and their width."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from lafg_jax.config.table import ROWS
from lafg_jax.config.table.data import FEATURES
from lafg_jax.models.options import GIVEN
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

# Keys about pixels, which nobody reads here.
_OF_IMAGES = (
  "root expect_counts box_crop image_size resize_size pad ground train_crop crop_scale crop_ratio "
  "flip color_jitter scaled_decoding pack num_workers recoloured_per_batch"
).split()


def are(config: ConfigDict) -> bool:
  """Whether the config trains on features that are given."""
  return config.data.name == FEATURES


def check(config: ConfigDict) -> None:
  """Raises UserError for the first key that takes an image, or a backbone, where there is none."""
  data, model, train = config.data, config.model, config.train
  if are(config) != (model.size == GIVEN):
    raise UserError(
      f"--config.data.name={data.name} with --config.model.size={model.size}: vectors of "
      f"data.name={FEATURES} go with model.size={GIVEN}, and images with a backbone; "
      "configs/features.py has both"
    )
  if not are(config):
    return
  for name in _OF_IMAGES:
    if data[name] != ROWS[f"data.{name}"].default:
      raise UserError(
        f"--config.data.{name}={data[name]}: data.name={FEATURES} has no image; leave it out"
      )
  given = "the features are given"
  an_image, head = "it takes an image", "nothing else would learn"
  for key, clash, why, remedy in (
    ("model.pretrained", model.pretrained, given, ""),
    ("model.lora_rank", model.lora_rank, given, "0"),
    ("model.num_prompts", model.num_prompts, given, "0"),
    ("train.layer_decay", train.layer_decay != 1, "there are no layers below the head", "1"),
    ("train.frozen_backbone", train.frozen_backbone, given, "False"),
    ("model.embedding_dim", not model.embedding_dim, head, "D, the width of the head"),
    ("data.instances", data.instances, "two crops of an image need one", "False"),
    ("loss.image_alignment", config.loss.image_alignment != "none", an_image, "none"),
    ("language.query", config.language.query == "image", an_image, "template"),
    ("language.prototype", config.language.prototype == "images", an_image, "attention"),
  ):
    if clash:
      raise UserError(
        f"--config.{key}={config_keys.get(config, key)}: data.name={FEATURES}, {why}; pass "
        f"--config.{key}={remedy}"
      )


def check_stages(config: ConfigDict, names: Sequence[str]) -> None:
  """Raises UserError for a stage that looks at images."""
  if are(config) and "data" in names:
    raise UserError(
      f"--stage=data looks at images, and data.name={FEATURES} has none: whatever reads the file "
      "checks its numbers"
    )


def sized(config: ConfigDict) -> ConfigDict:
  """A copy of a whole config with the width of the features, and 'auto' of it; of images, as it is.

  Raises UserError where the file cannot be read.
  """
  config = config.copy_and_resolve_references()
  if are(config):
    from lafg_jax.data import datasets, vectors

    with config.unlocked():
      config.model.width = vectors.width(datasets.load_splits(config.data, ("train",))["train"])
    if config.model.embedding_dim == -1:
      config.model.embedding_dim = config.model.width
  return config
