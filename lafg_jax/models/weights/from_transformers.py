"""ViTs of Hugging Face transformers: ViT and DINO, DINOv2, DINOv3, the towers of CLIP and SigLIP.

Tables and configs in the form that models/families.py describes.
"""

from typing import Any

from lafg_jax.models.options import Options
from lafg_jax.models.weights.family import (
  CLIP_MEAN,
  CLIP_STD,
  HALF,
  IDENTITY,
  IMAGENET_MEAN,
  IMAGENET_STD,
  Family,
  Settings,
)

# Of a ViT with a class token, under the names that BEiT and DINO came with.
_EMBEDDINGS = {
  "class_token": "embeddings.cls_token",
  "position_embedding": "embeddings.position_embeddings",
  "registers": "embeddings.register_tokens",
  "patch_embedding/patch": "embeddings.patch_embeddings.projection",
}
_ATTENTION = {
  "block_{i}/attention/query": "encoder.layer.{i}.attention.attention.query",
  "block_{i}/attention/key": "encoder.layer.{i}.attention.attention.key",
  "block_{i}/attention/value": "encoder.layer.{i}.attention.attention.value",
  "block_{i}/attention/out": "encoder.layer.{i}.attention.output.dense",
}
_VIT = {
  **_EMBEDDINGS,
  **_ATTENTION,
  "block_{i}/norm_1": "encoder.layer.{i}.layernorm_before",
  "block_{i}/norm_2": "encoder.layer.{i}.layernorm_after",
  "block_{i}/mlp_1": "encoder.layer.{i}.intermediate.dense",
  "block_{i}/mlp_2": "encoder.layer.{i}.output.dense",
  "norm": "layernorm",
}
_DINOV2 = {
  **_EMBEDDINGS,
  **_ATTENTION,
  "block_{i}/norm_1": "encoder.layer.{i}.norm1",
  "block_{i}/norm_2": "encoder.layer.{i}.norm2",
  "block_{i}/scale_1": "encoder.layer.{i}.layer_scale1.lambda1",
  "block_{i}/scale_2": "encoder.layer.{i}.layer_scale2.lambda1",
  "block_{i}/mlp_1": "encoder.layer.{i}.mlp.fc1",
  "block_{i}/mlp_2": "encoder.layer.{i}.mlp.fc2",
  "block_{i}/mlp_gate": "encoder.layer.{i}.mlp.weights_in | 1/2",
  "block_{i}/mlp_up": "encoder.layer.{i}.mlp.weights_in | 2/2",
  "block_{i}/mlp_down": "encoder.layer.{i}.mlp.weights_out",
  "norm": "layernorm",
}
_DINOV3 = {
  "class_token": "embeddings.cls_token",
  "registers": "embeddings.register_tokens",
  "patch_embedding/patch": "embeddings.patch_embeddings",
  "block_{i}/norm_1": "layer.{i}.norm1",
  "block_{i}/norm_2": "layer.{i}.norm2",
  "block_{i}/attention/query": "layer.{i}.attention.q_proj",
  "block_{i}/attention/key": "layer.{i}.attention.k_proj",
  "block_{i}/attention/value": "layer.{i}.attention.v_proj",
  "block_{i}/attention/out": "layer.{i}.attention.o_proj",
  "block_{i}/scale_1": "layer.{i}.layer_scale1.lambda1",
  "block_{i}/scale_2": "layer.{i}.layer_scale2.lambda1",
  "block_{i}/mlp_1": "layer.{i}.mlp.up_proj",
  "block_{i}/mlp_2": "layer.{i}.mlp.down_proj",
  "block_{i}/mlp_gate": "layer.{i}.mlp.gate_proj",
  "block_{i}/mlp_up": "layer.{i}.mlp.up_proj",
  "block_{i}/mlp_down": "layer.{i}.mlp.down_proj",
  "norm": "norm",
}
_CLIP = {
  "class_token": "embeddings.class_embedding",
  "position_embedding": "embeddings.position_embedding.weight",
  "patch_embedding/patch": "embeddings.patch_embedding",
  # Misspelt so in the files.
  "pre_norm": "pre_layrnorm",
  "block_{i}/norm_1": "encoder.layers.{i}.layer_norm1",
  "block_{i}/norm_2": "encoder.layers.{i}.layer_norm2",
  "block_{i}/attention/query": "encoder.layers.{i}.self_attn.q_proj",
  "block_{i}/attention/key": "encoder.layers.{i}.self_attn.k_proj",
  "block_{i}/attention/value": "encoder.layers.{i}.self_attn.v_proj",
  "block_{i}/attention/out": "encoder.layers.{i}.self_attn.out_proj",
  "block_{i}/mlp_1": "encoder.layers.{i}.mlp.fc1",
  "block_{i}/mlp_2": "encoder.layers.{i}.mlp.fc2",
  "norm": "post_layernorm",
}
# SigLIP has neither class token nor pre_norm, and a head that pools.
_SIGLIP = {our: name for our, name in _CLIP.items() if our not in ("class_token", "pre_norm")} | {
  "map_head/probe": "head.probe",
  "map_head/attention/query/kernel": "head.attention.in_proj_weight | 1/3",
  "map_head/attention/query/bias": "head.attention.in_proj_bias | 1/3",
  "map_head/attention/key/kernel": "head.attention.in_proj_weight | 2/3",
  "map_head/attention/key/bias": "head.attention.in_proj_bias | 2/3",
  "map_head/attention/value/kernel": "head.attention.in_proj_weight | 3/3",
  "map_head/attention/value/bias": "head.attention.in_proj_bias | 3/3",
  "map_head/attention/out": "head.attention.out_proj",
  "map_head/norm": "head.layernorm",
  "map_head/mlp_1": "head.mlp.fc1",
  "map_head/mlp_2": "head.mlp.fc2",
}
# A whole CLIP or SigLIP: the text tower, and what joins the two.
_TEXT = r"^(text_model|text_projection|visual_projection|logit_scale|logit_bias)\b"


