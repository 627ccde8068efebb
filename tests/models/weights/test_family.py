"""Every family of transformers' ViTs against transformers itself, at its own size and at others."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lafg_jax.models import embedder
from lafg_jax.models.options import options_text
from lafg_jax.models.weights import from_transformers, resolve
from lafg_jax.models.weights import load as pretrained
from lafg_jax.tasks.class_retrieval import default

# What a config.json must tell beside the sizes.
OPTIONS = {
  "vit": "unbiased=query,key,value",
  "dinov2": "layer_scale",
  "dinov2_giant": "activation=silu gated_mlp layer_scale",
  "dinov2_with_registers": "layer_scale registers=4",
  "dinov3": "layer_scale registers=3 rotary_base=100.0 unbiased=key",
  "dinov3_gated": "activation=silu gated_mlp layer_scale rotary_base=100.0 unbiased=key",
  "clip": "activation=quick_gelu pre_norm unbiased=patch",
  "siglip": "activation=gelu_tanh",
}
SIZES = {"size": "custom", "width": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64}


def config_for(source, **changes):
  config = default.get_config()
  config.data.image_size = config.data.resize_size = 32
  config.model.pretrained = str(source)
  config.model.dtype = "float32"
  config.model.embedding_dim = 0
  config.model.update(changes)
  return resolve.resolve(config)


def load(config, size=(32, 32)):
  """The backbone and its pretrained parameters for images of `size` (rows, columns)."""
  vit = embedder.build(config.model).backbone
  like = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, *size, 3)))["params"]
  grid = tuple(n // config.model.patch_size for n in size)
  return vit, pretrained.load_backbone(config.model.pretrained, like, grid)


def pictures(*size):
  return np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)


def feature_of(out, name):
  # transformers' ViT has a pooler of its own behind the class token, which few weights come with.
  return out["last_hidden_state"][:, 0] if name.startswith("vit") else out["pooler_output"]


@pytest.mark.parametrize("name", OPTIONS)
def test_feature_equals_transformers_at_any_size(name, tmp_path, save_model, torch_tokens):
  model = save_model(name, tmp_path)
  config = config_for(tmp_path)
  assert config.model.options == OPTIONS[name]
  assert config.model.pool == ("map" if name == "siglip" else "token")
  asks = {"interpolate_pos_encoding": True} if name in ("vit", "clip", "siglip") else {}
  # Its own, a larger square, and as many patches as its own in another shape.
  for size, arguments in (((32, 32), {}), ((48, 48), asks), ((16, 64), asks)):
    images = pictures(*size)
    vit, params = load(config, size)
    got = jax.jit(vit.apply)({"params": params}, images)
    want = feature_of(torch_tokens(model, images, **arguments), name)
    assert np.abs(want).std() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_file_alone_tells_the_same_as_with_its_config(name, tmp_path, save_model):
  save_model(name, tmp_path / "model")
  shutil.copy(tmp_path / "model" / "model.safetensors", tmp_path / "alone.safetensors")
  expected = config_for(tmp_path / "model").model
  sizes = SIZES | {"mlp_dim": expected.mlp_dim}
  got = config_for(tmp_path / "alone.safetensors", **sizes).model
  assert got.to_dict() | {"pretrained": ""} == expected.to_dict() | {"pretrained": ""}


@pytest.mark.parametrize("name", ["clip_tower", "siglip_tower", "vit_classifier"])
def test_towers_and_classifiers_load_without_their_heads(name, tmp_path, save_model, torch_tokens):
  model = save_model(name, tmp_path)
  model = model.vit if name == "vit_classifier" else model
  vit, params = load(config_for(tmp_path))
  images = pictures(32, 32)
  want = feature_of(torch_tokens(model, images), name)
  np.testing.assert_allclose(jax.jit(vit.apply)({"params": params}, images), want, atol=1e-4)


@pytest.mark.parametrize("name", ["dinov2_with_registers", "siglip"])
def test_mean_pooling_is_over_patches_alone(name, tmp_path, save_model, torch_tokens):
  model = save_model(name, tmp_path)
  config = config_for(tmp_path, pool="mean")
  vit, params = load(config)
  images = pictures(32, 32)
  tokens = torch_tokens(model, images)["last_hidden_state"]
  assert tokens.shape[1] == 16 + vit.num_prefix
  want = tokens[:, vit.num_prefix :].mean(axis=1)
  np.testing.assert_allclose(jax.jit(vit.apply)({"params": params}, images), want, atol=1e-4)
  # A class token that nothing reads is still there: the patches attend to it.
  assert ("class_token" in params) == (name != "siglip")


CONFIGS = {"vit": "ViTConfig", "dinov2": "Dinov2Config", "dinov3_vit": "DINOv3ViTConfig",
           "dinov2_with_registers": "Dinov2WithRegistersConfig", "clip": "CLIPConfig",
           "siglip": "SiglipConfig", "clip_vision_model": "CLIPVisionConfig",
           "siglip_vision_model": "SiglipVisionConfig"}  # fmt: skip


@pytest.mark.parametrize("model_type", CONFIGS)
def test_what_a_config_leaves_out_is_as_transformers_has_it(model_type):
  transformers = pytest.importorskip("transformers")
  whole = getattr(transformers, CONFIGS[model_type])().to_dict()
  family = resolve.detect("x", whole, {})
  assert family in from_transformers.FAMILIES
  assert family.settings(whole) == family.settings({"model_type": model_type})


def precisions(jaxpr, found):
  """{name of a primitive: dtypes of its inputs}, inner programs included."""
  for equation in jaxpr.eqns:
    dtypes = {str(v.aval.dtype) for v in equation.invars if hasattr(v.aval, "dtype")}
    found.setdefault(equation.primitive.name, set()).update(dtypes)
    for inner in jax.core.jaxprs_in_params(equation.params):
      precisions(inner, found)
  return found


def test_bfloat16_keeps_softmax_and_norms_in_float32(tmp_path, save_model):
  save_model("dinov3", tmp_path)
  images = pictures(32, 32)
  vit, params = load(config_for(tmp_path))
  half, _ = load(config_for(tmp_path, dtype="bfloat16"))
  found = precisions(jax.make_jaxpr(half.apply)({"params": params}, images).jaxpr, {})
  assert found["dot_general"] == {"bfloat16"}
  # Of the softmax, and of the LayerNorms.
  assert found["exp"] == found["rsqrt"] == {"float32"}
  a, b = (np.asarray(jax.jit(x.apply)({"params": params}, images)) for x in (half, vit))
  assert a.dtype == np.float32
  cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
  assert (cosine > 0.999).all() and not np.array_equal(a, b)


def test_one_size_is_traced_once(tmp_path, save_model):
  save_model("dinov3", tmp_path)
  vit, params = load(config_for(tmp_path))
  traced = []

  @jax.jit
  def apply(params, images):
    traced.append(images.shape)
    return vit.apply({"params": params}, images)

  for _ in range(2):
    apply(params, pictures(32, 32))
    params = jax.tree.map(lambda x: x * 1.5, params)
  assert len(traced) == 1


def test_options_are_written_as_they_are_read():
  for text in OPTIONS.values():
    assert options_text(resolve.parse_options(text)) == text
  for wrong in ("no_such", "registers", "layer_scale=1", "registers=-1", "unbiased=sky",
                "activation=relu", "rotary_base=nan", "registers=few"):  # fmt: skip
    with pytest.raises(ValueError):
      resolve.parse_options(wrong)
