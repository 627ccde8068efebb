"""Which backbone a config means: `model.pretrained` brings its architecture, mean and std along.

`resolve` is called once, before training or evaluation. It reads config.json and
preprocessor_config.json; without a config.json it reads the shapes of the source's tensors. The
checkpoint stores what it writes into the config, so that a restore does not need the source.
"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.models.options import (
  ACTIVATIONS,
  GIVEN,
  LAYERS,
  NUMBERS,
  RESNET,
  SIZES,
  Options,
  options_text,
  parse_options,
  sizes_of,
)
from lafg_jax.models.resnet import ResNet
from lafg_jax.models.weights import (
  files,
  from_lafg_jax,
  from_resnet,
  from_timm,
  from_transformers,
  from_vit_jax,
  wrappers,
)
from lafg_jax.models.weights.family import HALF, Family, MeanStd, Settings, place
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
# What stands for "as the source has it", by key.
_AUTO: dict[str, Any] = {
  "size": "auto", "patch_size": 0, "pool": "auto", "options": "auto", "conv_stem": False,
  "layer_norm_eps": 0.0, "mean": (), "std": (),
}  # fmt: skip


def resolve(config: ConfigDict, recorded: dict[str, Any] | None = None) -> ConfigDict:
  """A copy of a whole config whose `model` section has no 'auto' left.

  The source of `model.pretrained` decides sizes, patch size and options; another value of these in
  the config is an error. Pool, mean, std and layer_norm_eps are the source's unless the config sets
  them. Resolving twice changes nothing.

  Args:
    config: with 'auto' or without.
    recorded: the flat, resolved config of a checkpoint. Where it agrees with `config`, it replaces
      a source that is not on this machine, so that neither hub nor network is needed.

  Raises:
    UserError: the source cannot be read, or a value of the config does not go with it.
  """
  config = config.copy_and_resolve_references()
  model, source = config.model, config.model.pretrained
  known = config_keys.nested(recorded).model if recorded else None
  if known and source and files.local(source) is None and _agree(model, known):
    with config.unlocked():
      model.update({key: known[key] for key in (*_AUTO, *NUMBERS)})
    logging.info("backbone: that of the checkpoint, %s, %s", source, _summary(model))
  else:
    _resolve_from_source(model, source)
  side, patch = config.data.image_size, model.patch_size
  if side % patch and model.size != RESNET:
    fits = -(-side // patch) * patch
    larger = f" and --config.data.resize_size={fits}" if config.data.resize_size < fits else ""
    raise UserError(
      f"--config.data.image_size={side}: it takes a multiple of the patch size, which is {patch}; "
      f"pass --config.data.image_size={fits}{larger}"
    )
  _check_rotary(model, parse_options(model.options))
  if model.get("embedding_dim") == -1 and model.size != GIVEN:
    model.embedding_dim = ResNet().width if model.size == RESNET else sizes_of(model)[0]
  return config


def _agree(model: ConfigDict, known: ConfigDict) -> bool:
  """Whether `known`, a resolved section, may be what `model` with its 'auto' resolves to."""
  others = (name for name in _AUTO if name != "size")
  return (
    model.pretrained == known.pretrained
    and (model.size == "auto" or _size(model) == _size(known))
    and all(model[name] in (known[name], _AUTO[name]) for name in others)
  )


def _size(model: ConfigDict) -> Any:
  """'resnet50', or the sizes of a ViT, whatever its size is called."""
  return RESNET if model.size == RESNET else sizes_of(model)


def _resolve_from_source(model: ConfigDict, source: str) -> None:
  """Puts into `model` what the source says, or, without one, what LaFG's recipe has.

  Raises:
    UserError: as `resolve`.
  """
  family, settings = _of_source(source, model) if source else ("", _without_source(model))
  if source:
    _check_sizes(model, settings)
  pool = settings.pool if model.pool == "auto" else model.pool
  options = _options(model, settings, pool)
  with model.unlocked():
    if source and settings.size == "custom":
      model.size = "base" if settings[:4] == SIZES["base"] else "custom"
      model.update(dict(zip(NUMBERS, settings[:4], strict=True)))
    elif model.size == "auto":
      model.size = settings.size
    model.pool, model.options = pool, options_text(options)
    model.patch_size = model.patch_size or settings.patch_size
    model.conv_stem = model.conv_stem or settings.conv_stem
    model.layer_norm_eps = float(model.layer_norm_eps or settings.layer_norm_eps)
    model.mean = tuple(model.mean or settings.mean or HALF)
    model.std = tuple(model.std or settings.std or HALF)
  if source:
    logging.info("backbone: %s of %s, %s", family, source, _summary(model))


def _without_source(model: ConfigDict) -> Settings:
  """The architecture of random weights: ViT-B/16, as in LaFG's recipe, or a ResNet-50."""
  if model.size == RESNET:
    return from_resnet.settings({})
  return Settings(*SIZES["base"], patch_size=16, pool="token", layer_norm_eps=1e-12, size="base")


