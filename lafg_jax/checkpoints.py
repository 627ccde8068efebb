"""Orbax checkpoints that carry all that a restore needs, with a checksum an array.

`<workdir>/checkpoints/<step>/` has two items: `arrays`, one unreplicated NumPy copy of the whole
train state (and of the prototypes), and `meta`, JSON with the config, versions and, for each array,
shape, dtype and CRC-32. Restore goes through a template built from `meta`, so it works on any
number of devices of any kind, and verifies every checksum: Orbax alone restores most flipped bits
silently.
"""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import serialization, traverse_util
from orbax.checkpoint.options import MultiprocessingOptions

from lafg_jax import distributed
from lafg_jax.errors import UserError

# The newest, and of train.keep_best the best on the validation classes.
FOLDER, BEST = "checkpoints", "best"
FORMAT = 1
# What Orbax, tensorstore and JSON raise for files that are missing, cut or overwritten.
_CORRUPT = (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError)

Arrays = dict[str, np.ndarray]


def folder(workdir: str, where: str = FOLDER) -> str:
  """The checkpoint folder of a workdir, absolute (Orbax asks for that)."""
  return os.path.abspath(os.path.join(workdir, where))


def manager(workdir: str, keep: int, where: str = FOLDER) -> Any:
  """An asynchronous Orbax manager that keeps the `keep` newest; a context of None, which saves
  nothing, on every process but 0: all have the same arrays."""
  if jax.process_index() != 0:
    return contextlib.nullcontext()
  os.makedirs(folder(workdir, where), exist_ok=True)
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep,
    create=False,
    enable_async_checkpointing=True,
    multiprocessing_options=_alone(where),
  )
  return ocp.CheckpointManager(folder(workdir, where), options=options)


def _alone(what: str) -> MultiprocessingOptions:
  """Orbax neither waits for other processes nor leaves anything to them."""
  me = jax.process_index()
  return MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{what}{me}"
  )


def flatten(tree: Any) -> Arrays:
  """A pytree of arrays (a train state, optax's included) as {'a/b/c': NumPy array}."""
  flat = traverse_util.flatten_dict(serialization.to_state_dict(tree), sep="/")
  return {path: np.asarray(leaf) for path, leaf in flat.items()}


def unflatten_like(template: Any, arrays: Arrays) -> Any:
  """`template` with its leaves from `arrays`.

  Raises:
    ValueError: arrays are missing, left over, or of another shape; all of them are listed.
  """
  flat = traverse_util.flatten_dict(
    serialization.to_state_dict(template), sep="/", keep_empty_nodes=True
  )
  wanted = {p: x for p, x in flat.items() if x is not traverse_util.empty_node}
  problems = [f"missing {p}" for p in wanted if p not in arrays]
  problems += [f"extra {p}" for p in arrays if p not in wanted]
  problems += [
    f"{p} is {arrays[p].shape}, not {np.shape(x)}"
    for p, x in wanted.items()
    if p in arrays and arrays[p].shape != np.shape(x)
  ]
  if problems:
    raise ValueError("arrays do not fit the model: " + "; ".join(problems))
  state_dict = traverse_util.unflatten_dict(flat | {p: arrays[p] for p in wanted}, sep="/")
  return serialization.from_state_dict(template, state_dict)


def versions() -> dict[str, str]:
  """Versions of the packages that decide what a checkpoint means."""
  names = ("lafg_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
  found = {d.metadata["Name"].lower().replace("-", "_"): d.version for d in _installed(names)}
  return {name: found.get(name.replace("-", "_"), "not installed") for name in names}


def _installed(names: tuple[str, ...]) -> Iterator[metadata.Distribution]:
  for name in names:
    try:
      yield metadata.distribution(name)
    except metadata.PackageNotFoundError:
      continue


def save(mngr: Any, step: int, arrays: Arrays, meta: dict[str, Any]) -> None:
  """Starts an asynchronous save; `arrays` must not change until the manager is waited for."""
  if mngr is None:
    return
  described = {
    path: {"shape": list(x.shape), "dtype": str(x.dtype), "crc32": _crc(x)}
    for path, x in arrays.items()
  }
  meta = meta | {"format": FORMAT, "step": step, "versions": versions(), "arrays": described}
  tree = traverse_util.unflatten_dict(arrays, sep="/")
  mngr.save(
    step,
    args=ocp.args.Composite(arrays=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)),
    force=True,
  )


def _crc(x: np.ndarray) -> int:
  return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def steps(workdir: str, where: str = FOLDER) -> list[int]:
  """Steps with a finished checkpoint folder, newest first; half-written ones have other names."""
  path = folder(workdir, where)
  names = os.listdir(path) if os.path.isdir(path) else []
  return sorted((int(n) for n in names if re.fullmatch(r"\d+", n)), reverse=True)


