"""Rules between the keys of data, model, train and evaluate, for every task."""

from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config.table import ROWS
from lafg_jax.config.table.data import LAYOUTS, SOURCES
from lafg_jax.models.options import RESNET, SIZES
from lafg_jax.utils.errors import UserError


def missing_data(config: ConfigDict) -> list[str]:
  """What to pass so that the images can be found: flags with what they take."""
  data = config.data
  missing = []
  if data.name in LAYOUTS and not data.root:
    missing.append(f"--config.data.root=FOLDER with {LAYOUTS[data.name]}")
  key, wanted = SOURCES.get(data.name, ("root", ""))
  if wanted and not data[key]:
    missing.append(f"--config.data.{key}={wanted}")
  return missing


def check_data(config: ConfigDict) -> None:
  """Raises UserError for sizes and splits that contradict each other."""
  data = config.data
  if data.resize_size < data.image_size:
    reject("data.resize_size", data.resize_size, "at least data.image_size", data)
  for key in ("train_fraction", "split_seed"):
    if data.test_classes and data[key] != ROWS[f"data.{key}"].default:
      raise UserError(
        f"--config.data.{key}={data[key]}: data.test_classes already says which classes are tested"
      )


def check_model(config: ConfigDict) -> None:
  """Raises UserError for a network that cannot be, or weights that do not go with it."""
  model = config.model
  if model.patch_size and config.data.image_size % model.patch_size:
    raise UserError(
      f"--config.data.image_size={config.data.image_size}: it takes a multiple of "
      f"model.patch_size (now {model.patch_size})"
    )
  if model.size == "custom" and model.width % model.num_heads:
    raise UserError(
      f"--config.model.width={model.width}: it takes a multiple of model.num_heads "
      f"(now {model.num_heads})"
    )
  sizes = (model.width, model.depth, model.num_heads, model.mlp_dim)
  if model.size != "custom" and sizes != SIZES["base"]:
    raise UserError(
      f"--config.model.size={model.size}: width, depth, num_heads and mlp_dim are read only with "
      "--config.model.size=custom"
    )
  if model.conv_stem and model.patch_size & (model.patch_size - 1):
    raise UserError(
      f"--config.model.patch_size={model.patch_size}: with model.conv_stem it takes a power of 2"
    )
  if model.conv_stem and model.size == RESNET:
    raise UserError(f"--config.model.conv_stem: {RESNET} has convolutions; it is for ViTs")


def check_tuning(config: ConfigDict) -> None:
  """Raises UserError about what keeps the backbone fixed: LoRA, prompts, and cached features."""
  model, train = config.model, config.train
  used = {
    f"model.lora_rank={model.lora_rank}": model.lora_rank,
    f"model.num_prompts={model.num_prompts}": model.num_prompts,
    "train.frozen_backbone": train.frozen_backbone,
  }
  names = [name for name, on in used.items() if on]
  if names and not model.pretrained:
    raise UserError(
      f"--config.{names[0]}: it keeps the backbone as it starts, which is random; pass "
      "--config.model.pretrained"
    )
  if not train.frozen_backbone:
    if train.feature_views:
      raise UserError(
        f"--config.train.feature_views={train.feature_views}: it is read only with "
        "--config.train.frozen_backbone=True"
      )
    return
  if len(names) > 1:
    raise UserError(
      f"--config.train.frozen_backbone: its features are computed once, and --config.{names[0]} "
      "would change them; pass one of the two"
    )
  if config.data.pack:
    raise UserError(
      f"--config.data.pack={config.data.pack}: train.frozen_backbone reads the images once, for "
      "its features, and no pack; leave it out"
    )
  if model.pool == "gem" and model.gem_learned:
    raise UserError(
      "--config.train.frozen_backbone: its features are pooled once; pass "
      "--config.model.gem_learned=False, or another model.pool"
    )
  if not model.embedding_dim:
    raise UserError(
      "--config.train.frozen_backbone: without an embedding nothing that retrieves would learn; "
      "pass --config.model.embedding_dim=D"
    )


def check_evaluation(config: ConfigDict) -> None:
  """Raises UserError where what is evaluated, or the classes it is evaluated on, are not there."""
  train, evaluate = config.train, config.evaluate
  if evaluate.source == "pretrained" and not config.model.pretrained:
    raise UserError(
      "--config.evaluate.source=pretrained: no pretrained backbone; pass --config.model.pretrained"
    )
  held_out = config.data.num_val_classes
  for key, value in (
    ("train.validate_every", train.validate_every),
    ("evaluate.split", evaluate.split if evaluate.split == "val" else ""),
  ):
    if value and not held_out:
      why = "no classes are held out; pass --config.data.num_val_classes=V"
      raise UserError(f"--config.{key}={value}: {why}")
  if train.keep_best and not train.validate_every:
    raise UserError("--config.train.keep_best: pass --config.train.validate_every=STEPS too")
  if evaluate.source == "best" and not train.keep_best:
    why = "nothing keeps it; pass --config.train.keep_best=True"
    raise UserError(f"--config.evaluate.source=best: {why}")


def reject(key: str, value: Any, wanted: str, section: ConfigDict) -> None:
  """Raises UserError for a value that another key of its section limits: `wanted` ends in it."""
  other = wanted.rsplit(".", 1)[-1]
  raise UserError(f"--config.{key}={value}: it takes {wanted} (now {section[other]})")
