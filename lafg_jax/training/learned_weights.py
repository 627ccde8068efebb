"""The weights that a checkpoint means: those that were trained, or the moving average of them."""

from typing import Any

from flax import traverse_util

from lafg_jax.training import checkpoints
from lafg_jax.training.frozen_weights import Arrays


def of(arrays: Arrays) -> dict[str, Any]:
  """The whole parameter tree; what train.ema averaged stands in the place of what was trained."""
  params = checkpoints.subtree(arrays, "state/params")
  average = checkpoints.subtree(arrays, "state/ema")
  # Not `optimizers.join`: a restored model needs no optax.
  flat = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(average)
  return traverse_util.unflatten_dict(flat)
