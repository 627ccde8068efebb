"""What a ViT may have beyond the plain one, as data. Configs are checked with it, without jax."""

from collections.abc import Mapping
from typing import Any, NamedTuple

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu")
# The sizes of model.size that are no ViT: a ResNet, and vectors that are given in place of images.
RESNET, GIVEN = "resnet50", "features"
# width, depth, heads, mlp_dim
SIZES = {
  "tiny": (192, 12, 3, 768),
  "small": (384, 12, 6, 1536),
  "base": (768, 12, 12, 3072),
  "large": (1024, 24, 16, 4096),
}
# The keys of `model` that describe a ViT of size 'custom', in the order of SIZES.
NUMBERS = ("width", "depth", "num_heads", "mlp_dim")
# Layers that Options.unbiased may name.
LAYERS = ("patch", "query", "key", "value", "out", "mlp")


def sizes_of(model: Mapping[str, Any]) -> tuple[int, int, int, int]:
  """Width, depth, heads and MLP width of the ViT that a `model` section describes."""
  width, depth, num_heads, mlp_dim = SIZES.get(model["size"]) or (model[name] for name in NUMBERS)
  return width, depth, num_heads, mlp_dim


class Options(NamedTuple):
  """How the ViT of a family differs from the plain one.

  activation: of ACTIVATIONS.
  gated_mlp: down(activation(gate x) * up x), SwiGLU (Shazeer 2020), in place of two layers.
  layer_scale: a learned scale per channel on each residual branch (CaiT, Touvron et al. 2021).
  registers: how many tokens without a position stand between class token and patches (Darcet et
    al., ICLR 2024).
  rotary_base: above 0, queries and keys are rotated by the patch's position (`rotary`), in place of
    a position embedding.
  pre_norm: a LayerNorm before the first block (CLIP).
  class_token: there is a class token although the pooling does not read it.
  unbiased: of LAYERS, those without a bias.
  """

  activation: str = "gelu"
  gated_mlp: bool = False
  layer_scale: bool = False
  registers: int = 0
  rotary_base: float = 0.0
  pre_norm: bool = False
  class_token: bool = False
  unbiased: tuple[str, ...] = ()


def options_text(options: Options) -> str:
  """Options as a config spells them: 'layer_scale registers=4'; '' is the plain ViT."""
  words = []
  for name, value in options._asdict().items():
    if value == Options._field_defaults[name]:
      continue
    shown = ",".join(value) if isinstance(value, tuple) else value
    words.append(name if value is True else f"{name}={shown}")
  return " ".join(words)


def parse_options(text: str) -> Options:
  """The inverse of `options_text`. Raises ValueError for what it does not know."""
  values: dict[str, Any] = {}
  for word in text.split():
    name, _, value = word.partition("=")
    if name not in Options._fields:
      raise ValueError(f"{name} is none of {', '.join(Options._fields)}")
    default = Options._field_defaults[name]
    # A flag is written without a value, everything else with one.
    if isinstance(default, bool) == bool(value):
      raise ValueError(f"{word} is not how {name} is written")
    kind = type(default)
    values[name] = tuple(value.split(",")) if kind is tuple else kind(value or True)
  options = Options(**values)
  unknown = set(options.unbiased) - set(LAYERS)
  if options.activation not in ACTIVATIONS or unknown:
    raise ValueError(f"{', '.join(unknown) or options.activation} is not known")
  if options.registers < 0 or not 0 <= options.rotary_base < float("inf"):
    raise ValueError("registers and rotary_base are 0 or more")
  return options
