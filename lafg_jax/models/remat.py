"""What a backward pass computes again in place of keeping it."""

from typing import Any

import flax.linen as nn
import jax


def rematerialised(block: Any, remat: str) -> Any:
  """A block of a backbone whose backward pass keeps less; its parameters and results stay.

  'none' keeps everything. 'dots' keeps the products of activations with weights, and computes
  norms, activation functions and attention weights again. 'blocks' keeps the input of each block
  alone.
  """
  if remat == "none":
    return block
  policies = jax.checkpoint_policies
  dots = policies.dots_with_no_batch_dims_saveable
  return nn.remat(block, policy=dots if remat == "dots" else policies.nothing_saveable)
