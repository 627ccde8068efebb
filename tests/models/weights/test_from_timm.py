"""Weights as timm saves them, against timm itself, which runs in a process of its own.

Small models of random weights are written by tests/timm_oracle/save_models.py; timm is installed
without torchvision (Makefile), for which that process has a stand-in.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lafg_jax.models.options import Options
from lafg_jax.models.resnet import ResNet
from lafg_jax.models.vit import ViT
from lafg_jax.models.weights import from_timm, load
from lafg_jax.utils.errors import UserError

ORACLE = Path(__file__).parents[2] / "timm_oracle"
# 'wide' was trained with 3 x 5 patches.
VITS = ("vit", "vit_in21k", "dinov2", "wide", "registers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """What save_models.py writes."""
  if not importlib.util.find_spec("timm"):
    pytest.skip("timm is not installed")
  folder = tmp_path_factory.mktemp("timm")
  subprocess.run(
    [sys.executable, str(ORACLE / "save_models.py"), str(folder)],
    env=os.environ | {"PYTHONPATH": str(ORACLE)},
    check=True,
    timeout=1000,
  )
  return folder


def read_config(folder):
  return json.loads((folder / "config.json").read_text())


def vit_of(settings):
  fields = settings._asdict()
  return ViT(**{k: v for k, v in fields.items() if k not in ("mean", "std", "size")})


def expected(folder):
  """(h, w), images and timm's features of each size; the native size first."""
  with np.load(folder / "expected.npz") as file:
    arrays = dict(file)
  for name in (n for n in arrays if n.startswith("images_")):
    size = tuple(map(int, name.removeprefix("images_").split("x")))
    yield size, arrays[name], arrays[name.replace("images", "features")]


def parameters(module, folder, size, grid=None):
  images = np.zeros((1, *size, 3), np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
  like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  return load.load_backbone(str(folder), like, grid)


@pytest.mark.parametrize("name", VITS)
def test_vits_equal_timm_at_their_own_and_other_sizes(folders, name):
  folder = folders / name
  vit = vit_of(from_timm.settings(read_config(folder)))
  seen = 0
  for size, images, features in expected(folder):
    grid = tuple(side // vit.patch_size for side in size)
    params = parameters(vit, folder, size, grid)
    got = jax.jit(vit.apply)({"params": params}, images)
    np.testing.assert_allclose(got, features, atol=1e-4, err_msg=f"{name} at {size}")
    seen += 1
  assert seen > 1


def test_a_model_of_timm_that_transformers_saved(folders, tmp_path):
  from safetensors.numpy import load_file, save_file

  tensors = load_file(folders / "vit" / "model.safetensors")
  save_file({f"timm_model.{n}": x for n, x in tensors.items()}, tmp_path / "model.safetensors")
  config = read_config(folders / "vit") | {"model_type": "timm_wrapper"}
  (tmp_path / "config.json").write_text(json.dumps(config))
  vit = vit_of(from_timm.settings(config))
  plain, wrapped = (parameters(vit, folder, (32, 32)) for folder in (folders / "vit", tmp_path))
  jax.tree.map(np.testing.assert_array_equal, plain, wrapped)


def test_resnet_equals_timm(folders):
  folder = folders / "resnet"
  resnet = ResNet(depths=(1, 2, 1, 1), channels=(16, 24, 32, 40))
  params = parameters(resnet, folder, (64, 64))
  for size, images, features in expected(folder):
    got = jax.jit(resnet.apply)({"params": params}, images)
    np.testing.assert_allclose(got, features, atol=1e-4, err_msg=f"at {size}")


def test_settings_are_those_of_the_file(folders):
  settings = from_timm.settings(read_config(folders / "vit"))
  assert settings[:5] == (48, 2, 4, 192, 8)
  assert settings.mean == settings.std == (0.5, 0.5, 0.5)
  registers = from_timm.settings(read_config(folders / "registers"))
  assert registers.options == Options(layer_scale=True, registers=4)
  assert registers.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
  ("architecture", "sizes", "options"),
  [
    ("vit_tiny_patch16_224", (192, 12, 3, 768, 16), Options()),
    ("vit_small_patch32_384", (384, 12, 6, 1536, 32), Options()),
    ("vit_base_patch16_224.augreg_in21k", (768, 12, 12, 3072, 16), Options()),
    ("vit_large_patch16_224", (1024, 24, 16, 4096, 16), Options()),
    ("deit_small_patch16_224", (384, 12, 6, 1536, 16), Options()),
    ("vit_base_patch14_dinov2", (768, 12, 12, 3072, 14), Options(layer_scale=True)),
    ("vit_small_patch14_reg4_dinov2", (384, 12, 6, 1536, 14), Options("gelu", False, True, 4)),
  ],
)
def test_sizes_are_in_the_name_of_a_published_model(architecture, sizes, options):
  # As the hub has it: no model_args, mean and std in pretrained_cfg.
  config = {"architecture": architecture, "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
  settings = from_timm.settings(config)
  assert (settings[:5], settings.options) == (sizes, options)
  assert settings.mean == (0.1, 0.1, 0.1) and settings.std == (0.2, 0.2, 0.2)


@pytest.mark.parametrize(
  ("config", "says"),
  [
    ({"architecture": "vit_base_patch16_clip_224"}, "timm's vit_base_patch16_clip_224 is not"),
    ({"architecture": "vit_base_patch16_224_miil"}, "_miil"),
    ({"architecture": "vit_base_patch16_224", "model_args": {"qk_norm": True}}, "with qk_norm"),
  ],
)
def test_vits_of_other_parts_are_refused(config, says):
  with pytest.raises(UserError, match=says):
    from_timm.settings(config)