def _summary(model: ConfigDict) -> str:
  numbers = (*NUMBERS, "patch_size", "options") if model.size != RESNET else ()
  keys = ("size", *numbers, "pool", "mean", "std")
  return ", ".join(f"{key} {model[key]}" for key in keys if model[key] != "")


def source_config(source: str) -> dict[str, Any] | None:
  """The config.json of a source, or the sizes measured on a .npz; None where there is none."""
  if source.endswith(".npz"):
    return from_vit_jax.read(files.find(source)[0])[1] | {"model_type": "vit_jax"}
  found = files.read_json(source, "config.json")
  if found is not None and found.get("library") == from_lafg_jax.LIBRARY:
    return from_lafg_jax.model_section(found)
  return found


def detect(source: str, config: dict[str, Any] | None, tensors: Mapping[str, Any]) -> Family:
  """The family of a source: by its config.json, or by the names of its tensors where it has none.

  Raises:
    UserError: it is of no known family.
  """
  known = ", ".join(family.name for family in FAMILIES)
  if config and ("model_type" in config or "architecture" in config):
    kind, architecture = config.get("model_type", "timm"), config.get("architecture", "")
    for family in FAMILIES:
      if kind in family.model_types and re.match(family.architecture, architecture):
        return family
    what = f"timm's {architecture}" if kind == "timm" else f"model_type {kind}"
    raise files.fault(source, f"its config.json says {what}; what can be read is {known}")
  for family in FAMILIES:
    if wrappers.towers(family, tensors):
      return family
  some = ", ".join(sorted(tensors)[:3])
  raise files.fault(source, f"its tensors ({some}, ...) are of nothing that can be read: {known}")


def source_grid(config: dict[str, Any] | None, patch_size: int) -> tuple[int, int] | None:
  """Rows and columns of patches that a source was trained with; None where no config tells."""
  config = config or {}
  model, published = config.get("model_args"), config.get("pretrained_cfg")
  sizes = (
    (config.get("vision_config") or config).get("image_size"),
    (model or {}).get("img_size"),
    (published or {}).get("input_size"),
  )
  for size in sizes:
    # timm's input_size begins with the number of colours.
    size = list(size)[-2:] if isinstance(size, list | tuple) else [size, size]
    if len(size) == 2 and all(isinstance(x, int) and x >= patch_size for x in size):
      return size[0] // patch_size, size[1] // patch_size
  return None


def _of_source(source: str, model: ConfigDict) -> tuple[str, Settings]:
  """The name of a source's family, and its settings with mean and std."""
  config = source_config(source)
  if config:
    family = detect(source, config, {})
    settings = settings_of(source, family, config)
  else:
    with files.opened(source) as tensors:
      family = detect(source, None, tensors)
      settings = measured(source, family, tensors)
  if settings.size == "custom" and not settings.num_heads:
    settings = settings._replace(num_heads=_heads(source, model, settings.width))
  activation = settings.options.activation
  if activation not in ACTIVATIONS:
    known = ", ".join(ACTIVATIONS)
    raise files.fault(source, f"its config.json says {activation}; the activations are {known}")
  if not (model.mean and model.std):
    mean, std = settings.mean or family.mean_std[0], settings.std or family.mean_std[1]
    # Our own export has them in its config.json, and no file that asks the hub again.
    beside = None if family is from_lafg_jax.FAMILY else preprocessor(source)
    found = beside or checked_mean_std(source, "config.json", mean, std)
    settings = settings._replace(mean=found[0], std=found[1])
  return family.name, settings


def settings_of(source: str, family: Family, config: dict[str, Any]) -> Settings:
  """The `Settings` of a source's config; UserError where it describes no model of the family."""
  try:
    settings = family.settings({key: x for key, x in config.items() if x is not None})
    if settings.size == "custom" and not all(isinstance(x, int) and x > 0 for x in settings[:5]):
      raise ValueError(f"{dict(zip(Settings._fields, settings[:5], strict=False))}")
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise files.fault(
      source,
      f"its config.json describes no {family.name} ({type(error).__name__}: {error})",
    ) from error
  return settings


