"""How far parameters are from where they started, as a penalty: a pure function of two trees."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util


def half_squared(params: dict[str, Any], start: dict[str, Any]) -> jax.Array:
  """1/2 sum (w - w0)^2 over all numbers w0 of `start`, nested as in `params`, which may have more.

  L2-SP (Li, Grandvalet & Davoine, ICML 2018) without its decay of new layers: weights shrink
  towards the pretrained ones, and not towards 0.
  """
  now = traverse_util.flatten_dict(params)
  squares = (jnp.sum(jnp.square(now[k] - x)) for k, x in traverse_util.flatten_dict(start).items())
  return sum(squares, jnp.zeros(())) / 2
