"""Rules between the keys of data, model, train and evaluate, for every task.

Each `check_...` raises UserError for the first rule that a config breaks.
"""

from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config.table import ROWS
from lafg_jax.config.table.data import LAYOUTS, SOURCES
from lafg_jax.models.options import GIVEN, RESNET, SIZES
from lafg_jax.utils.errors import UserError


def missing_data(config: ConfigDict) -> list[str]:
  """The flags to pass so that the images can be found, each with what it takes."""
  data = config.data
  missing = []
  if data.name in LAYOUTS and not data.root:
    missing.append(f"--config.data.root=FOLDER with {LAYOUTS[data.name]}")
  key, wanted = SOURCES.get(data.name, ("root", ""))
  if wanted and not data[key]:
    missing.append(f"--config.data.{key}={wanted}")
  return missing


def check_data(config: ConfigDict) -> None:
  """Sizes and splits must not contradict each other."""
  data = config.data
  if data.resize_size < data.image_size:
    reject("data.resize_size", data.resize_size, "at least data.image_size", data)
  for key in ("train_fraction", "split_seed"):
    twice = data.test_classes and data[key] != ROWS[f"data.{key}"].default
    why = "data.test_classes already says which classes are tested"
    _refuse(twice, f"data.{key}={data[key]}", why)


def check_model(config: ConfigDict) -> None:
  """The network must be possible, and fit its weights."""
  model, side = config.model, config.data.image_size
  why = f"it takes a multiple of model.patch_size (now {model.patch_size})"
  _refuse(model.patch_size and side % model.patch_size, f"data.image_size={side}", why)
  if model.size == "custom" and model.width % model.num_heads:
    reject("model.width", model.width, "a multiple of model.num_heads", model)
  sizes = (model.width, model.depth, model.num_heads, model.mlp_dim)
  why = "width, depth, num_heads and mlp_dim are read only with --config.model.size=custom"
  _refuse(model.size != "custom" and sizes != SIZES["base"], f"model.size={model.size}", why)
  odd = model.conv_stem and model.patch_size & (model.patch_size - 1)
  _refuse(odd, f"model.patch_size={model.patch_size}", "with model.conv_stem it takes a power of 2")
  head = model.head_init != "random" and not model.embedding_dim
  why = "without an embedding the features are it already; leave it out, or pass embedding_dim"
  _refuse(head, f"model.head_init={model.head_init}", why)
  resnet = model.conv_stem and model.size == RESNET
  _refuse(resnet, "model.conv_stem", f"{RESNET} has convolutions; it is for ViTs")


def check_tuning(config: ConfigDict) -> None:
  """What keeps the backbone fixed, LoRA, prompts or cached features, must fit the other keys."""
  model, train, frozen = config.model, config.train, "train.frozen_backbone"
  used = {
    f"model.lora_rank={model.lora_rank}": model.lora_rank,
    f"model.num_prompts={model.num_prompts}": model.num_prompts,
    frozen: train.frozen_backbone,
  }
  names = [name for name, on in used.items() if on]
  _check_start(config, names)
  why = "it keeps the backbone as it starts, which is random; pass --config.model.pretrained"
  _refuse(names and not model.pretrained, names[0] if names else "", why)
  if not train.frozen_backbone:
    why = "it is read only with --config.train.frozen_backbone=True"
    _refuse(train.feature_views, f"train.feature_views={train.feature_views}", why)
    return
  why = f"its features are computed once, and --config.{names[0]} would change them; pass one of"
  _refuse(len(names) > 1, frozen, f"{why} the two")
  why = "train.frozen_backbone reads the images once, for its features, and no pack; leave it out"
  _refuse(config.data.pack, f"data.pack={config.data.pack}", why)
  why = "its features are pooled once; pass --config.model.gem_learned=False, or another model.pool"
  _refuse(model.pool == "gem" and model.gem_learned, frozen, why)
  why = (
    "without an embedding nothing that retrieves would learn; pass --config.model.embedding_dim=D"
  )
  _refuse(not model.embedding_dim, frozen, why)


def _check_start(config: ConfigDict, fixed: list[str]) -> None:
  """What goes by layers or by distances to the start must find any; `fixed` keep the backbone."""
  model, train, loss = config.model, config.train, config.loss
  decay = f"train.layer_decay={train.layer_decay}"
  why = f"{RESNET} has no blocks of a ViT; leave it at 1"
  _refuse(train.layer_decay != 1 and model.size == RESNET, decay, why)
  # LoRA's updates are of blocks.
  learns = not fixed or fixed == [f"model.lora_rank={model.lora_rank}"]
  why = f"{fixed[-1] if fixed else ''} keeps the backbone, which learns nothing; leave it at 1"
  _refuse(train.layer_decay != 1 and not learns, decay, why)
  random = not model.embedding_dim or model.head_init == "random"
  why = (
    f"{fixed[0] if fixed else ''} keeps the backbone already, and the head has no start worth "
    "keeping; pass 0, or another model.head_init"
  )
  _refuse(
    loss.start_distance and fixed and random, f"loss.start_distance={loss.start_distance}", why
  )


def check_alone(config: ConfigDict) -> None:
  """Raises UserError for keys of `train` that class retrieval alone reads."""
  for name in ("layer_decay", "ema", "interpolate"):
    default = ROWS[f"train.{name}"].default
    why = f"task={config.task} does not read it; leave it at {default:g}"
    _refuse(config.train[name] != default, f"train.{name}={config.train[name]}", why)


def check_evaluation(config: ConfigDict) -> None:
  """What is evaluated, and the classes for it, must exist."""
  train, evaluate, unheld = config.train, config.evaluate, not config.data.num_val_classes
  source = f"evaluate.source={evaluate.source}"
  why = "no pretrained backbone; pass --config.model.pretrained"
  bare = not config.model.pretrained and config.model.size != GIVEN
  _refuse(evaluate.source == "pretrained" and bare, source, why)
  why = "no classes are held out; pass --config.data.num_val_classes=V"
  validated = f"train.validate_every={train.validate_every}"
  _refuse(train.validate_every and unheld, validated, why)
  _refuse(evaluate.split == "val" and unheld, "evaluate.split=val", why)
  _refuse(train.interpolate == -1 and unheld, "train.interpolate=auto", why)
  later = "train.interpolate" if train.interpolate != 1 else "model.centre"
  later = later if train.interpolate != 1 or config.model.centre else ""
  why = f"{later} makes its weights of the last step; pass one of the two"
  _refuse(train.keep_best and later, "train.keep_best", why)
  check_best(config)


def check_best(config: ConfigDict, trains: bool = True) -> None:
  """The best checkpoint must be measured to be kept, and kept to be evaluated; not without any."""
  train, source = config.train, config.evaluate.source
  why = "pass --config.train.validate_every=STEPS too"
  _refuse(train.keep_best and not train.validate_every, "train.keep_best", why)
  why = "nothing keeps it; pass --config.train.keep_best=True"
  _refuse(trains and source == "best" and not train.keep_best, f"evaluate.source={source}", why)


def _refuse(wrong: Any, setting: str, why: str) -> None:
  if wrong:
    raise UserError(f"--config.{setting}: {why}")


def reject(key: str, value: Any, wanted: str, section: ConfigDict) -> None:
  """Raises UserError for a value that another key of its section limits; `wanted` ends in that."""
  other = wanted.rsplit(".", 1)[-1]
  raise UserError(f"--config.{key}={value}: it takes {wanted} (now {section[other]})")
