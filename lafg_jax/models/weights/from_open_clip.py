"""CLIP and SigLIP in open_clip's own layout: open_clip_config.json and its names of tensors.

Its image towers are its own ViT, or for SigLIP timm's. Its defaults are those of its classes
CLIPVisionCfg and CLIPTextCfg. What changes the network and is not read here is refused by name.
"""

import re
from collections.abc import Mapping
from typing import Any

from lafg_jax.models.options import Options
from lafg_jax.models.weights import files, resolve
from lafg_jax.models.weights.family import CLIP, NAMES, Family, Settings, TextSettings, Whole
from lafg_jax.models.weights.files import Tensor

_FILE = "open_clip_config.json"
_VISION: dict[str, Any] = {
  "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16,
  "image_size": 224, "ls_init_value": None, "no_ln_pre": False, "pool_type": "tok",
  "pos_embed_type": "learnable", "act_kwargs": None, "norm_kwargs": None,
}  # fmt: skip
_TEXT: dict[str, Any] = {
  "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12,
  "mlp_ratio": 4.0, "no_causal_mask": False, "pool_type": "argmax", "proj_bias": False,
  "proj_type": "linear", "act_kwargs": None, "norm_kwargs": None,
}  # fmt: skip
# What changes nothing in the features of a whole image or text.
_HARMLESS = re.compile(
  r"patch_dropout|attn_pooler_\w+|output_tokens|final_ln_after_pool|(hf_)?tokenizer_\w+|pad_id|"
  r"eos_id|hf_\w+_pretrained|hf_proj_type|hf_pooler_type|timm_(model_pretrained|drop|drop_path)"
)
# Of timm's SigLIPs, heads by size, and those whose GELU is approximated by tanh.
_SIGLIP = re.compile(r"vit_(?P<size>base|large|so400m|giantopt)_patch\d+_siglip_\d+")
_HEADS = {"base": 12, "large": 16, "so400m": 16, "giantopt": 16}
_TANH = re.compile(r"vit_(base_patch32|large_patch16_siglip_512|so400m_patch16|giantopt)")


def _sizes(section: dict[str, Any]) -> tuple[int, int, int]:
  """Width, depth and MLP width."""
  width = section["width"]
  return width, section["layers"], int(width * section["mlp_ratio"])


def _vit(section: dict[str, Any]) -> Settings:
  section = _VISION | section
  width, depth, mlp_dim = _sizes(section)
  return Settings(
    width,
    depth,
    width // section["head_width"],
    mlp_dim,
    section["patch_size"],
    "token",
    _eps(section),
    Options(
      activation=_activation(section),
      pre_norm=not section["no_ln_pre"],
      layer_scale=section["ls_init_value"] is not None,
      unbiased=("patch",),
    ),
  )


def _siglip(section: dict[str, Any]) -> Settings:
  """Without sizes, which are measured on the tensors: of timm's ViT of that name."""
  name = str(section.get("timm_model_name"))
  size = _SIGLIP.fullmatch(name)
  activation = "gelu_tanh" if _TANH.match(name) else "gelu"
  heads = _HEADS[size["size"]] if size else 0
  return Settings(0, 0, heads, 0, 0, "map", 1e-6, Options(activation=activation))


_OWN, _TIMM = (
  Family(
    name=f"{kind} of open_clip",
    model_types=(),
    names=NAMES[names],
    settings=settings,
    marker=marker,
    unused="",
    kernel="bicubic_antialias",
    mean_std=CLIP,
  )
  for kind, names, settings, marker in (
    ("CLIP", "open_clip_image", _vit, "visual.transformer.resblocks.0.attn.in_proj_weight"),
    ("SigLIP", "open_clip_timm", _siglip, "visual.trunk.blocks.0.attn.qkv.weight"),
  )
)
# The image towers of its layout.
IMAGES = (_OWN, _TIMM)


def read(source: str, family: Family, tensors: Mapping[str, Tensor]) -> Whole:
  """What open_clip_config.json says of both towers.

  Args:
    source: as `files.find` takes it.
    family: of IMAGES.
    tensors: by open_clip's names.

  Raises:
    UserError: there is no such file, or it describes parts that are not read here.
  """
  config = files.read_json(source, _FILE)
  if config is None:
    raise files.fault(source, f"no {_FILE} beside it, which has heads and activations")
  try:
    return _read(source, family, tensors, config)
  except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    what = f"{type(error).__name__}: {error}"
    raise files.fault(source, f"its {_FILE} describes no {family.name} ({what})") from error


