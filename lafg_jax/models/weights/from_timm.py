"""ViTs of timm: augreg (in21k, in1k), DeiT, DINO, MAE, and DINOv2 with or without registers.

timm's config.json names an architecture and says little of its sizes: they are in the name, except
where the folder was saved with other ones (model_args). ViTs with parts that are not in the table
(CLIP, SigLIP, hybrids) are refused by name, or by their tensors that are left over.
"""

import re
from typing import Any

from lafg_jax.models.options import Options
from lafg_jax.models.weights.family import HALF, Family, Settings
from lafg_jax.utils.errors import UserError

NAMES = {
  "class_token": "cls_token",
  "position_embedding": "pos_embed",
  "registers": "reg_token",
  "patch_embedding/patch": "patch_embed.proj",
  "block_{i}/norm_1": "blocks.{i}.norm1",
  "block_{i}/norm_2": "blocks.{i}.norm2",
  "block_{i}/attention/query/kernel": "blocks.{i}.attn.qkv.weight | 1/3",
  "block_{i}/attention/query/bias": "blocks.{i}.attn.qkv.bias | 1/3",
  "block_{i}/attention/key/kernel": "blocks.{i}.attn.qkv.weight | 2/3",
  "block_{i}/attention/key/bias": "blocks.{i}.attn.qkv.bias | 2/3",
  "block_{i}/attention/value/kernel": "blocks.{i}.attn.qkv.weight | 3/3",
  "block_{i}/attention/value/bias": "blocks.{i}.attn.qkv.bias | 3/3",
  "block_{i}/attention/out": "blocks.{i}.attn.proj",
  "block_{i}/scale_1": "blocks.{i}.ls1.gamma",
  "block_{i}/scale_2": "blocks.{i}.ls2.gamma",
  "block_{i}/mlp_1": "blocks.{i}.mlp.fc1",
  "block_{i}/mlp_2": "blocks.{i}.mlp.fc2",
  "norm": "norm",
}
LAYER_NORM_EPS = 1e-6
# embed_dim, depth, num_heads
SIZES = {
  "tiny": (192, 12, 3),
  "small": (384, 12, 6),
  "base": (768, 12, 12),
  "large": (1024, 24, 16),
}
ARCHITECTURE = re.compile(
  r"(?:vit|deit)_(?P<size>tiny|small|base|large)_patch(?P<patch>\d+)"
  r"(?:_reg(?P<registers>\d+))?_(?:(?P<dinov2>dinov2)|\d+)"
)
# Of its model_args, those that are read here or change nothing in the network.
READ = {"embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio", "reg_tokens", "init_values"}
HARMLESS = {"img_size", "num_classes", "in_chans", "global_pool", "no_embed_class", "drop_rate",
            "drop_path_rate", "dynamic_img_size", "dynamic_img_pad", "strict_img_size"}  # fmt: skip


def settings(config: dict[str, Any]) -> Settings:
  """Settings from timm's config.json; of {}, what all of these have in common.

  Raises:
    UserError: an architecture of other parts than the plain ViT, registers and layer scale.
  """
  if not config:
    return Settings(0, 0, 0, 0, 0, "token", LAYER_NORM_EPS)
  name, changes = str(config.get("architecture")), dict(config.get("model_args") or {})
  known = ARCHITECTURE.fullmatch(name.split(".")[0])
  unread = sorted(set(changes) - READ - HARMLESS)
  if known is None or unread:
    raise UserError(
      f"--config.model.pretrained: timm's {' with '.join([name, *unread])} is not among what can "
      "be read: vit_ and deit_ of tiny, small, base and large, _dinov2 and _reg4_dinov2"
    )
  width, depth, num_heads = SIZES[known["size"]]
  width = changes.get("embed_dim", width)
  # A DINOv2 has a scale on every branch; None is timm's way to have none.
  init_values = changes.get("init_values", 1e-5 if known["dinov2"] else None)
  pretrained = config.get("pretrained_cfg") or config
  return Settings(
    width=width,
    depth=changes.get("depth", depth),
    num_heads=changes.get("num_heads", num_heads),
    mlp_dim=int(width * changes.get("mlp_ratio", 4)),
    patch_size=changes.get("patch_size", int(known["patch"])),
    pool="token",
    layer_norm_eps=LAYER_NORM_EPS,
    options=Options(
      layer_scale=init_values is not None,
      registers=changes.get("reg_tokens", int(known["registers"] or 0)),
    ),
    mean=tuple(pretrained["mean"]) if "mean" in pretrained else None,
    std=tuple(pretrained["std"]) if "std" in pretrained else None,
  )


FAMILY = Family(
  name="ViT of timm",
  # The second is a timm model that transformers saved.
  model_types=("timm", "timm_wrapper"),
  names=NAMES,
  settings=settings,
  marker="blocks.0.attn.qkv.weight",
  prefixes=("timm_model.",),
  unused=r"^(head|pre_logits)\.",
  kernel="bicubic_antialias",
  mean=HALF,
  std=HALF,
  architecture=r"(vit|deit)_",
)
