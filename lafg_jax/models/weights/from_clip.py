"""A whole CLIP or SigLIP: what its config means for both towers, and where its files keep them.

Of transformers here; open_clip's own layout is read in from_open_clip.py.
"""

import math
from collections.abc import Mapping
from typing import Any

from lafg_jax.models.options import ACTIVATIONS
from lafg_jax.models.weights import files, from_open_clip, from_transformers, resolve, wrappers
from lafg_jax.models.weights.family import NAMES, Family, TextSettings, Whole
from lafg_jax.models.weights.files import Tensor

_CLIP, _SIGLIP = (
  next(family for family in from_transformers.FAMILIES if family.name == name)
  for name in ("CLIP", "SigLIP")
)
# The image tower of each model_type of config.json.
_IMAGE = {
  "clip": _CLIP,
  "siglip": _SIGLIP,
  # Of variable resolution (NaFlex), at one square grid of patches.
  "siglip2": _SIGLIP._replace(
    name="SigLIP 2", model_types=("siglip2",), kernel="bilinear_antialias"
  ),
}
# The defaults of transformers' text configs: a config.json leaves out what equals them.
_CLIP_TEXT: dict[str, Any] = {
  "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
  "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}  # fmt: skip
_SIGLIP_TEXT: dict[str, Any] = {
  "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
  "vocab_size": 32000, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
  "layer_norm_eps": 1e-6,
}  # fmt: skip
_TAKEN = "what can be read is CLIP, SigLIP and SigLIP 2 of transformers or open_clip, both towers"


def read(source: str, tensors: Mapping[str, Tensor]) -> tuple[Whole, dict[str, Tensor]]:
  """What a source's configs say of both towers, and its tensors by its layout's own names.

  Raises:
    UserError: it is another model, one tower alone, or its config lacks or contradicts something.
  """
  families = (*from_open_clip.IMAGES, *_IMAGE.values())
  found = next((family for family in families if wrappers.towers(family, tensors)), None)
  if any(".layer1.0.conv1." in f".{name}" or ".attnpool." in f".{name}" for name in tensors):
    raise files.fault(source, "its image tower is a ResNet; take a CLIP whose image tower is a ViT")
  if found is None:
    some = ", ".join(sorted(tensors)[:3])
    raise files.fault(source, f"its tensors ({some}, ...) are of no CLIP: {_TAKEN}")
  names = wrappers.unwrapped(source, found, tensors).of
  by_name = {name: tensors[theirs] for name, theirs in names.items()}
  if found in from_open_clip.IMAGES:
    return _checked(source, from_open_clip.read(source, found, by_name)), by_name
  return _checked(source, _of_transformers(source)), by_name


def _of_transformers(source: str) -> Whole:
  config = files.read_json(source, "config.json")
  if config is None:
    raise files.fault(source, "no config.json beside it, which has heads and activations")
  kind = str(config.get("model_type"))
  if kind not in _IMAGE:
    raise files.fault(source, f"its config.json says model_type {kind}; {_TAKEN}")
  config = {key: x for key, x in config.items() if x is not None}
  for section in ("text_config", "vision_config"):
    # Where an old config.json has both, the '_dict' is what transformers reads.
    found = config.get(f"{section}_dict", config.get(section, {}))
    if not isinstance(found, dict):
      raise files.fault(source, f"its config.json has a {section} that is no object")
    config[section] = {key: x for key, x in found.items() if x is not None}
  image, text = config["vision_config"], config["text_config"]
  settings = resolve.settings_of(source, _IMAGE[kind], config)
  size = image.get("image_size", 224)
  if kind == "siglip2":
    patches = image.get("num_patches", 256)
    size = math.isqrt(patches) * settings.patch_size if isinstance(patches, int) else patches
  return Whole(
    kind=_siglip_version(source) if kind == "siglip" else kind,
    image=settings,
    image_family=_IMAGE[kind],
    image_size=size,
    projected=kind == "clip",
    text=_text(config.get("projection_dim", 512), text) if kind == "clip" else _siglip_text(text),
    text_family=_text_family("clip" if kind == "clip" else "siglip"),
    mean_std=resolve.preprocessor(source) or _IMAGE[kind].mean_std,
  )


def families_of(kind: str) -> tuple[Family, Family]:
  """The tables of names of both towers of 'clip' or 'siglip', images first."""
  return _IMAGE[kind], _text_family(kind)


def _text_family(kind: str) -> Family:
  # Its settings are those of the whole config, so this one is never asked for them.
  return _IMAGE[kind]._replace(name=f"{kind}'s text tower", names=NAMES[f"{kind}_text"], kernel="")


def _siglip_version(source: str) -> str:
  """A SigLIP 2 of fixed resolution is a SigLIP but for its words, which are Gemma's."""
  tokenizer = files.read_json(source, "tokenizer_config.json") or {}
  return "siglip2" if "Gemma" in str(tokenizer.get("tokenizer_class")) else "siglip"


def _text(dim: int, found: dict[str, Any]) -> TextSettings:
  config = _CLIP_TEXT | found
  return _settings(config, dim, causal=True, pool="end", projection_bias=False)


def _siglip_text(found: dict[str, Any]) -> TextSettings:
  config = _SIGLIP_TEXT | found
  dim = config.get("projection_size", config["hidden_size"])
  return _settings(config, dim, causal=False, pool="last", projection_bias=True)


def _settings(config: dict[str, Any], dim: int, **more: Any) -> TextSettings:
  activation = config["hidden_act"]
  return TextSettings(
    sizes=(
      config["hidden_size"],
      config["num_hidden_layers"],
      config["num_attention_heads"],
      config["intermediate_size"],
    ),
    vocabulary=config["vocab_size"],
    context=config["max_position_embeddings"],
    dim=dim,
    activation=from_transformers.ACTIVATIONS.get(activation, activation),
    layer_norm_eps=config["layer_norm_eps"],
    **more,
  )


def _checked(source: str, whole: Whole) -> Whole:
  """`whole` with one number for the size of images; UserError where it cannot be built."""
  size, image, text = whole.image_size, whole.image, whole.text
  if isinstance(size, list | tuple) and len(set(size)) == 1:
    size = size[0]
  numbers = {
    "image_size": size, "patch_size": image.patch_size, "vocab_size": text.vocabulary,
    "context": text.context, "dim": text.dim,
    **{f"text {name}": x for name, x in zip(_SIZES, text.sizes, strict=True)},
    **{f"image {name}": x for name, x in zip(_SIZES, image[:4], strict=True)},
  }  # fmt: skip
  for name, x in numbers.items():
    if not isinstance(x, int) or isinstance(x, bool) or x < 1:
      raise files.fault(source, f"its config has {name} {x!r}, which is no whole number above 0")
  for side, (width, _, heads, _) in (("text", text.sizes), ("image", image[:4])):
    if width % heads:
      raise files.fault(source, f"its config has {heads} heads for {side} of width {width}")
  for activation in (text.activation, image.options.activation):
    if activation not in ACTIVATIONS:
      known = ", ".join(ACTIVATIONS)
      raise files.fault(source, f"its config says {activation}; the activations are {known}")
  if not whole.projected and image.width != text.dim:
    raise files.fault(
      source, f"its image features have {image.width} numbers, its text features {text.dim}"
    )
  return whole._replace(image_size=size)


_SIZES = ("width", "depth", "heads", "MLP width")
