"""Weights behind prefixes of training code, with heads, and of grids that are not square."""

import json
import logging

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lafg_jax.models import embedder
from lafg_jax.models.weights import load as pretrained
from lafg_jax.models.weights import resolve
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils.errors import UserError

SIZES = {"size": "custom", "width": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64}
NAMES = ("vit", "dinov2", "dinov3", "clip", "siglip")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, save_model):
  """{family: (folder as transformers saves it, its tensors)}."""
  found = {}
  for name in NAMES:
    folder = tmp_path_factory.mktemp(name)
    save_model(name, folder)
    found[name] = folder, load_file(folder / "model.safetensors")
  return found


def parameters(source, side=32, **changes):
  config = default.get_config()
  config.data.image_size = config.data.resize_size = side
  config.model.pretrained = str(source)
  config.model.embedding_dim = 0
  config.model.update(changes)
  config = resolve.resolve(config)
  vit = embedder.build(config.model).backbone
  like = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
  return pretrained.load_backbone(str(source), like)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


WRAPPERS = (
  *("module.", "model.", "backbone.", "_orig_mod.", "encoder.", "student.backbone."),
  *("module.model.backbone.", "_orig_mod.module.", "net.0._orig_mod.", "image_encoder.model."),
)


@pytest.mark.parametrize("name", NAMES)
def test_any_prefix_and_heads_beside_it_read_as_the_plain_file(name, saved, tmp_path, caplog):
  folder, tensors = saved[name]
  config = (folder / "config.json").read_text()
  want = parameters(folder)
  mlp = {"mlp_dim": int(json.loads(config).get("mlp_ratio", 2) * 32)}
  extra = {"arc_face.weight": np.ones((5, 32), np.float32), "queue_ptr": np.ones(1, np.float32)}
  # All prefixes with one family, two of them with each other one.
  wrappers = WRAPPERS if name == "vit" else WRAPPERS[NAMES.index(name) :: 5]
  for number, wrapper in enumerate(wrappers):
    path = tmp_path / str(number)
    path.mkdir()
    renamed = {wrapper + key: x for key, x in tensors.items()}
    # torch's own parts stand at any depth, and the others' heads beside the tower.
    beside = {} if set(wrapper.split(".")) <= {"module", "_orig_mod", ""} else extra
    save_file(renamed | beside, path / "model.safetensors")
    if number % 2:
      (path / "config.json").write_text(config)
      same(parameters(path), want)
    else:
      same(parameters(path / "model.safetensors", **SIZES | mlp), want)
  with caplog.at_level(logging.INFO, logger="absl"):
    parameters(path)
  assert not beside or ("left out: " in caplog.text and "arc_face.weight" in caplog.text)


