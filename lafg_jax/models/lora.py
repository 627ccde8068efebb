"""LoRA (Hu et al., ICLR 2022): low-rank updates of a backbone's kernels.

Pure functions over the parameter tree; the networks are unchanged. The kernel that a layer reads is
W + alpha / r A B, where W is frozen, and A and B are in a subtree of their own.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lafg_jax.utils.errors import UserError


def init(key: jax.Array, backbone: dict[str, Any], rank: int, targets: str) -> dict[str, Any]:
  """The `lora` subtree: for each target kernel, at its own path, 'a' [in, r] and 'b' [r, out].

  A is normal with variance 1 / in and B is 0, so that training starts at the backbone as it is. A
  kernel of more axes counts as the matrix that its layer multiplies by.

  Args:
    key: draws A.
    backbone: the `backbone` parameters; only paths and shapes are used.
    rank: r, at least 1.
    targets: a regular expression over the paths of kernels, such as
      'backbone/block_0/attention/query/kernel'.

  Raises:
    UserError: no kernel has such a path, or the rank is more than a kernel can have.
  """
  flat = traverse_util.flatten_dict(backbone, sep="/")
  kernels = sorted(path for path in flat if path.split("/")[-1] == "kernel")
  found = [path for path in kernels if re.search(targets, f"backbone/{path}")]
  if not found:
    raise UserError(
      f"--config.model.lora_targets={targets}: no kernel has such a path; they are like "
      + ", ".join(f"backbone/{path}" for path in kernels[:3])
    )
  factors = {}
  for path, path_key in zip(found, jax.random.split(key, len(found)), strict=True):
    inputs, outputs = _matrix_shape(path, np.shape(flat[path]))
    if rank > min(inputs, outputs):
      raise UserError(
        f"--config.model.lora_rank={rank}: backbone/{path} is {inputs} x {outputs}, of rank "
        f"{min(inputs, outputs)} at most"
      )
    factors[f"{path}/a"] = jax.random.normal(path_key, (inputs, rank)) / np.sqrt(inputs)
    factors[f"{path}/b"] = jnp.zeros((rank, outputs))
  return traverse_util.unflatten_dict(factors, sep="/")


def merge(params: dict[str, Any], alpha: float) -> dict[str, Any]:
  """`params` without 'lora', its target kernels W replaced by W + alpha / r A B."""
  if "lora" not in params:
    return params
  backbone = traverse_util.flatten_dict(params["backbone"], sep="/")
  factors = traverse_util.flatten_dict(params["lora"], sep="/")
  for path in sorted(path.removesuffix("/a") for path in factors if path.endswith("/a")):
    a, b = factors[f"{path}/a"], factors[f"{path}/b"]
    update = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST) * (alpha / a.shape[1])
    backbone[path] = backbone[path] + update.reshape(backbone[path].shape)
  others = {name: x for name, x in params.items() if name != "lora"}
  return others | {"backbone": traverse_util.unflatten_dict(backbone, sep="/")}


def _matrix_shape(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
  """(in, out) of a kernel as the matrix that its layer multiplies by.

  Flax has dense kernels as [in, out], convolutions as [h, w, in, out], attention's projections as
  [in, heads, out] and the one behind the heads as [heads, in, out].
  """
  behind_heads = len(shape) == 3 and path.endswith("/out/kernel")
  inputs = len(shape) - 1 if len(shape) == 4 or behind_heads else 1
  return int(np.prod(shape[:inputs])), int(np.prod(shape[inputs:]))
