"""The weights that a checkpoint means: those that were trained, or the moving average of them."""

from typing import Any

from lafg_jax.training import checkpoints, partition
from lafg_jax.training.frozen_weights import Arrays


def of(arrays: Arrays) -> dict[str, Any]:
  """The whole parameter tree; what train.ema averaged stands in the place of what was trained."""
  params = checkpoints.subtree(arrays, "state/params")
  return partition.join(params, checkpoints.subtree(arrays, "state/ema"))