# A config.json leaves out what equals the defaults of its class: these are theirs.
_BASE: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3072, "patch_size": 16, "hidden_act": "gelu"}  # fmt: skip
_ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
                "gelu_new": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}  # fmt: skip


def _settings(config: dict[str, Any], pool: str, **options: Any) -> Settings:
  """Settings from the keys that all of transformers' configs share."""
  options = {"activation": _ACTIVATIONS.get(config["hidden_act"], config["hidden_act"])} | options
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
    # Two thirds, for the third layer costs as much as each of the others; a multiple of 8.
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


# In the order in which markers are looked for: a later one may stand in files of an earlier one.
FAMILIES = (
  Family(
    name="DINOv3",
    model_types=("dinov3_vit",),
    names=_DINOV3,
    settings=_dinov3,
    marker="layer.0.attention.q_proj.weight",
    prefixes=("model.",),
    unused=r"^embeddings\.mask_token$|^rope_embeddings\.",
    kernel="",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
  ),
  Family(
    name="DINOv2 with registers",
    model_types=("dinov2_with_registers",),
    names=_DINOV2,
    settings=_dinov2,
    marker="embeddings.register_tokens",
    prefixes=("dinov2_with_registers.",),
    unused=r"^embeddings\.mask_token$|^classifier\.",
    kernel="bicubic_antialias",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
  ),
  Family(
    name="DINOv2",
    model_types=("dinov2",),
    names=_DINOV2,
    settings=_dinov2,
    marker="encoder.layer.0.layer_scale1.lambda1",
    prefixes=("dinov2.",),
    unused=r"^embeddings\.mask_token$|^classifier\.",
    kernel="bicubic",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
  ),
  Family(
    # DINO is a ViT here; its preprocessor_config.json has ImageNet's mean and std.
    name="ViT",
    model_types=("vit",),
    names=_VIT,
    settings=_vit,
    marker="encoder.layer.0.layernorm_before.weight",
    prefixes=("vit.",),
    unused=r"^(pooler|classifier|decoder)\.|^embeddings\.mask_token$",
    kernel="bicubic",
    mean=HALF,
    std=HALF,
  ),
  Family(
    name="CLIP",
    model_types=("clip", "clip_vision_model"),
    names=_CLIP,
    settings=_clip,
    marker="pre_layrnorm.weight",
    prefixes=("vision_model.",),
    unused=rf"{_TEXT}|^embeddings\.position_ids$|^classifier\.",
    kernel="bicubic",
    mean=CLIP_MEAN,
    std=CLIP_STD,
    projection="visual_projection.weight",
  ),
  Family(
    # SigLIP 2 of fixed resolution is a SigLIP here.
    name="SigLIP",
    model_types=("siglip", "siglip_vision_model"),
    names=_SIGLIP,
    settings=_siglip,
    marker="encoder.layers.0.layer_norm1.weight",
    prefixes=("vision_model.",),
    unused=rf"{_TEXT}|^embeddings\.position_ids$|^head\.|^classifier\.",
    kernel="bicubic",
    mean=HALF,
    std=HALF,
    projection=IDENTITY,
  ),
)
