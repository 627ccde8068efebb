"""Checkpoints of vit_jax (google-research/vision_transformer): NumPy .npz, augreg and before."""

import zipfile
from typing import Any

import numpy as np

from lafg_jax.models.options import Options
from lafg_jax.models.weights.family import NAMES, Family, Settings
from lafg_jax.utils.errors import UserError

# The sizes of a ViT are read off these.
_SIZED = (
  "embedding/kernel",
  "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
  "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel",
)


def read(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The arrays of a vit_jax .npz as torch would keep them, and the config of `settings`.

  Returns:
    Tensors under vit_jax's names, with '.weight' [out, in] ([out, in, p, p] of the patches) in
    place of '/kernel' and '/scale' and '.bias' in place of '/bias'; and the sizes of the ViT.

  Raises:
    UserError: the file cannot be read, or is no ViT of vit_jax.
  """
  key = f"--config.model.pretrained={path}"
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
  except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f"{key} cannot be read: {error}") from error
  missing = [name for name in _SIZED if name not in arrays]
  if missing:
    raise UserError(f"{key}: not a ViT of vit_jax, it has no {missing[0]}")
  return _as_torch(arrays), _sizes(arrays)


def _sizes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  embedding, query, mlp = (arrays[name].shape for name in _SIZED)
  return {
    "width": embedding[-1],
    "depth": len({name.split("/")[1] for name in arrays if "/encoderblock_" in name}),
    "num_heads": query[1],
    "mlp_dim": mlp[-1],
    "patch_size": embedding[0],
    "pool": "token" if "cls" in arrays else "mean",
  }


def _as_torch(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renamed and transposed as `read` says; other arrays than kernel, scale and bias stay."""
  tensors = {}
  for name, x in arrays.items():
    module, _, leaf = name.rpartition("/")
    if leaf == "kernel" and x.ndim == 4:
      tensors[f"{module}.weight"] = x.transpose(3, 2, 0, 1)
    elif leaf == "kernel":
      # Heads and their channels are two axes: the last two, or the first two of the output layer.
      inputs = x.shape[0] * (x.shape[1] if x.ndim == 3 and module.endswith("/out") else 1)
      tensors[f"{module}.weight"] = x.reshape(inputs, -1).T
    elif leaf in ("scale", "bias"):
      tensors[f"{module}.{'weight' if leaf == 'scale' else 'bias'}"] = x.reshape(-1)
    else:
      tensors[name] = x
  return tensors


def settings(config: dict[str, Any]) -> Settings:
  """Settings from the config that `read` gives."""
  # Flax's defaults: gelu in the tanh form, and an epsilon of 1e-6 in LayerNorm.
  sizes = {key: value for key, value in config.items() if key != "model_type"}
  return Settings(**sizes, layer_norm_eps=1e-6, options=Options(activation="gelu_tanh"))


FAMILY = Family(
  name="ViT of vit_jax",
  model_types=("vit_jax",),
  names=NAMES["vit_jax"],
  settings=settings,
  marker="Transformer/encoder_norm.weight",
  unused=r"^(head|pre_logits)\.",
  kernel="bilinear_corners",
)
