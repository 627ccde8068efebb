"""CLIP and SigLIP in open_clip's own layout, renamed from transformers' by rules written here."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lafg_jax.models import clip as clips
from lafg_jax.utils.errors import UserError


def blocks(tensors, theirs, ours, names):
  """transformers' blocks behind `theirs` under other names, with q, k and v in one tensor."""
  out = {}
  for leaf in ("weight", "bias"):
    for i in range(3):
      of = {
        name: tensors[f"{theirs}.{i}.{name}.{leaf}"]
        for name in ("self_attn.out_proj", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
      }
      qkv = [tensors[f"{theirs}.{i}.self_attn.{x}_proj.{leaf}"] for x in "qkv"]
      joint, *others = names
      out[f"{ours}.{i}.{joint.replace('*', leaf)}"] = np.concatenate(qkv)
      for new, x in zip(others, of.values(), strict=True):
        out[f"{ours}.{i}.{new}.{leaf}"] = x
  return out


_RESBLOCK = ("attn.in_proj_*", "attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
_TIMM_BLOCK = ("attn.qkv.*", "attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2")


def text_of_open_clip(t, prefix):
  out = blocks(t, "text_model.encoder.layers", "transformer.resblocks", _RESBLOCK)
  out["token_embedding.weight"] = t["text_model.embeddings.token_embedding.weight"]
  out["positional_embedding"] = t["text_model.embeddings.position_embedding.weight"]
  for leaf in ("weight", "bias"):
    out[f"ln_final.{leaf}"] = t[f"text_model.final_layer_norm.{leaf}"]
  return {prefix + name: x for name, x in out.items()}


def clip_of_open_clip(t, prefix=""):
  out = text_of_open_clip(t, prefix) | {"logit_scale": t["logit_scale"]}
  out[f"{prefix}text_projection"] = t["text_projection.weight"].T
  out["visual.proj"] = t["visual_projection.weight"].T
  vision = "vision_model.embeddings"
  out["visual.class_embedding"] = t[f"{vision}.class_embedding"]
  out["visual.positional_embedding"] = t[f"{vision}.position_embedding.weight"]
  out["visual.conv1.weight"] = t[f"{vision}.patch_embedding.weight"]
  for leaf in ("weight", "bias"):
    out[f"visual.ln_pre.{leaf}"] = t[f"vision_model.pre_layrnorm.{leaf}"]
    out[f"visual.ln_post.{leaf}"] = t[f"vision_model.post_layernorm.{leaf}"]
  layers = "vision_model.encoder.layers"
  return out | blocks(t, layers, "visual.transformer.resblocks", _RESBLOCK)


def siglip_of_open_clip(t):
  out = text_of_open_clip(t, "text.")
  out |= {name: t[name] for name in ("logit_scale", "logit_bias")}
  vision, trunk, head = "vision_model", "visual.trunk", "vision_model.head"
  out[f"{trunk}.pos_embed"] = t[f"{vision}.embeddings.position_embedding.weight"][None]
  out[f"{trunk}.attn_pool.latent"] = t[f"{head}.probe"]
  for leaf in ("weight", "bias"):
    out[f"text.text_projection.{leaf}"] = t[f"text_model.head.{leaf}"]
    patches = t[f"{vision}.embeddings.patch_embedding.{leaf}"]
    out[f"{trunk}.patch_embed.proj.{leaf}"] = patches
    out[f"{trunk}.norm.{leaf}"] = t[f"{vision}.post_layernorm.{leaf}"]
    q, k, v = np.split(t[f"{head}.attention.in_proj_{leaf}"], 3)
    out[f"{trunk}.attn_pool.q.{leaf}"] = q
    out[f"{trunk}.attn_pool.kv.{leaf}"] = np.concatenate([k, v])
    out[f"{trunk}.attn_pool.proj.{leaf}"] = t[f"{head}.attention.out_proj.{leaf}"]
    out[f"{trunk}.attn_pool.norm.{leaf}"] = t[f"{head}.layernorm.{leaf}"]
    for layer in ("fc1", "fc2"):
      out[f"{trunk}.attn_pool.mlp.{layer}.{leaf}"] = t[f"{head}.mlp.{layer}.{leaf}"]
  return out | blocks(t, "vision_model.encoder.layers", f"{trunk}.blocks", _TIMM_BLOCK)


_TEXT = {"context_length": 12, "vocab_size": 40, "width": 32, "heads": 2, "layers": 3,
         "mlp_ratio": 2.0}  # fmt: skip
_CLIP = {
  "embed_dim": 24,
  "quick_gelu": True,
  "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "mlp_ratio": 2.0,
                 "patch_size": 8},
  "text_cfg": _TEXT,
}  # fmt: skip
_SIGLIP = {
  "embed_dim": 32,
  "custom_text": True,
  "init_logit_bias": -10,
  "vision_cfg": {"image_size": 32, "timm_model_name": "vit_so400m_patch16_siglip_256",
                 "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"},
  "text_cfg": _TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last",
                       "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
                       "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
                       "tokenizer_kwargs": {"clean": "canonicalize"}},
}  # fmt: skip


