"""The ViT and its pretrained weights against transformers, number by number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lafg_jax.models import embedder as embedders
from lafg_jax.models.vit import ViT
from lafg_jax.models.weights import load
from lafg_jax.tasks.class_retrieval import projectors
from lafg_jax.utils.errors import UserError

SIZE = {"width": 48, "depth": 3, "num_heads": 4, "mlp_dim": 96, "patch_size": 8}


@pytest.fixture(scope="module")
def torch_vit(tmp_path_factory):
  """A random ViT of transformers, saved as a user has it, and its outputs."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  config = transformers.ViTConfig(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    patch_size=8,
    image_size=32,
    layer_norm_eps=1e-12,
  )
  model = transformers.ViTModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      # Fresh biases are 0 and norms 1: a mix-up of them would not show.
      parameter.add_(0.1 * torch.randn_like(parameter))
  folder = tmp_path_factory.mktemp("vit")
  model.save_pretrained(folder)
  images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
  with torch.no_grad():
    out = model(torch.from_numpy(images.transpose(0, 3, 1, 2)))
  return folder, images, out.last_hidden_state.numpy()


def template(**changes):
  vit = ViT(**(SIZE | {"layer_norm_eps": 1e-12} | changes))
  shapes = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
  return vit, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def test_class_token_equals_transformers(torch_vit):
  folder, images, hidden = torch_vit
  vit, like = template()
  params = load.load_backbone(str(folder), like)
  got = jax.jit(vit.apply)({"params": params}, images)
  np.testing.assert_allclose(got, hidden[:, 0], atol=1e-4)


def test_a_file_a_folder_and_a_classifier_checkpoint_all_load(torch_vit, tmp_path):
  folder, images, hidden = torch_vit
  from safetensors.numpy import load_file, save_file

  tensors = load_file(folder / "model.safetensors")
  tensors = {f"vit.{k}": v for k, v in tensors.items() if not k.startswith("pooler")}
  tensors["classifier.weight"] = np.zeros((10, 48), np.float32)
  save_file(tensors, tmp_path / "finetuned.safetensors")
  vit, like = template()
  apply = jax.jit(vit.apply)
  for source in (folder / "model.safetensors", tmp_path / "finetuned.safetensors"):
    params = load.load_backbone(str(source), like)
    np.testing.assert_allclose(apply({"params": params}, images), hidden[:, 0], atol=1e-4)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"depth": 4}, "missing encoder.layer.3"),
    ({"depth": 2}, "left over encoder.layer.2"),
    ({"mlp_dim": 64}, "not 48 x 64"),
    ({"pool": "mean"}, "left over embeddings.cls_token"),
  ],
)
def test_weights_that_do_not_fit_are_listed(torch_vit, changes, says):
  with pytest.raises(UserError, match=says):
    load.load_backbone(str(torch_vit[0]), template(**changes)[1])


def test_missing_and_damaged_weights_are_one_line(tmp_path, monkeypatch):
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  like = template()[1]
  with pytest.raises(UserError, match="no model.safetensors"):
    load.load_backbone(str(tmp_path), like)
  (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
  with pytest.raises(UserError, match="cannot be read"):
    load.load_backbone(str(tmp_path), like)
  with pytest.raises(UserError, match="model.pretrained=no/such-model"):
    load.load_backbone("no/such-model", like)


def test_mean_pooling_is_the_mean_of_the_patch_tokens():
  images = np.random.default_rng(1).standard_normal((2, 32, 32, 3)).astype(np.float32)
  vit = ViT(**SIZE, pool="mean")
  params = jax.jit(vit.init)(jax.random.key(1), images)["params"]
  apply = jax.jit(lambda x: vit.apply({"params": params}, x, capture_intermediates=True))
  got, state = apply(images)
  tokens = state["intermediates"]["norm"]["__call__"][0]
  assert tokens.shape == (2, 16, 48)
  np.testing.assert_allclose(got, np.asarray(tokens).mean(axis=1), atol=1e-5)


def test_conv_stem_has_the_patch_grid_and_sees_every_pixel():
  images = np.random.default_rng(1).standard_normal((1, 32, 32, 3)).astype(np.float32)
  vit = ViT(**SIZE | {"depth": 1}, pool="mean", conv_stem=True)
  params = jax.jit(vit.init)(jax.random.key(1), images)["params"]
  assert params["position_embedding"].shape == (1, 16, 48)
  gradient = jax.jit(jax.grad(lambda x: vit.apply({"params": params}, x)[0, 0]))(images)
  assert (np.abs(gradient).sum(axis=-1) > 0).all()


def test_bfloat16_computes_near_float32_and_returns_float32():
  images = np.random.default_rng(2).standard_normal((2, 32, 32, 3)).astype(np.float32)
  vit = ViT(**SIZE)
  params = jax.jit(vit.init)(jax.random.key(2), images)["params"]
  half = jax.jit(ViT(**SIZE, dtype=jnp.bfloat16).apply)({"params": params}, images)
  full = jax.jit(vit.apply)({"params": params}, images)
  assert half.dtype == jnp.float32
  assert np.abs(half - full).max() > 0
  np.testing.assert_allclose(half, full, atol=0.1)


def test_embedder_normalises_with_its_own_mean_and_std():
  model = ConfigDict(
    {
      **SIZE,
      "size": "custom",
      "pool": "mean",
      "options": "",
      "conv_stem": False,
      "layer_norm_eps": 1e-6,
      "dtype": "float32",
      "embedding_dim": 5,
      "embedding_norm": "",
      "gem_p": 3.0,
      "gem_learned": True,
      "num_prompts": 0,
      "prompts_depth": "shallow",
      "lora_alpha": 1.0,
      "remat": "none",
      "mean": (0.2, 0.4, 0.6),
      "std": (0.1, 0.2, 0.3),
    }
  )
  embedder = embedders.build(model)
  images = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), np.uint8)
  params = embedders.init_params(embedder, 32, jax.random.key(0))
  normalised = (images / 255.0 - np.array(model.mean)) / np.array(model.std)
  feature = jax.jit(embedder.backbone.apply)({"params": params["backbone"]}, normalised)
  expected = feature @ params["embedding"]["kernel"] + params["embedding"]["bias"]
  np.testing.assert_allclose(
    jax.jit(embedder.apply)({"params": params}, images), expected, atol=1e-4
  )


@pytest.mark.parametrize(("classes", "width"), [(5, 16), (16, 16), (40, 16)])
def test_class_vectors(classes, width):
  orthogonal = projectors.class_vectors("orthogonal", classes, width, seed=0)
  gram = orthogonal @ orthogonal.T
  np.testing.assert_allclose(np.diag(gram), 1, atol=1e-5)
  if classes <= width:
    np.testing.assert_allclose(gram, np.eye(classes), atol=1e-5)
  else:
    # No orthonormal set of more than W vectors exists; they still fill the space.
    assert np.linalg.matrix_rank(orthogonal) == width
  onehot = projectors.class_vectors("onehot", classes, width, seed=0)
  np.testing.assert_allclose(np.linalg.norm(onehot, axis=1), 1, atol=1e-5)
  assert not np.allclose(orthogonal, projectors.class_vectors("orthogonal", classes, width, seed=1))
