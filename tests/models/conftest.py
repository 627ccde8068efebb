"""Tiny random models of transformers, one a family, as a user has them on disk."""

import functools

import pytest

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8}  # fmt: skip
MLP = TINY | {"intermediate_size": 64}
TEXT = MLP | {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
# Class of the model, class of its config, and what the config says.
MODELS = {
  "vit": ("ViTModel", "ViTConfig", MLP | {"qkv_bias": False}),
  "vit_classifier": ("ViTForImageClassification", "ViTConfig", MLP),
  "dinov2": ("Dinov2Model", "Dinov2Config", TINY | {"mlp_ratio": 2}),
  "dinov2_giant": ("Dinov2Model", "Dinov2Config", TINY | {"use_swiglu_ffn": True}),
  "dinov2_with_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", TINY),
  "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", MLP | {"num_register_tokens": 3}),
  "dinov3_gated": (
    "DINOv3ViTModel",
    "DINOv3ViTConfig",
    MLP | {"use_gated_mlp": True, "hidden_act": "silu"},
  ),
  "clip": ("CLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": MLP}),
  "clip_tower": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", MLP),
  "siglip": ("SiglipModel", "SiglipConfig", {"text_config": TEXT, "vision_config": MLP}),
  "siglip_tower": ("SiglipVisionModel", "SiglipVisionConfig", MLP),
}


@pytest.fixture(scope="session")
def save_model():
  """A function (name, folder) that saves a random model of MODELS and returns its image tower."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")

  def save(name, folder, **options):
    model_class, config_class, values = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**values)).eval()
    with torch.no_grad():
      for parameter in model.parameters():
        # Fresh biases, registers and tokens are 0 and norms and scales 1: no mix-up would show.
        parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder, **options)
    return getattr(model, "vision_model", model)

  return save


# Whole CLIPs: three blocks, so that prompts flow on through the last; an end token (3) that is not
# the largest id, as CLIP's own is.
_TALL = MLP | {"num_hidden_layers": 3}
_WORDS = _TALL | {"vocab_size": 40, "max_position_embeddings": 12, "bos_token_id": 1,
                  "eos_token_id": 3, "pad_token_id": 0}  # fmt: skip
_GELU = {"hidden_act": "gelu"}
_NAFLEX = {key: x for key, x in _TALL.items() if key != "image_size"} | {"num_patches": 16}
WHOLE = {
  "clip": ("CLIP", {"text_config": _WORDS, "vision_config": _TALL, "projection_dim": 24}),
  "clip_gelu": (
    "CLIP",
    {"text_config": _WORDS | _GELU, "vision_config": _TALL | _GELU, "projection_dim": 16},
  ),
  "siglip": ("Siglip", {"text_config": _WORDS, "vision_config": _TALL}),
  "siglip2": ("Siglip2", {"text_config": _WORDS, "vision_config": _NAFLEX}),
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
  """A function (name of WHOLE) -> (random model of transformers, folder it is saved in)."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")

  @functools.cache
  def saved(name):
    kind, values = WHOLE[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**values)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
      for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(name)
    model.save_pretrained(folder)
    return model, folder

  return saved


@pytest.fixture(scope="session")
def loaded(whole):
  """A function (name of WHOLE, image_size) -> (its Clip, its parameters)."""
  from lafg_jax.models import clip

  return functools.cache(lambda name, size=0: clip.load(str(whole(name)[1]), size))


@pytest.fixture(scope="session")
def torch_tokens():
  """A function (model, images [B, H, W, 3], **arguments) -> its output, with NumPy arrays."""
  torch = pytest.importorskip("torch")

  def run(model, images, **arguments):
    with torch.no_grad():
      out = model(torch.from_numpy(images.transpose(0, 3, 1, 2)), **arguments)
    return {name: x.numpy() for name, x in out.items() if hasattr(x, "numpy")}

  return run
