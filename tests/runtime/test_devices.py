"""Programs for the devices: compiled once, and with the options that are fastest."""

import jax
import numpy as np

from lafg_jax.runtime import devices


def test_programs_are_compiled_once_for_like_arguments():
  count = jax.local_device_count()
  mapped = jax.pmap(lambda x, y: (x @ x, None if y is None else y + 1), axis_name="a")
  x = devices.replicate(np.ones((4, 4), np.float32))
  like = jax.ShapeDtypeStruct((count, 4, 4), np.float32, sharding=devices.sharding())
  compiled = devices.compiled(mapped, like, None)
  assert devices.compiled(mapped, x, None) is compiled
  np.testing.assert_array_equal(compiled(x, None)[0], np.full((count, 4, 4), 4))
  assert devices.compiled(mapped, x, x) is not compiled


def test_products_are_left_to_eigen_on_the_cpu():
  def program(options):
    x = jax.ShapeDtypeStruct((512, 512), np.float32)
    return jax.jit(lambda x: x @ x, compiler_options=options).lower(x).compile().as_text()

  assert devices.compiler_options() and "ynn" not in program(devices.compiler_options())
  assert "ynn" in program({}), "XLA's default has changed: the option is of no use"