def measured(source: str, family: Family, tensors: Mapping[str, Tensor]) -> Settings:
  """The family's settings with sizes and options read off the shapes of a source's tensors."""
  names = wrappers.unwrapped(source, family, tensors).of
  shapes = {ours: tensors[theirs].shape for ours, theirs in names.items()}

  def shape(path: str) -> tuple[int, ...]:
    where = place(family, path)
    found = shapes.get(where.name) if where else None
    return (found[0] // where.parts, *found[1:]) if where and found else ()

  settings = family.settings({})
  if settings.size != "custom":
    return settings
  gated = bool(shape("block_0/mlp_gate/kernel"))
  mlp = f"block_0/mlp_{'gate' if gated else '1'}"
  biased = {"patch": "patch_embedding/patch", "mlp": mlp}
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
    depth=next(i for i in itertools.count() if not shape(f"block_{i}/norm_1/scale")),
    num_heads=0,
    mlp_dim=(shape(f"{mlp}/kernel") or (0,))[0],
    patch_size=patch[-1],
    pool="mean" if settings.pool == "map" and not shape("map_head/probe") else settings.pool,
    options=options,
  )


def _heads(source: str, model: ConfigDict, width: int) -> int:
  """The number of heads, which no tensor tells: as the config says, or by a known width."""
  if model.size == "custom":
    return model.num_heads
  for name, (known, _, heads, _) in SIZES.items():
    if model.size in ("auto", name) and known == width:
      return heads
  raise files.fault(
    source,
    f"no config.json beside it, and no tensor tells the number of heads of a ViT of width {width}: "
    "pass --config.model.size=custom with width, depth, num_heads and mlp_dim",
  )


def _check_sizes(model: ConfigDict, settings: Settings) -> None:
  """Raises UserError where the config has other sizes than the source."""
  if RESNET in (model.size, settings.size) and model.size not in ("auto", settings.size):
    raise _clash(model, "size", "a ResNet-50" if settings.size == RESNET else "a ViT", "auto")
  if model.size not in ("auto", RESNET):
    for name, have, want in zip(NUMBERS, settings[:4], sizes_of(model), strict=True):
      if have != want:
        raise _clash(model, "size", f"{name} {have}, not {want}", "auto")
  if model.conv_stem and not settings.conv_stem:
    raise _clash(model, "conv_stem", "a patch embedding", "False")
  if model.patch_size not in (0, settings.patch_size):
    raise _clash(model, "patch_size", f"patches of {settings.patch_size}", "0")


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
  # A quarter of a head's channels is rotated by y and a quarter by x; the other half likewise.
  width, _, heads, _ = sizes_of(model)
  if options.rotary_base and width % (4 * heads):
    whose = f"pretrained={model.pretrained}" if model.pretrained else f"options={model.options}"
    raise UserError(
      f"--config.model.{whose}: rotary_base takes heads whose width is a multiple of 4, and "
      f"model.width / model.num_heads is {width} / {heads}"
    )


def _clash(model: ConfigDict, key: str, have: str, auto: str) -> UserError:
  whose = f"the weights of {model.pretrained} have" if model.pretrained else "a ResNet has"
  return UserError(f"--config.model.{key}={model[key]}: {whose} {have}; leave it at {auto}")


def preprocessor(source: str) -> MeanStd | None:
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
    raise files.fault(
      source,
      f"its {file} has a rescale_factor other than 1/255; pass --config.model.mean and "
      "--config.model.std for images in [0, 1]",
    )
  if not config.get("do_normalize", True):
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
  return checked_mean_std(source, file, config.get("image_mean"), config.get("image_std"))


def checked_mean_std(source: str, file: str, mean: Any, std: Any) -> MeanStd:
  """`mean` and `std`, which stand in `file`, as floats; UserError where they are not that."""
  for values in (mean, std):
    three = isinstance(values, list | tuple) and len(values) == 3
    if not three or not all(map(_is_number, values)) or (values is std and min(values) <= 0):
      raise files.fault(
        source,
        f"its {file} has no image_mean of three numbers and image_std of three numbers above 0; "
        "pass --config.model.mean and --config.model.std",
      )
  return tuple(map(float, mean)), tuple(map(float, std))


def _is_number(x: Any) -> bool:
  return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
