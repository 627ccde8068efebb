"""What backbone a config means: `model.pretrained` brings its architecture, mean and std along.

`resolve` is called once, before training or evaluation; it reads config.json and
preprocessor_config.json, and of a source without config.json the shapes of its tensors. What it
puts into the config is what a checkpoint stores, so that a restore needs the source no more.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.models.options import (
  ACTIVATIONS,
  LAYERS,
  RESNET,
  SIZES,
  Options,
  options_text,
  parse_options,
)
from lafg_jax.models.weights import (
  files,
  from_lafg_jax,
  from_resnet,
  from_timm,
  from_transformers,
  from_vit_jax,
)
from lafg_jax.models.weights.family import HALF, Family, Settings, place, strip
from lafg_jax.models.weights.files import Tensor
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

FAMILIES: tuple[Family, ...] = (
  *from_transformers.FAMILIES,
  from_timm.FAMILY,
  from_vit_jax.FAMILY,
  from_resnet.HUGGING_FACE,
  from_resnet.TORCHVISION,
  from_lafg_jax.FAMILY,
)
_NUMBERS = ("width", "depth", "num_heads", "mlp_dim")
# What stands for "as the source has it", by key.
_AUTO = {
  **{"size": "auto", "patch_size": 0, "pool": "auto", "options": "auto", "conv_stem": False},
  **{"layer_norm_eps": 0.0, "mean": (), "std": ()},
}


def resolve(config: ConfigDict, recorded: dict[str, Any] | None = None) -> ConfigDict:
  """A copy of a whole config whose `model` section has no 'auto' left.

  What the source of `model.pretrained` decides (sizes, patch size, options) must not be set to
  anything else; pool, mean, std and layer_norm_eps hold where they are set. Resolving twice changes
  nothing.

  Args:
    config: with 'auto' or without.
    recorded: the flat, resolved config of a checkpoint. Where it agrees with `config`, it stands
      for a source that does not lie on this machine, so that neither hub nor network is needed.

  Raises:
    UserError: the source cannot be read, or a value of the config does not go with it.
  """
  config = config.copy_and_resolve_references()
  model, source = config.model, config.model.pretrained
  known = config_keys.nested(recorded).model if recorded else None
  if known and source and files.local(source) is None and _agree(model, known):
    with config.unlocked():
      model.update({key: known[key] for key in (*_AUTO, *_NUMBERS)})
    logging.info("backbone: that of the checkpoint, %s, %s", source, _summary(model))
  else:
    _resolve_from_source(model, source)
  if config.data.image_size % model.patch_size and model.size != RESNET:
    raise UserError(
      f"--config.data.image_size={config.data.image_size}: it takes a multiple of the patch size, "
      f"which is {model.patch_size}"
    )
  _check_rotary(model, parse_options(model.options))
  return config


def _agree(model: ConfigDict, known: ConfigDict) -> bool:
  """Whether `known`, a resolved section, may be what `model` with its 'auto' resolves to."""
  same = [
    model.pretrained == known.pretrained,
    model.size == "auto" or _size(model) == _size(known),
  ]
  names = [name for name in _AUTO if name != "size"]
  return all(same) and all(model[name] in (known[name], _AUTO[name]) for name in names)


def _size(model: ConfigDict) -> Any:
  """Width, depth, heads and MLP width of a ViT, whatever its size is called; or 'resnet50'."""
  numbers = tuple(model[name] for name in _NUMBERS)
  return RESNET if model.size == RESNET else SIZES.get(model.size, numbers)


def _resolve_from_source(model: ConfigDict, source: str) -> None:
  """Puts into `model` what the source says, or, without one, what LaFG's recipe has.

  Raises:
    UserError: as `resolve`.
  """
  family, settings = _of_source(source, model) if source else (None, _without_source(model))
  if source:
    _check_sizes(model, settings)
    if model.conv_stem and not settings.conv_stem:
      raise _clash(model, "conv_stem", "a patch embedding", "False")
  pool = settings.pool if model.pool == "auto" else model.pool
  options = _options(model, settings, pool)
  patch_size = model.patch_size or settings.patch_size
  if source and patch_size != settings.patch_size:
    raise _clash(model, "patch_size", f"patches of {settings.patch_size}", "0")
  with model.unlocked():
    if source and settings.size == "custom":
      model.size = "base" if settings[:4] == SIZES["base"] else "custom"
      model.update(dict(zip(_NUMBERS, settings[:4], strict=True)))
    elif model.size == "auto":
      model.size = settings.size
    model.patch_size, model.pool, model.options = patch_size, pool, options_text(options)
    model.conv_stem = settings.conv_stem if source else model.conv_stem
    model.layer_norm_eps = float(model.layer_norm_eps or settings.layer_norm_eps)
    model.mean = tuple(model.mean or settings.mean or HALF)
    model.std = tuple(model.std or settings.std or HALF)
  if family is not None:
    logging.info("backbone: %s of %s, %s", family.name, source, _summary(model))


def _without_source(model: ConfigDict) -> Settings:
  """What random weights start from: ViT-B/16 as LaFG's recipe has it, unless the config says."""
  if model.size == RESNET:
    return from_resnet.settings({})
  return Settings(*SIZES["base"], patch_size=16, pool="token", layer_norm_eps=1e-12, size="base")


