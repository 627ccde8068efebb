"""The shipped configs; in an installed package lafg_jax.shipped_configs."""
