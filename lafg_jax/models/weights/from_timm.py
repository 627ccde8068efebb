"""ViTs of timm: augreg (in21k, in1k), DeiT, DINO, MAE, and DINOv2 with or without registers.

timm's config.json names an architecture, and the name tells the sizes; model_args are what differs
from it. ViTs with other parts than names.toml lists (CLIP, SigLIP, hybrids) are an error: by their
name, or by their tensors that are left over.
"""

import re
from typing import Any

from lafg_jax.models.options import SIZES, Options
from lafg_jax.models.weights.family import NAMES, Family, Settings, published_mean_std
from lafg_jax.utils.errors import UserError

_LAYER_NORM_EPS = 1e-6
_ARCHITECTURE = re.compile(
  r"(?:vit|deit)_(?P<size>tiny|small|base|large)_patch(?P<patch>\d+)"
  r"(?:_reg(?P<registers>\d+))?_(?:(?P<dinov2>dinov2)|\d+)"
)
# Of its model_args, those that are read here, and those that change nothing in the network.
_READ = {"embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio", "reg_tokens", "init_values"}
_HARMLESS = {
  "img_size", "num_classes", "in_chans", "global_pool", "no_embed_class", "drop_rate",
  "drop_path_rate", "dynamic_img_size", "dynamic_img_pad", "strict_img_size",
}  # fmt: skip


def settings(config: dict[str, Any]) -> Settings:
  """Settings from timm's config.json; from {}, what all of these ViTs share.

  Raises:
    UserError: an architecture of other parts than the plain ViT, registers and layer scale.
  """
  if not config:
    return Settings(0, 0, 0, 0, 0, "token", _LAYER_NORM_EPS)
  name, changes = str(config.get("architecture")), dict(config.get("model_args") or {})
  known = _ARCHITECTURE.fullmatch(name.split(".")[0])
  unread = sorted(set(changes) - _READ - _HARMLESS)
  if known is None or unread:
    raise UserError(
      f"--config.model.pretrained: timm's {' with '.join([name, *unread])} is not among what can "
      "be read: vit_ and deit_ of tiny, small, base and large, _dinov2 and _reg4_dinov2"
    )
  width, depth, num_heads, _ = SIZES[known["size"]]
  width = changes.get("embed_dim", width)
  # A DINOv2 has a scale on every branch; None is timm's way to have none.
  init_values = changes.get("init_values", 1e-5 if known["dinov2"] else None)
  return Settings(
    width=width,
    depth=changes.get("depth", depth),
    num_heads=changes.get("num_heads", num_heads),
    mlp_dim=int(width * changes.get("mlp_ratio", 4)),
    patch_size=changes.get("patch_size", int(known["patch"])),
    pool="token",
    layer_norm_eps=_LAYER_NORM_EPS,
    options=Options(
      layer_scale=init_values is not None,
      registers=changes.get("reg_tokens", int(known["registers"] or 0)),
    ),
    **published_mean_std(config.get("pretrained_cfg") or config),
  )


FAMILY = Family(
  name="ViT of timm",
  # The second is a timm model that transformers saved.
  model_types=("timm", "timm_wrapper"),
  names=NAMES["timm"],
  settings=settings,
  marker="blocks.0.attn.qkv.weight",
  unused=r"^(head|pre_logits)\.",
  prefix="timm_model.",
  kernel="bicubic_antialias",
  bare_class=True,
  architecture=r"(vit|deit)_",
)