def read(workdir: str, step: int, where: str = FOLDER) -> tuple[Arrays, dict[str, Any]]:
  """The arrays and meta of one checkpoint, every checksum verified.

  Raises:
    ValueError (or what Orbax raises): something is missing, cut or changed.
  """
  path = os.path.join(folder(workdir, where), str(step))
  with open(os.path.join(path, "meta", "metadata"), encoding="utf-8") as file:
    meta = json.load(file)
  if meta["format"] != FORMAT:
    raise UserError(f"{path} has format {meta['format']}, this version reads {FORMAT}")
  if meta["step"] != step:
    raise ValueError(f"the meta is of step {meta['step']}")
  described = meta["arrays"]
  template = traverse_util.unflatten_dict(
    {p: np.empty(d["shape"], np.dtype(d["dtype"])) for p, d in described.items()}, sep="/"
  )
  with ocp.StandardCheckpointer(multiprocessing_options=_alone("read")) as checkpointer:
    tree = checkpointer.restore(os.path.join(path, "arrays"), template)
  arrays = {p: np.asarray(x) for p, x in traverse_util.flatten_dict(tree, sep="/").items()}
  changed = [p for p, d in described.items() if _crc(arrays[p]) != d["crc32"]]
  if changed:
    raise ValueError(f"{len(changed)} arrays differ from their checksum, first {changed[0]}")
  return arrays, meta


def latest(
  workdir: str, *, set_aside: bool = False, where: str = FOLDER
) -> tuple[Arrays, dict[str, Any]] | None:
  """The newest checkpoint that reads whole, or None; damaged ones are skipped with a warning.

  Args:
    workdir: the run's folder.
    set_aside: rename damaged checkpoints, so that a run that goes on can save that step again.
    where: FOLDER, or BEST for the best on the validation classes.

  Raises:
    UserError: a checkpoint is of another format or may not be read, or several are there and all
      are damaged: then something other than a broken write is wrong, and training must not start
      anew over it.
  """
  damaged: list[int] = []
  found = None
  for step in steps(workdir, where):
    try:
      found = read(workdir, step, where)
      break
    except (UserError, PermissionError):
      raise
    except _CORRUPT as error:
      path = os.path.join(folder(workdir, where), str(step))
      why = (str(error).strip() or type(error).__name__).splitlines()[0]
      logging.warning("skipping the damaged checkpoint %s: %s", path, why)
      damaged.append(step)
  if found is None and len(damaged) > 1:
    raise UserError(
      f"all {len(damaged)} checkpoints in {folder(workdir, where)} are damaged: move that folder "
      "away to start anew"
    )
  if set_aside and jax.process_index() == 0:
    rename(workdir, damaged, "damaged", where)
  return found


def rename(workdir: str, old: list[int], name: str, where: str = FOLDER) -> None:
  """Renames checkpoints to '<name>-<step>-<n>', which none is read from."""
  for step in old:
    path = os.path.join(folder(workdir, where), str(step))
    os.replace(path, _free_name(os.path.join(folder(workdir, where), f"{name}-{step}")))


def shared(
  workdir: str, *, set_aside: bool = False, where: str = FOLDER
) -> tuple[Arrays, dict[str, Any]] | None:
  """`latest` of process 0, on every process of a run.

  Raises:
    UserError: as `latest`, or another process cannot read what process 0 reads.
  """
  found: list[tuple[Arrays, dict[str, Any]] | None] = []

  def newest() -> int | None:
    found.append(latest(workdir, set_aside=set_aside, where=where))
    return found[0][1]["step"] if found[0] else None

  step = distributed.agree("the checkpoint", newest)
  if step is None or found:
    return found[0] if found else None
  try:
    return read(workdir, step, where)
  except _CORRUPT as error:
    path = os.path.join(folder(workdir, where), str(step))
    raise UserError(
      f"{path}: process {jax.process_index()} cannot read what process 0 reads; put --workdir in "
      "a folder that all machines share"
    ) from error


def _free_name(path: str) -> str:
  number = 0
  while os.path.exists(f"{path}-{number}"):
    number += 1
  return f"{path}-{number}"


def require(workdir: str, where: str = FOLDER) -> tuple[Arrays, dict[str, Any]]:
  """`shared`, or a UserError that says what to run."""
  found = shared(workdir, where=where)
  if found is None:
    best = " with --config.train.keep_best=True" if where == BEST else ""
    raise UserError(
      f"no readable checkpoint in {folder(workdir, where)}: run --stage=train{best} first"
    )
  return found


def subtree(arrays: Arrays, prefix: str) -> dict[str, Any]:
  """The nested dict below `prefix`, e.g. 'state/params'."""
  prefix = prefix.rstrip("/") + "/"
  inner = {p[len(prefix) :]: x for p, x in arrays.items() if p.startswith(prefix)}
  return traverse_util.unflatten_dict(inner, sep="/")
