"""Feature maps and tokens to one vector."""

import jax
import jax.numpy as jnp


def gem(x: jax.Array, power: jax.Array | float = 3.0, floor: float = 1e-6) -> jax.Array:
  """Generalised mean of x [B, T, W] over T: [B, W] float32 (Radenovic et al., TPAMI 2019).

  Between the mean (power 1) and the maximum (power to infinity). Features below `floor` count as
  `floor`, so that all are positive.
  """
  x = jnp.maximum(x.astype(jnp.float32), floor)
  # Scaled by the largest: the third power of a small feature underflows in float32.
  largest = jax.lax.stop_gradient(x.max(axis=1, keepdims=True))
  return ((x / largest) ** power).mean(axis=1) ** (1 / power) * largest[:, 0]
