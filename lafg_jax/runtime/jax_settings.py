"""jax's global settings, which people set for all of their programs: here they change no figure.

A setting comes from the environment (JAX_ENABLE_X64=1) or from a notebook (jax.config.update). What
computes is wrapped in `ours`, so that the same config and seed give the same result under any of
them, and the settings of the program around it stay as they are. The accelerator's precision
(JAX_DEFAULT_MATMUL_PRECISION) is left to its user.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from absl import logging

from lafg_jax.utils.errors import UserError

# jax's own defaults, by which all that this package computes is traced and run.
_OURS: dict[str, Any] = {
  "enable_x64": False,
  "numpy_dtype_promotion": "standard",
  "numpy_rank_promotion": "allow",
  "default_prng_impl": "threefry2x32",
  "threefry_partitionable": True,
  "legacy_prng_key": "allow",
  "enable_custom_prng": False,
  "debug_key_reuse": False,
  "debug_nans": False,
  "debug_infs": False,
  "disable_jit": False,
  "no_tracing": False,
  "softmax_custom_jvp": False,
  "transfer_guard": "allow",
  "array_garbage_collection_guard": "allow",
}
_GUARDS = [f"transfer_guard{way}" for way in ("_host_to_device", "_device_to_host", "")]
_PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")
# What jax calls a platform, and the packages that bring it.
_PLATFORMS = {
  "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin"),
  "rocm": ("jax_rocm60_plugin", "jax_rocm7_plugin"),
  "tpu": ("libtpu",),
}
_PLATFORMS["gpu"] = (*_PLATFORMS["cuda"], *_PLATFORMS["rocm"])


@contextlib.contextmanager
def ours() -> Iterator[None]:
  """Computes under jax's default settings; also a decorator, `@ours()`."""
  import jax

  with contextlib.ExitStack() as stack:
    for name, value in _OURS.items():
      # A version of jax may lack one, and with it what it would change.
      if (context := getattr(jax, name, None)) is not None:
        stack.enter_context(context(value))
    yield


def check() -> None:
  """Imports jax, and logs which of its settings are not taken over.

  Raises UserError where a setting stops jax, or would change what a seed draws.
  """
  for variable in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"):
    _check_platforms(variable, os.environ.get(variable, ""))
  try:
    import jax
  except ValueError as error:
    # jax reads JAX_... while it is imported.
    raise UserError(f"jax does not start: {error}; mend or unset that variable") from error
  config, name = jax.config, "jax_default_matmul_precision"
  precision = getattr(config, name, None)
  if precision is not None and str(precision).lower() not in _PRECISIONS:
    raise UserError(f"{name.upper()}={precision}: it takes one of {', '.join(_PRECISIONS)}")
  if getattr(config, "eager_constant_folding", False):
    raise UserError("EAGER_CONSTANT_FOLDING: jax maps no step over devices with it; unset it")
  if offset := getattr(config, "jax_random_seed_offset", 0):
    what = f"JAX_RANDOM_SEED_OFFSET={offset} changes what a seed draws"
    raise UserError(f"{what}: unset it, and pass --config.seed=N")
  names = [name for name in (*_OURS, *_GUARDS[:2]) if _differs(config, name)]
  if names:
    given = ", ".join(f"jax_{name}={getattr(config, 'jax_' + name)}" for name in names)
    logging.info("computing under jax's own defaults, not under %s", given)


def _differs(config: Any, name: str) -> bool:
  value = getattr(config, f"jax_{name}", None)
  default = "allow" if name in _GUARDS else _OURS[name]
  return value is not None and value != default


def _check_platforms(variable: str, names: str) -> None:
  plugins = {point.name for point in metadata.entry_points(group="jax_plugins")}
  for name in (part.strip() for part in names.split(",")):
    packages = _PLATFORMS.get(name.lower(), (f"jax_plugins.{name}",))
    if name in ("", "cpu", *plugins) or any(map(_is_installed, packages)):
      continue
    what = f"{variable}={names}: jax has no platform {name!r} here"
    raise UserError(f"{what}; unset it, or pass {variable}=cpu, or install what brings it")


def _is_installed(package: str) -> bool:
  try:
    return importlib.util.find_spec(package) is not None
  except (ImportError, ValueError):
    return False
