"""Towers that `lafg_jax.export` wrote, as the start of another training.

Its config.json holds the config that the model was trained with, and its tensors have our names.
"""

from typing import Any

from lafg_jax.models.options import RESNET, parse_options, sizes_of
from lafg_jax.models.weights import from_resnet
from lafg_jax.models.weights.family import Family, Settings

LIBRARY = "lafg_jax"


def model_section(found: dict[str, Any]) -> dict[str, Any]:
  """What config.json of an export says of the model, as `settings` takes it."""
  flat = found.get("config")
  flat = flat if isinstance(flat, dict) else {}
  model = {k.removeprefix("model."): v for k, v in flat.items() if k.startswith("model.")}
  return model | {"model_type": LIBRARY}


def settings(config: dict[str, Any]) -> Settings:
  """Settings of the tower. Raises KeyError or ValueError for a config that lacks any."""
  mean, std = tuple(config["mean"]), tuple(config["std"])
  if config["size"] == RESNET:
    return from_resnet.settings({})._replace(pool=config["pool"], mean=mean, std=std)
  return Settings(
    *sizes_of(config),
    patch_size=config["patch_size"],
    pool=config["pool"],
    layer_norm_eps=config["layer_norm_eps"],
    options=parse_options(config["options"]),
    mean=mean,
    std=std,
    conv_stem=config["conv_stem"],
  )


FAMILY = Family(
  name=LIBRARY,
  model_types=(LIBRARY,),
  names={},
  settings=settings,
  # A file alone tells neither the heads nor the stem.
  marker="",
  # Head, projectors and words.
  unused=r"^(params|prototypes|readout)/",
  prefix="params/backbone/",
  kernel="bicubic",
)