def _summary(model: ConfigDict) -> str:
  numbers = (*_NUMBERS, "patch_size", "options") if model.size != RESNET else ()
  keys = ("size", *numbers, "pool", "mean", "std")
  return ", ".join(f"{key} {model[key]}" for key in keys if model[key] != "")


def source_config(source: str) -> dict[str, Any] | None:
  """The config.json of a source, or what stands for it in a .npz; None where there is none."""
  if source.endswith(".npz"):
    return from_vit_jax.read(files.find(source)[0])[1] | {"model_type": "vit_jax"}
  found = files.read_json(source, "config.json")
  if found is not None and found.get("library") == from_lafg_jax.LIBRARY:
    return from_lafg_jax.model_section(found)
  return found


def detect(source: str, config: dict[str, Any] | None, tensors: Mapping[str, Any]) -> Family:
  """The family of a source: by its config.json, or by the names of its tensors where it has none.

  Raises:
    UserError: it is of no family here.
  """
  key = f"--config.model.pretrained={source}"
  known = ", ".join(family.name for family in FAMILIES)
  if config and ("model_type" in config or "architecture" in config):
    kind, architecture = config.get("model_type", "timm"), config.get("architecture", "")
    for family in FAMILIES:
      if kind in family.model_types and re.match(family.architecture, architecture):
        return family
    what = f"timm's {architecture}" if kind == "timm" else f"model_type {kind}"
    raise UserError(f"{key}: its config.json says {what}; what can be read is {known}")
  for family in FAMILIES:
    if family.marker in {strip(family, name) for name in tensors}:
      return family
  raise UserError(
    f"{key}: its tensors ({', '.join(sorted(tensors)[:3])}, ...) are of nothing that can be read: "
    f"{known}"
  )


def _of_source(source: str, model: ConfigDict) -> tuple[Family, Settings]:
  """The family of a source, and its settings with mean and std."""
  config = source_config(source)
  if config:
    family = detect(source, config, {})
    settings = _settings(source, family, config)
  else:
    with files.opened(source) as tensors:
      family = detect(source, None, tensors)
      settings = _measured(family, tensors)
  if settings.size == "custom" and not settings.num_heads:
    settings = settings._replace(num_heads=_heads(source, model, settings.width))
  if settings.options.activation not in ACTIVATIONS:
    raise UserError(
      f"--config.model.pretrained={source}: its config.json says {settings.options.activation}; "
      f"the activations are {', '.join(ACTIVATIONS)}"
    )
  if model.mean and model.std:
    return family, settings
  published = settings.mean or family.mean_std[0], settings.std or family.mean_std[1]
  found = _preprocessor(source) or _checked_mean_std(source, "config.json", *published)
  return family, settings._replace(mean=found[0], std=found[1])


def _settings(source: str, family: Family, config: dict[str, Any]) -> Settings:
  given = {key: value for key, value in config.items() if value is not None}
  if family is from_vit_jax.FAMILY:
    # Which has no config.json: all but this was measured.
    del given["model_type"]
  try:
    settings = family.settings(given)
    if settings.size == "custom" and not all(isinstance(x, int) and x > 0 for x in settings[:5]):
      raise ValueError(f"{dict(zip(Settings._fields, settings[:5], strict=False))}")
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"--config.model.pretrained={source}: its config.json describes no {family.name} "
      f"({type(error).__name__}: {error})"
    ) from error
  return settings


