"""The form of a family of pretrained weights: how its files name things, what its config means.

A `Family` is a readable table and a few facts:

  names: our module or parameter -> theirs, with {i} (and {j}, {i+1}) for numbers. A module's kernel
    and scale are their '.weight', its bias their '.bias'; what the table names whole, down to our
    leaf, is taken as it stands. 'qkv | 2/3' is the second of three equal parts of the rows.
  settings: their config.json -> `Settings` of our ViT. Where there is none it gets {}, and sizes
    and options are measured on the tensors.
  model_types: of config.json; 'timm' for timm's, which have an architecture, by `architecture`.
  marker: a tensor by which a file without config.json is known.
  prefixes: taken off the names of tensors first ('vit.' of a classifier's file).
  unused: a regular expression of tensors that a backbone has no use for.
  projection: the tensor that takes features to the space of texts, IDENTITY where they are in it.
  named_as_here: its tensors have our names and shapes, without a table.
  kernel: of models/resample.py, by which the origin library resamples its position embeddings.
  mean, std: for images in [0, 1], where no preprocessor_config.json says otherwise.

The families are in from_transformers.py, from_timm.py, from_vit_jax.py, from_resnet.py and
from_lafg_jax.py; backbones.py lists them.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lafg_jax.models.options import Options

IDENTITY = "identity"
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


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
  """One family; the module docstring says what each field is."""

  name: str
  model_types: tuple[str, ...]
  names: Mapping[str, str]
  settings: Callable[[dict[str, Any]], Settings]
  marker: str
  prefixes: tuple[str, ...]
  unused: str
  kernel: str
  mean: tuple[float, ...]
  std: tuple[float, ...]
  # A regular expression at the start of timm's name of the architecture.
  architecture: str = ""
  projection: str = ""
  named_as_here: bool = False

  def matches(self, architecture: str) -> bool:
    """Whether timm's name of an architecture is of this family."""
    return re.match(self.architecture, architecture) is not None


class Place(NamedTuple):
  """Where a parameter of ours stands in a file: part `part` of `parts` of tensor `name`."""

  name: str
  part: int = 1
  parts: int = 1


# A module's arrays, as torch names them.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
           "var": "running_var"}  # fmt: skip


def place(family: Family, path: str) -> Place | None:
  """Where the family's files keep our parameter 'block_3/mlp_1/kernel'; None: they have none."""
  if family.named_as_here:
    return Place(path)
  module, _, leaf = path.rpartition("/")
  for our, theirs in family.names.items():
    pattern = _pattern(our)
    match = pattern.fullmatch(path)
    suffix = ""
    if match is None and leaf in _LEAVES:
      match, suffix = pattern.fullmatch(module), "." + _LEAVES[leaf]
    if match is not None:
      name, _, share = theirs.partition(" | ")
      for letter, number in match.groupdict().items():
        name = name.replace(f"{{{letter}}}", number).replace(
          f"{{{letter}+1}}", str(int(number) + 1)
        )
      part, parts = map(int, (share or "1/1").split("/"))
      return Place(name + suffix, part, parts)
  return None


@functools.cache
def _pattern(our: str) -> re.Pattern[str]:
  return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", our))


def strip(family: Family, name: str) -> str:
  """A tensor's name without the prefix of the model around the backbone."""
  for prefix in family.prefixes:
    if name.startswith(prefix):
      return name.removeprefix(prefix)
  return name
