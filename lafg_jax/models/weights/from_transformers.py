"""ViTs of Hugging Face transformers: ViT and DINO, DINOv2, DINOv3, the towers of CLIP and SigLIP.

What their configs mean, and their facts in the form that family.py describes.
"""

from typing import Any

from lafg_jax.models.options import Options
from lafg_jax.models.weights.family import CLIP, IDENTITY, IMAGENET, NAMES, Family, Settings

# Of a whole CLIP or SigLIP: the text tower, and what joins the two towers.
_TEXT = r"^(text_model|text_projection|visual_projection|logit_scale|logit_bias)\b"
# The defaults of transformers' config classes: a config.json leaves out what equals them.
_BASE: dict[str, Any] = {
  "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
  "intermediate_size": 3072, "patch_size": 16, "hidden_act": "gelu",
}  # fmt: skip
ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
               "gelu_new": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}  # fmt: skip


def _settings(config: dict[str, Any], pool: str, **options: Any) -> Settings:
  """Settings from the keys that all of transformers' configs share."""
  options = {"activation": ACTIVATIONS.get(config["hidden_act"], config["hidden_act"])} | options
  patch = config["patch_size"]
  if isinstance(patch, list | tuple) and len(set(patch)) == 1:
    patch = patch[0]
  return Settings(
    width=config["hidden_size"],
    depth=config["num_hidden_layers"],
    num_heads=config["num_attention_heads"],
    mlp_dim=config["intermediate_size"],
    patch_size=patch,
    pool=pool,
    layer_norm_eps=config["layer_norm_eps"],
    options=Options(**options),
  )


def _biases(config: dict[str, Any]) -> tuple[str, ...]:
  return () if config.get("qkv_bias", True) else ("query", "key", "value")


def _vit(config: dict[str, Any]) -> Settings:
  config = _BASE | {"layer_norm_eps": 1e-12} | config
  return _settings(config, "token", unbiased=_biases(config))


def _dinov2(config: dict[str, Any]) -> Settings:
  registers = 4 if config.get("model_type") == "dinov2_with_registers" else 0
  patch_size = 16 if registers else 14
  config = _BASE | {"layer_norm_eps": 1e-6, "patch_size": patch_size, "mlp_ratio": 4} | config
  mlp_dim, gated = int(config["hidden_size"] * config["mlp_ratio"]), config.get("use_swiglu_ffn")
  if gated:
    # Two thirds, so that three layers cost as much as two would; rounded up to a multiple of 8.
    mlp_dim = (int(mlp_dim * 2 / 3) + 7) // 8 * 8
    config["hidden_act"] = "silu"
  return _settings(
    config | {"intermediate_size": mlp_dim},
    "token",
    layer_scale=True,
    gated_mlp=bool(gated),
    registers=config.get("num_register_tokens", registers),
    unbiased=_biases(config),
  )


def _dinov3(config: dict[str, Any]) -> Settings:
  small = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
  config = _BASE | small | {"layer_norm_eps": 1e-5} | config
  biased = {
    "query": config.get("query_bias", True),
    "key": config.get("key_bias", False),
    "value": config.get("value_bias", True),
    "out": config.get("proj_bias", True),
    "mlp": config.get("mlp_bias", True),
  }
  return _settings(
    config,
    "token",
    layer_scale=True,
    gated_mlp=config.get("use_gated_mlp", False),
    registers=config.get("num_register_tokens", 0),
    rotary_base=float(config.get("rope_theta", 100.0)),
    unbiased=tuple(layer for layer, bias in biased.items() if not bias),
  )


def _clip(config: dict[str, Any]) -> Settings:
  defaults = {"layer_norm_eps": 1e-5, "patch_size": 32, "hidden_act": "quick_gelu"}
  config = _BASE | defaults | config.get("vision_config", config)
  return _settings(config, "token", pre_norm=True, unbiased=("patch",))


def _siglip(config: dict[str, Any]) -> Settings:
  defaults = {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}
  config = _BASE | defaults | config.get("vision_config", config)
  return _settings(config, "map" if config.get("vision_use_head", True) else "mean")


_DINOV2_WITH_REGISTERS = Family(
  name="DINOv2 with registers",
  model_types=("dinov2_with_registers",),
  names=NAMES["dinov2"],
  settings=_dinov2,
  marker="embeddings.register_tokens",
  unused=r"^embeddings\.mask_token$|^classifier\.",
  prefix="dinov2_with_registers.",
  kernel="bicubic_antialias",
  mean_std=IMAGENET,
)
# The markers are looked for in this order: files of a family may have the marker of a later one.
FAMILIES = (
  Family(
    name="DINOv3",
    model_types=("dinov3_vit",),
    names=NAMES["dinov3"],
    settings=_dinov3,
    marker="layer.0.attention.q_proj.weight",
    unused=r"^embeddings\.mask_token$|^rope_embeddings\.",
    prefix="model.",
    mean_std=IMAGENET,
  ),
  _DINOV2_WITH_REGISTERS,
  _DINOV2_WITH_REGISTERS._replace(
    name="DINOv2",
    model_types=("dinov2",),
    marker="encoder.layer.0.layer_scale1.lambda1",
    prefix="dinov2.",
    kernel="bicubic",
  ),
  Family(
    # DINO is a ViT here; its preprocessor_config.json has ImageNet's mean and std.
    name="ViT",
    model_types=("vit",),
    names=NAMES["vit"],
    settings=_vit,
    marker="encoder.layer.0.layernorm_before.weight",
    unused=r"^(pooler|classifier|decoder)\.|^embeddings\.mask_token$",
    prefix="vit.",
    kernel="bicubic",
  ),
  Family(
    name="CLIP",
    model_types=("clip", "clip_vision_model"),
    names=NAMES["clip"],
    settings=_clip,
    marker="pre_layrnorm.weight",
    unused=rf"{_TEXT}|^embeddings\.position_ids$|^classifier\.",
    prefix="vision_model.",
    kernel="bicubic",
    mean_std=CLIP,
    projection="visual_projection.weight",
  ),
  Family(
    # SigLIP 2 of fixed resolution is a SigLIP here.
    name="SigLIP",
    model_types=("siglip", "siglip_vision_model"),
    names=NAMES["siglip"],
    settings=_siglip,
    marker="encoder.layers.0.layer_norm1.weight",
    unused=rf"{_TEXT}|^embeddings\.position_ids$|^head\.|^classifier\.",
    prefix="vision_model.",
    kernel="bicubic",
    projection=IDENTITY,
  ),
)