def _measured(family: Family, tensors: Mapping[str, Tensor]) -> Settings:
  """The family's settings with sizes and options read off the shapes of tensors."""
  shapes = {strip(family, name): tensor.shape for name, tensor in tensors.items()}

  def shape(path: str) -> tuple[int, ...]:
    where = place(family, path)
    found = shapes.get(where.name, ()) if where else ()
    return (found[0] // where.parts, *found[1:]) if where and found else ()

  settings = family.settings({})
  if settings.size != "custom":
    return settings
  depth = 0
  while shape(f"block_{depth}/norm_1/scale"):
    depth += 1
  mlp = shape("block_0/mlp_gate/kernel") or shape("block_0/mlp_1/kernel") or (0,)
  gated = bool(shape("block_0/mlp_gate/kernel"))
  biased = {"patch": "patch_embedding/patch", "mlp": f"block_0/mlp_{'gate' if gated else '1'}"}
  options = settings.options._replace(
    activation="silu" if gated else settings.options.activation,
    gated_mlp=gated,
    layer_scale=bool(shape("block_0/scale_1")),
    registers=(shape("registers") or (0, 0))[1],
    unbiased=tuple(
      layer
      for layer in LAYERS
      if not shape(biased.get(layer, f"block_0/attention/{layer}") + "/bias")
    ),
  )
  patch = shape("patch_embedding/patch/kernel") or (0,)
  return settings._replace(
    width=patch[0],
    depth=depth,
    num_heads=0,
    mlp_dim=mlp[0],
    patch_size=patch[-1],
    pool="mean" if settings.pool == "map" and not shape("map_head/probe") else settings.pool,
    options=options,
  )


def _heads(source: str, model: ConfigDict, width: int) -> int:
  """The number of heads, which no tensor tells: what the config says, or that of a known width."""
  if model.size == "custom":
    return model.num_heads
  for name, (known, _, heads, _) in SIZES.items():
    if model.size in ("auto", name) and known == width:
      return heads
  raise UserError(
    f"--config.model.pretrained={source}: no config.json beside it, and no tensor tells the number "
    f"of heads of a ViT of width {width}: pass --config.model.size=custom with width, depth, "
    "num_heads and mlp_dim"
  )


def _check_sizes(model: ConfigDict, settings: Settings) -> None:
  if model.size == "auto":
    return
  if RESNET in (model.size, settings.size):
    if model.size != settings.size:
      raise _clash(model, "size", "a ResNet-50" if settings.size == RESNET else "a ViT", "auto")
    return
  given = SIZES.get(model.size) or tuple(model[name] for name in _NUMBERS)
  for name, have, want in zip(_NUMBERS, settings[:4], given, strict=True):
    if have != want:
      raise _clash(model, "size", f"{name} {have}, not {want}", "auto")


def _options(model: ConfigDict, settings: Settings, pool: str) -> Options:
  """The options, with the class token kept where the pooling does not read it."""
  given = None if model.options == "auto" else parse_options(model.options)
  if not model.pretrained and settings.size != RESNET:
    return given or Options()
  has_class = settings.pool == "token" or settings.options.class_token
  possible = ("mean", "gem", "token" if has_class else "", "map" if settings.pool == "map" else "")
  if pool not in possible:
    what = "no class token" if pool == "token" else "no head that pools"
    raise _clash(model, "pool", what, "auto")
  options = settings.options._replace(class_token=has_class and pool != "token")
  if given not in (None, options):
    raise _clash(model, "options", f"'{options_text(options)}'", "auto")
  return options


def _check_rotary(model: ConfigDict, options: Options) -> None:
  # A fourth of a head's channels turns by y and a fourth by x, the same for its other half.
  width, heads = (SIZES.get(model.size) or (model.width, 0, model.num_heads))[:3:2]
  if options.rotary_base and width % (4 * heads):
    whose = f"pretrained={model.pretrained}" if model.pretrained else f"options={model.options}"
    raise UserError(
      f"--config.model.{whose}: rotary_base takes heads whose width is a multiple of 4, and "
      f"model.width / model.num_heads is {width} / {heads}"
    )


def _clash(model: ConfigDict, key: str, have: str, auto: str) -> UserError:
  whose = f"the weights of {model.pretrained} have" if model.pretrained else "a ResNet has"
  return UserError(f"--config.model.{key}={model[key]}: {whose} {have}; leave it at {auto}")


def _preprocessor(source: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
  """Mean and std for images in [0, 1] from preprocessor_config.json; None where there is none."""
  if source.endswith(".npz"):
    return None
  file = "preprocessor_config.json"
  config = files.read_json(source, file)
  if config is None:
    # CLIP's and SigLIP's newer folders have one file for both towers.
    file = "processor_config.json"
    config = (files.read_json(source, file) or {}).get("image_processor")
  if not isinstance(config, dict) or not {"image_mean", "image_std", "do_normalize"} & set(config):
    return None
  scale = config.get("rescale_factor", 1 / 255)
  if not _is_number(scale) or abs(255 * scale - 1) > 1e-3:
    raise UserError(
      f"--config.model.pretrained={source}: its {file} has a rescale_factor other than 1/255; "
      "pass --config.model.mean and --config.model.std for images in [0, 1]"
    )
  if not config.get("do_normalize", True):
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
  return _checked_mean_std(source, file, config.get("image_mean"), config.get("image_std"))


def _checked_mean_std(
  source: str, file: str, mean: Any, std: Any
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  for values in (mean, std):
    three = isinstance(values, list | tuple) and len(values) == 3
    if not three or not all(map(_is_number, values)) or (values is std and min(values) <= 0):
      raise UserError(
        f"--config.model.pretrained={source}: its {file} has no image_mean of three numbers and "
        "image_std of three numbers above 0; pass --config.model.mean and --config.model.std"
      )
  return tuple(map(float, mean)), tuple(map(float, std))


def _is_number(x: Any) -> bool:
  return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