def test_parts_of_names_that_torch_adds_at_any_depth(saved, tmp_path):
  folder, tensors = saved["vit"]
  renamed = {
    key.replace("layer.", "layer._orig_mod.").replace(
      "attention.output", "attention.module.output"
    ): x
    for key, x in tensors.items()
  }
  assert len(set(renamed) - set(tensors)) > 20
  save_file(renamed | {"n_averaged": np.ones((), np.int64)}, tmp_path / "model.safetensors")
  same(parameters(tmp_path / "model.safetensors", **SIZES), parameters(folder))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_shards_of_other_precisions_behind_a_prefix(saved, tmp_path, dtype):
  folder, tensors = saved["dinov2"]
  names = sorted(tensors)
  parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
  for file, part in parts.items():
    save_file({f"model.{key}": tensors[key].astype(dtype) for key in part}, tmp_path / file)
  index = {"weight_map": {f"model.{key}": file for file, part in parts.items() for key in part}}
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
  (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
  rounded = jax.tree.map(
    lambda x: np.asarray(x).astype(dtype).astype(np.float32), parameters(folder)
  )
  same(parameters(tmp_path), rounded)


def test_what_cannot_be_told_is_one_line(saved, tmp_path):
  torch = pytest.importorskip("torch")
  folder, tensors = saved["vit"]
  (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
  kernel = "encoder.layer.0.output.dense.weight"
  short = {key: x for key, x in tensors.items() if key != kernel}
  eight = tensors | {kernel: torch.zeros(32, 64).to(torch.float8_e4m3fn)}

  def of_torch():
    from safetensors.torch import save_file as save

    all_torch = {key: torch.as_tensor(x).contiguous() for key, x in eight.items()}
    save(all_torch, tmp_path / "model.safetensors")

  two = {f"{who}.{key}": x for who in ("student", "teacher") for key, x in tensors.items()}
  for content, says in (
    (two, "2 towers, behind 'student.', 'teacher.'"),
    ({f"module.{key}": x for key, x in short.items()}, rf"1 problems? \(missing {kernel}\)"),
    (tensors | {kernel: np.zeros((32, 64), np.int8)}, f"{kernel} is int8, no floats: quantised"),
    (
      {f"a.{key}": x for key, x in (tensors | {"norm_pre.weight": tensors[kernel]}).items()},
      "left over norm_pre.weight",
    ),
    (tensors | {"attn_pool.q.weight": tensors[kernel]}, "left over attn_pool.q.weight"),
    (of_torch, f"{kernel} is F8_E4M3; save the weights as float32"),
  ):
    content() if callable(content) else save_file(content, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=says) as error:
      parameters(tmp_path)
    assert "\n" not in str(error.value)
  # Of a file without a prefix, heads by their usual names are left out.
  for head in ("head.weight", "arcface.weight", "projector.0.weight", "logit_scale", "fc.bias"):
    save_file(tensors | {head: np.ones((3, 2), np.float32)}, tmp_path / "model.safetensors")
    same(parameters(tmp_path), parameters(folder))


def test_positions_of_a_grid_that_is_not_square(saved, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  # 2 x 8 is as many patches as 4 x 4: only the config tells them apart.
  for rows, columns in ((2, 8), (3, 5)):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
      hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
      patch_size=8, image_size=[8 * rows, 8 * columns],
    )  # fmt: skip
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
      for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path / f"{rows}x{columns}"
    model.save_pretrained(folder)
    # In its own shape, transformers' own features.
    image = np.random.default_rng(0).standard_normal((1, 8 * rows, 8 * columns, 3), np.float32)
    with torch.no_grad():
      want = model(torch.from_numpy(image.transpose(0, 3, 1, 2)))["last_hidden_state"][:, 0]
    vit, params = of_grid(folder, (rows, columns))
    np.testing.assert_allclose(jax.jit(vit.apply)({"params": params}, image), want, atol=1e-4)
    # In a square, positions by torch's own interpolation of the grid.
    whole = model.embeddings.position_embeddings.detach()
    grid = whole[:, 1:].reshape(1, rows, columns, 32).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic")
    got = parameters(folder, 48)["position_embedding"]
    np.testing.assert_allclose(got[:, :1], whole[:, :1])
    np.testing.assert_allclose(got[:, 1:], square.permute(0, 2, 3, 1).reshape(1, 36, 32), atol=1e-5)
  # Without a config nobody tells the rows and columns of 15 patches.
  (folder / "config.json").unlink()
  with pytest.raises(
    UserError,
    match="is 1 x 16 x 32, not 1 x 37 x 32: .* not square stand in a config.json with image_size",
  ):
    parameters(folder / "model.safetensors", 48, **SIZES)


def of_grid(folder, grid):
  config = default.get_config()
  config.model.pretrained, config.model.dtype = str(folder), "float32"
  config.data.image_size, config.model.embedding_dim = 32, 0
  vit = embedder.build(resolve.resolve(config).model).backbone
  shape = (1, *(8 * n for n in grid), 3)
  like = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros(shape))["params"]
  return vit, pretrained.load_backbone(str(folder), like, grid)


@pytest.mark.parametrize(
  ("config", "grid"),
  [
    ({"image_size": 32}, (4, 4)),
    ({"image_size": [16, 64]}, (2, 8)),
    ({"vision_config": {"image_size": 64}}, (8, 8)),
    ({"model_args": {"img_size": [48, 40]}, "pretrained_cfg": {"input_size": [3, 32, 32]}}, (6, 5)),
    ({"pretrained_cfg": {"input_size": [3, 32, 40]}}, (4, 5)),
    ({"image_size": "big"}, None),
    ({}, None),
    (None, None),
  ],
)
def test_the_grid_that_a_config_tells(config, grid):
  assert resolve.source_grid(config, 8) == grid
