"""The form of a family of pretrained weights: how its files name things, what its config means.

The families are in from_transformers.py, from_timm.py, from_vit_jax.py, from_resnet.py and
from_lafg_jax.py; resolve.py lists them.
"""

import functools
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lafg_jax.models.options import Options

IDENTITY = "identity"
HALF = (0.5, 0.5, 0.5)
# Mean and std of the images that a family was trained on.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


MeanStd = tuple[tuple[float, ...], tuple[float, ...]]


class Settings(NamedTuple):
  """The backbone of a source.

  num_heads: 0 where its files do not say. mean, std: None leaves the family's. size: of
  `model.size`: 'custom' is a ViT of these numbers; 'resnet50' reads pool, mean and std alone.
  conv_stem: convolutions in place of the patch embedding.
  """

  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  patch_size: int
  pool: str
  layer_norm_eps: float
  options: Options = Options()
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  size: str = "custom"
  conv_stem: bool = False


class Family(NamedTuple):
  """One family: the table of its names and a few facts.

  names: our module or parameter -> theirs, as names.toml explains; {} where the tensors have our
    names and shapes.
  settings: their config.json -> `Settings` of our ViT. Without a config.json it gets {}, and sizes
    and options are measured on the tensors.
  model_types: of config.json; 'timm' for timm's, which have an architecture.
  marker: a tensor that identifies a file without config.json.
  unused: a regular expression of tensors that a backbone does not need.
  prefix: removed from the names of tensors first ('vit.' of a classifier's file).
  kernel: of models/weights/resample.py, by which the origin library resamples its position
    embeddings.
  mean_std: for images in [0, 1], where no preprocessor_config.json says otherwise.
  architecture: a regular expression at the start of timm's name of the architecture.
  bare_class: whether its files may give the class token no position, as timm's with registers.
  projection: the tensor that takes features to the space of texts, IDENTITY where they are in it.
  """

  name: str
  model_types: tuple[str, ...]
  names: Mapping[str, str]
  settings: Callable[[dict[str, Any]], Settings]
  marker: str
  unused: str
  prefix: str = ""
  kernel: str = ""
  mean_std: MeanStd = (HALF, HALF)
  architecture: str = ""
  bare_class: bool = False
  projection: str = ""


class TextSettings(NamedTuple):
  """The text tower of a source, as models/text.py builds it; sizes are width, depth, heads, MLP."""

  sizes: tuple[int, int, int, int]
  vocabulary: int
  context: int
  dim: int
  activation: str
  layer_norm_eps: float
  causal: bool
  pool: str
  projection_bias: bool


class Whole(NamedTuple):
  """A CLIP of both towers.

  kind: 'clip', 'siglip' or 'siglip2'.
  image_size: of its own grid of patches.
  projected: whether image features are projected to the space of texts; SigLIP's are in it.
  text_family: its table names the text tower; of its other fields only `kernel` is read.
  """

  kind: str
  image: Settings
  image_family: Family
  image_size: int
  projected: bool
  text: TextSettings
  text_family: Family
  mean_std: MeanStd


class Place(NamedTuple):
  """Where a parameter of ours stands in a file: part `part` of `parts` of tensor `name`.

  turned: a kernel whose first axis is its input, as ours, where torch's layers have the output.
  """

  name: str
  part: int = 1
  parts: int = 1
  turned: bool = False


# A module's arrays, as torch names them.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
           "var": "running_var"}  # fmt: skip
NAMES = tomllib.loads(Path(__file__).with_name("names.toml").read_text(encoding="utf-8"))


def published_mean_std(found: dict[str, Any]) -> dict[str, Any]:
  """The mean and std, as `Settings` takes them, of the `pretrained_cfg` in timm's config.json."""
  return {key: tuple(found[key]) for key in ("mean", "std") if key in found}


def place(family: Family, path: str) -> Place | None:
  """Where the family's files keep our parameter 'block_3/mlp_1/kernel'; None: they have none."""
  if not family.names:
    return Place(path)
  module, _, leaf = path.rpartition("/")
  suffixes = {path: ""} | ({module: f".{_LEAVES[leaf]}"} if leaf in _LEAVES else {})
  for our, theirs in family.names.items():
    for ours, suffix in suffixes.items():
      if match := _pattern(our).fullmatch(ours):
        name, _, share = theirs.partition("|")
        part, parts = map(int, (share.removesuffix("T") or "1/1").split("/"))
        return Place(_numbered(name, match) + suffix, part, parts, share == "T")
  return None


def _numbered(name: str, match: re.Match[str]) -> str:
  """'layer{i+1}' with the number that the match has for i."""
  return re.sub(r"\{(\w)([+-]1)?\}", lambda x: str(int(match[x[1]]) + int(x[2] or 0)), name)


@functools.cache
def _pattern(our: str) -> re.Pattern[str]:
  return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", our))