def _read(
  source: str, family: Family, tensors: Mapping[str, Tensor], config: dict[str, Any]
) -> Whole:
  model = config.get("model_cfg", config)
  vision, text = (
    {key: x for key, x in model[name].items() if x is not None}
    for name in ("vision_cfg", "text_cfg")
  )
  _refuse_unread(source, family, model, vision, text)
  quick = {"quick": bool(model.get("quick_gelu"))}
  settings = family.settings(vision | quick)
  if family is _TIMM:
    settings = _measured(source, settings, tensors)
  found = config.get("preprocess_cfg") or {}
  mean, std = (found.get(key, x) for key, x in zip(("mean", "std"), family.mean_std, strict=True))
  return Whole(
    kind=_kind(family, text),
    image=settings,
    image_family=family,
    image_size=vision.get("image_size", 224),
    projected=family is _OWN,
    text=_text(model["embed_dim"], _TEXT | text | quick),
    text_family=_text_family(family, tensors, bool(text.get("proj_bias"))),
    mean_std=resolve.checked_mean_std(source, _FILE, mean, std),
  )


def _kind(family: Family, text: dict[str, Any]) -> str:
  if family is _OWN:
    return "clip"
  return "siglip2" if "SigLIP2" in str(text.get("hf_tokenizer_name")) else "siglip"


def _refuse_unread(
  source: str, family: Family, model: dict[str, Any], *sections: dict[str, Any]
) -> None:
  """Raises UserError for parts of a network that are built nowhere here."""
  vision, text = sections
  known = dict(_VISION)
  if family is _TIMM:
    known = {"image_size": 0, "timm_model_name": "", "timm_pool": "map", "timm_proj": "none"}
  unread = ["multimodal_cfg"] if model.get("multimodal_cfg") else []
  for section, have in ((vision, known), (text, _TEXT)):
    unread += [key for key in section if key not in have and not _HARMLESS.fullmatch(key)]
  # A flag that is off asks for nothing.
  unread = [key for key in unread if (vision | text | model).get(key)]
  fixed = (
    (vision, "pool_type", ("tok",)),
    (vision, "pos_embed_type", ("learnable",)),
    (vision, "timm_pool", ("map",)),
    (vision, "timm_proj", ("none", "")),
    (text, "pool_type", ("argmax", "eos", "last")),
    (text, "proj_type", ("linear",)),
  )
  unread += [f"{key} {at[key]}" for at, key, good in fixed if key in at and at[key] not in good]
  name = vision.get("timm_model_name")
  if family is _TIMM and not _SIGLIP.fullmatch(str(name)):
    unread.append(f"timm_model_name {name}")
  if unread:
    raise files.fault(
      source,
      f"its {_FILE} has {', '.join(unread)}, which cannot be read; take open_clip's own ViTs, or "
      "its SigLIPs whose image tower is timm's vit_*_siglip_*",
    )


def _measured(source: str, settings: Settings, tensors: Mapping[str, Tensor]) -> Settings:
  """timm's sizes, which its name stands for, as the tensors have them."""
  found = resolve.measured(source, _TIMM, tensors)
  return settings._replace(
    width=found.width, depth=found.depth, mlp_dim=found.mlp_dim, patch_size=found.patch_size
  )


def _text(dim: int, section: dict[str, Any]) -> TextSettings:
  width, depth, mlp_dim = _sizes(section)
  return TextSettings(
    sizes=(width, depth, section["heads"], mlp_dim),
    vocabulary=section["vocab_size"],
    context=section["context_length"],
    dim=dim,
    activation=_activation(section),
    layer_norm_eps=_eps(section),
    causal=not section["no_causal_mask"],
    pool="last" if section["pool_type"] == "last" else "end",
    projection_bias=bool(section["proj_bias"]),
  )


def _text_family(family: Family, tensors: Mapping[str, Tensor], layer: bool) -> Family:
  names = dict(NAMES["open_clip_text"])
  if layer:
    names["projection"] = names.pop("projection/kernel").removesuffix("|T")
  if "text.positional_embedding" in tensors:
    names = {our: f"text.{theirs}" for our, theirs in names.items()}
  return family._replace(name="open_clip's text tower", names=names, kernel="")


def _activation(section: dict[str, Any]) -> str:
  if section["quick"]:
    return "quick_gelu"
  approximate = (section["act_kwargs"] or {}).get("approximate", "none")
  return "gelu_tanh" if approximate == "tanh" else "gelu"


def _eps(section: dict[str, Any]) -> float:
  return float((section["norm_kwargs"] or {}).get("eps", 1e-5))