def save_open_clip(folder, tensors, model, name="open_clip_model.safetensors", **preprocess):
  tensors = {key: np.ascontiguousarray(x) for key, x in tensors.items()}
  save_file(tensors, folder / name)
  config = {"model_cfg": model, "preprocess_cfg": preprocess}
  (folder / "open_clip_config.json").write_text(json.dumps(config))
  return str(folder)


@pytest.mark.parametrize("prefix", ["", "text."])
def test_the_layout_of_open_clip_gives_the_same_clip(whole, loaded, tmp_path, prefix):
  tensors = clip_of_open_clip(load_file(whole("clip")[1] / "model.safetensors"), prefix)
  name = "open_clip_pytorch_model.safetensors" if prefix else "open_clip_model.safetensors"
  (clip, params), (want, theirs) = (
    clips.load(save_open_clip(tmp_path, tensors, _CLIP, name)),
    loaded("clip"),
  )
  jax.tree.map(np.testing.assert_array_equal, params, theirs)
  assert clip._replace(tokens=want.tokens) == want and clip.tokens.context == 12


def test_siglip_of_open_clip_and_timm_gives_the_same_siglip(whole, loaded, tmp_path):
  tensors = siglip_of_open_clip(load_file(whole("siglip")[1] / "model.safetensors"))
  half = {"mean": [0.5] * 3, "std": [0.5] * 3}
  # timm's So400m has 16 heads, whatever its width; the model of transformers has 2.
  clip, params = clips.load(save_open_clip(tmp_path, tensors, _SIGLIP, **half))
  want, theirs = loaded("siglip")
  assert clip.image.sizes == (32, 3, 16, 64)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.ravel(), b.ravel()), params, theirs)
  image = clip.image.clone(sizes=want.image.sizes)
  assert clip._replace(tokens=want.tokens, image=image) == want


@pytest.mark.parametrize(
  ("section", "values", "says"),
  [
    ("vision_cfg", {"attentional_pool": True}, "has attentional_pool, which cannot be read"),
    ("vision_cfg", {"pool_type": "avg"}, "has pool_type avg"),
    ("text_cfg", {"hf_model_name": "roberta-base"}, "has hf_model_name"),
    ("text_cfg", {"embed_cls": True}, "has embed_cls"),
    ("text_cfg", {"width": "wide"}, "describes no CLIP of open_clip"),
  ],
)
def test_what_open_clip_builds_and_we_do_not_is_refused(whole, tmp_path, section, values, says):
  tensors = clip_of_open_clip(load_file(whole("clip")[1] / "model.safetensors"))
  source = save_open_clip(tmp_path, tensors, _CLIP | {section: _CLIP[section] | values})
  with pytest.raises(UserError, match=says) as error:
    clips.load(source)
  assert "\n" not in str(error.value)
