"""What a network keeps of a forward pass for explanations, where it is asked to.

`module.apply(..., mutable=[COLLECTION])` returns beside the result what layers kept: of each
attention its 'weights' [B, heads, T, S] float32, and of the network 'patches' [B, h, w, width]:
what its pooling makes of each place of the last map alone. All other calls trace the same program
as without: nothing is kept, and attention takes its fast way.
"""

from typing import Any

import flax.linen as nn

COLLECTION = "explained"


def asked(module: nn.Module) -> bool:
  """Whether this call is asked to keep something; never while parameters are made."""
  return module.is_mutable_collection(COLLECTION) and not module.is_initializing()


def keep(module: nn.Module, name: str, x: Any) -> None:
  """Keeps x, where this call is asked to; the last one of a name stays."""
  if asked(module):
    module.sow(COLLECTION, name, x, reduce_fn=lambda _, new: new, init_fn=lambda: None)
