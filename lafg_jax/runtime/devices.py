"""Arrays on this process's devices: copies for the mapped step, rows for inference."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lafg_jax.runtime import jax_settings, out_of_memory

# The axis over which the step is mapped.
AXIS = "devices"


def keep_compiled() -> None:
  """Caches compiled programs for later runs: most of a short run is compiling."""
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/lafg_jax/compiled")
  jax.config.update("jax_compilation_cache_dir", os.path.expanduser(cache))


@functools.cache
def compiler_options() -> dict[str, str]:
  """What XLA's compiler is told of programs that are mostly matrix products.

  On the CPU it leaves them to Eigen: YNNPACK, its default, takes a tenth longer for a training step
  (benchmarks/RESULTS.md). {} on other platforms, and where this version of XLA has no such option.
  """
  options = {"xla_cpu_experimental_ynn_fusion_type": ""}
  if jax.default_backend() != "cpu":
    return {}
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:
    return {}
  return options


def compiled(mapped: Any, *arguments: Any) -> Any:
  """A mapped or jitted function, compiled with `compiler_options` once for all like arguments.

  jax.pmap takes no options by itself. Arguments are arrays, or their shapes and dtypes.
  """
  leaves, tree = jax.tree.flatten(arguments)
  key = (mapped, tree, *((x.shape, x.dtype) for x in leaves))
  if key not in _compiled:
    if len(_compiled) >= _MAX_COMPILED:
      del _compiled[next(iter(_compiled))]
    _compiled[key] = mapped.lower(*arguments).compile(compiler_options=compiler_options())
  return _compiled[key]


_compiled: dict[tuple, Any] = {}
# How many a process keeps: a study's cells that differ in their seeds alone share one.
_MAX_COMPILED = 16


def replicate(tree: Any) -> Any:
  """One copy of every leaf on each local device, with a leading device axis."""
  of_devices = sharding()
  count = jax.local_device_count()
  return jax.tree.map(
    lambda x: jax.device_put(np.broadcast_to(np.asarray(x), (count, *np.shape(x))), of_devices),
    tree,
  )


def unreplicate(tree: Any) -> Any:
  """The first local copy of every leaf, as NumPy arrays that do not share the device's memory."""
  return jax.tree.map(lambda x: np.array(x.addressable_data(0))[0], tree)


@functools.cache
def sharding(every_process: bool = False) -> NamedSharding:
  """How arrays with a leading axis of devices lie on them: on local ones, or on those of all."""
  chosen = jax.devices() if every_process else jax.local_devices()
  return NamedSharding(Mesh(np.array(chosen), (AXIS,)), PartitionSpec(AXIS))


def as_jit(step: Callable[..., Any]) -> Any:
  """A function of each device's arrays as a jitted one of arrays on the devices of all processes.

  It is for planning what a mapped step needs; its first argument is donated, as the state is.
  """

  def one(*args: Any) -> Any:
    found = step(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: x[None], found)

  across = sharding(every_process=True)
  mapped = jax.shard_map(
    one, mesh=across.mesh, in_specs=across.spec, out_specs=across.spec, check_vma=False
  )
  return jax.jit(mapped, donate_argnums=0)


def to_devices(
  batches: Iterator[dict[str, np.ndarray]], names: Sequence[str], ahead: int = 2
) -> Iterator[tuple]:
  """(host batch, device batch) pairs, each transferred `ahead` batches before it is needed.

  Batches are {name: [b, ...]}, b a multiple of the number of local devices. Only the arrays `names`
  go to the devices.
  """
  count, of_devices = jax.local_device_count(), sharding()
  queue: list[tuple] = []
  for batch in batches:
    device = {
      name: jax.device_put(batch[name].reshape(count, -1, *batch[name].shape[1:]), of_devices)
      for name in names
    }
    queue.append((batch, device))
    if len(queue) > ahead:
      yield queue.pop(0)
  yield from queue


def spread(function: Callable[..., Any], params: Any) -> Callable[[np.ndarray], np.ndarray]:
  """`function(params, rows)` for NumPy rows [B, ...], compiled once per B, over all local devices.

  The result's first axis is B, which need not divide by the number of devices. Where B rows do not
  fit into memory, half as many are taken at a time from then on, with a warning; where one row does
  not fit either, the call raises UserError.
  """
  return spreading(function)(params)


def spreading(function: Callable[..., Any]) -> Callable[[Any], Callable[[np.ndarray], np.ndarray]]:
  """`spread` for several sets of parameters, compiled once for all."""
  devices = jax.local_devices()
  mesh = Mesh(np.array(devices), ("rows",))
  rows = NamedSharding(mesh, PartitionSpec("rows"))
  replicated = NamedSharding(mesh, PartitionSpec())
  mapped = jax.jit(
    function,
    in_shardings=(replicated, rows),
    out_shardings=rows,
    compiler_options=compiler_options(),
  )

  def with_params(params: Any) -> Callable[[np.ndarray], np.ndarray]:
    with jax_settings.ours():
      params = jax.device_put(params, replicated)

    @jax_settings.ours()
    def apply(x: np.ndarray) -> np.ndarray:
      padding = -len(x) % len(devices)
      padded = np.concatenate([x, np.repeat(x[:1], padding, axis=0)]) if padding else x
      return np.asarray(mapped(params, jax.device_put(padded, rows)))[: len(x)]

    return out_of_memory.halving(apply)

  return with_params
