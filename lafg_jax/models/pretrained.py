"""Pretrained backbones: Hugging Face ViT safetensors, renamed into our parameter tree."""

import json
import os
import re
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import traverse_util

from lafg_jax.errors import UserError

# Ours on the left; {i} is the number of the block. A kernel is the transpose of torch's weight.
_NAMES = {
  "class_token": "embeddings.cls_token",
  "position_embedding": "embeddings.position_embeddings",
  "patch_embedding/patch/kernel": "embeddings.patch_embeddings.projection.weight",
  "patch_embedding/patch/bias": "embeddings.patch_embeddings.projection.bias",
  "norm/scale": "layernorm.weight",
  "norm/bias": "layernorm.bias",
  "block_{i}/norm_1/scale": "encoder.layer.{i}.layernorm_before.weight",
  "block_{i}/norm_1/bias": "encoder.layer.{i}.layernorm_before.bias",
  "block_{i}/norm_2/scale": "encoder.layer.{i}.layernorm_after.weight",
  "block_{i}/norm_2/bias": "encoder.layer.{i}.layernorm_after.bias",
  "block_{i}/attention/query/kernel": "encoder.layer.{i}.attention.attention.query.weight",
  "block_{i}/attention/query/bias": "encoder.layer.{i}.attention.attention.query.bias",
  "block_{i}/attention/key/kernel": "encoder.layer.{i}.attention.attention.key.weight",
  "block_{i}/attention/key/bias": "encoder.layer.{i}.attention.attention.key.bias",
  "block_{i}/attention/value/kernel": "encoder.layer.{i}.attention.attention.value.weight",
  "block_{i}/attention/value/bias": "encoder.layer.{i}.attention.attention.value.bias",
  "block_{i}/attention/out/kernel": "encoder.layer.{i}.attention.output.dense.weight",
  "block_{i}/attention/out/bias": "encoder.layer.{i}.attention.output.dense.bias",
  "block_{i}/mlp_1/kernel": "encoder.layer.{i}.intermediate.dense.weight",
  "block_{i}/mlp_1/bias": "encoder.layer.{i}.intermediate.dense.bias",
  "block_{i}/mlp_2/kernel": "encoder.layer.{i}.output.dense.weight",
  "block_{i}/mlp_2/bias": "encoder.layer.{i}.output.dense.bias",
}
# Heads that the files carry and a backbone has no use for.
_UNUSED = re.compile(r"^(pooler|classifier)\.")


def load_backbone(source: str, template: dict[str, Any]) -> dict[str, Any]:
  """The `backbone` parameters from a Hugging Face ViT, in the shapes of `template`.

  Args:
    source: a .safetensors file, a folder with model.safetensors, or a hub id.
    template: parameters of the ViT that the config describes; only names and shapes are used.

  Raises:
    UserError: nothing there, no network, or tensors missing, left over or of another shape.
  """
  tensors = {name.removeprefix("vit."): x for name, x in _read(find(source)).items()}
  flat = traverse_util.flatten_dict(template, sep="/")
  problems, loaded = [], {}
  for path, like in flat.items():
    name = torch_name(path)
    if name not in tensors:
      problems.append(f"missing {name or path}")
      continue
    loaded[path] = _reshape(path, tensors.pop(name), np.shape(like))
    if loaded[path].shape != np.shape(like):
      shape = " x ".join(map(str, loaded[path].shape))
      problems.append(f"{name} is {shape}, not {' x '.join(map(str, np.shape(like)))}")
  problems += [f"left over {name}" for name in tensors if not _UNUSED.match(name)]
  if problems:
    shown = "; ".join(problems[:6]) + ("; ..." if len(problems) > 6 else "")
    raise UserError(
      f"--config.model.pretrained={source} does not fit the model, {len(problems)} problems "
      f"({shown}): check model.size, model.patch_size, model.pool and data.image_size"
    )
  logging.info("backbone: %d tensors from %s", len(loaded), source)
  return traverse_util.unflatten_dict({p: jax.numpy.asarray(x) for p, x in loaded.items()}, sep="/")


def torch_name(path: str) -> str | None:
  """The tensor that holds our parameter, e.g. of 'block_3/mlp_1/kernel'; None if there is none."""
  block = re.match(r"block_(\d+)/", path)
  name = _NAMES.get(re.sub(r"block_\d+/", "block_{i}/", path))
  return name.replace("{i}", block[1]) if name and block else name


def _reshape(path: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  x = np.asarray(x, np.float32)
  if path.endswith("kernel"):
    # Convolutions are [out, in, h, w] there and [h, w, in, out] here.
    x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
  # Attention splits the width into heads: the same numbers, one axis more.
  return x.reshape(shape) if x.size == np.prod(shape) and "/attention/" in path else x


def find(source: str) -> str:
  """The local safetensors file of a path, a folder or a hub id (downloaded and cached).

  Raises:
    UserError: nothing is there or the hub cannot be reached.
  """
  key = f"--config.model.pretrained={source}"
  if os.path.isfile(source):
    return source
  if os.path.isdir(source):
    path = os.path.join(source, "model.safetensors")
    if not os.path.isfile(path):
      raise UserError(f"{key}: the folder has no model.safetensors")
    return path
  from huggingface_hub import errors, hf_hub_download

  try:
    return hf_hub_download(source, "model.safetensors")
  except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError,
          errors.OfflineModeIsEnabled, OSError) as error:  # fmt: skip
    raise UserError(
      f"{key}: no such file or folder, and the hub did not give it "
      f"({type(error).__name__}); pass a folder with model.safetensors, or train from scratch with "
      "--config.model.pretrained="
    ) from error


def _read(path: str) -> dict[str, np.ndarray]:
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  try:
    return load_file(path)
  except (SafetensorError, OSError, json.JSONDecodeError) as error:
    raise UserError(f"--config.model.pretrained: {path} cannot be read: {error}") from error
