"""Every family of transformers' ViTs against transformers itself, at its own size and at others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from lafg_jax.models import backbones, embedder, pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8}  # fmt: skip
MLP = TINY | {"intermediate_size": 64}
TEXT = MLP | {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
INTERPOLATE = {"interpolate_pos_encoding": True}


def _clip():
  config = transformers.CLIPConfig(text_config=TEXT, vision_config=MLP, projection_dim=16)
  return transformers.CLIPModel(config)


def _siglip():
  return transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=MLP))


# Builder, the arguments that resample positions, and what resolve must find beside the sizes.
MODELS = {
  "vit": (
    lambda: transformers.ViTModel(transformers.ViTConfig(**MLP, qkv_bias=False)),
    INTERPOLATE,
    "unbiased=query,key,value",
  ),
  "dinov2": (
    lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TINY, mlp_ratio=2)),
    {},
    "layer_scale",
  ),
  "dinov2_giant": (
    lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TINY, use_swiglu_ffn=True)),
    {},
    "activation=silu gated_mlp layer_scale",
  ),
  "dinov2_with_registers": (
    lambda: transformers.Dinov2WithRegistersModel(
      transformers.Dinov2WithRegistersConfig(**TINY, mlp_ratio=2)
    ),
    {},
    "layer_scale registers=4",
  ),
  "dinov3": (
    lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**MLP, num_register_tokens=3)),
    {},
    "layer_scale registers=3 rotary_base=100.0 unbiased=key",
  ),
  "dinov3_gated": (
    lambda: transformers.DINOv3ViTModel(
      transformers.DINOv3ViTConfig(**MLP, use_gated_mlp=True, hidden_act="silu")
    ),
    {},
    "activation=silu gated_mlp layer_scale rotary_base=100.0 unbiased=key",
  ),
  "clip": (_clip, INTERPOLATE, "activation=quick_gelu pre_norm unbiased=patch"),
  "siglip": (_siglip, INTERPOLATE, "activation=gelu_tanh"),
}


def build(name, folder):
  """A random model of transformers, saved; no parameter of it is 0 or 1 all over."""
  torch.manual_seed(0)
  model = MODELS[name][0]().eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  model.save_pretrained(folder)
  return getattr(model, "vision_model", model)


def config_for(source, **changes):
  config = default.get_config()
  config.data.image_size = config.data.resize_size = 32
  config.model.pretrained = str(source)
  config.model.dtype = "float32"
  config.model.embedding_dim = 0
  config.model.update(changes)
  return backbones.resolve(config)


def load(config, size):
  """The backbone and its pretrained parameters for images of `size` (rows, columns)."""
  vit = embedder.build(config.model).backbone
  like = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, *size, 3)))["params"]
  grid = tuple(n // config.model.patch_size for n in size)
  return vit, pretrained.load_backbone(config.model.pretrained, like, grid)


def feature_of(model, name, images, **arguments):
  with torch.no_grad():
    out = model(torch.from_numpy(images.transpose(0, 3, 1, 2)), **arguments)
  # transformers' ViT has a pooler of its own behind the class token, which few weights come with.
  return (out.last_hidden_state[:, 0] if name == "vit" else out.pooler_output).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_feature_equals_transformers_at_any_size(name, tmp_path):
  model = build(name, tmp_path)
  config = config_for(tmp_path)
  assert config.model.options == MODELS[name][2]
  assert config.model.pool == ("map" if name == "siglip" else "token")
  rng = np.random.default_rng(0)
  # Its own, a larger square, and two sides of which one is smaller.
  for size, arguments in (((32, 32), {}), ((48, 48), MODELS[name][1]), ((24, 56), MODELS[name][1])):
    images = rng.standard_normal((2, *size, 3)).astype(np.float32)
    vit, params = load(config, size)
    got = jax.jit(vit.apply)({"params": params}, images)
    want = feature_of(model, name, images, **arguments)
    print("ERR", name, size, np.abs(got - want).max(), np.abs(want).max())
    assert np.abs(want).std() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-4)
