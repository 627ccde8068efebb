"""Orbax checkpoints that carry all that a restore needs, with a checksum for each part.

`<workdir>/checkpoints/<step>/` has two items: `arrays`, one unreplicated NumPy copy of the whole
train state (and of the prototypes), and `meta`, JSON with the config, versions and, for each array,
shape, dtype and CRC-32, and a CRC-32 of its own. Restore goes through a template built from `meta`,
so it works on any number of devices of any kind, and verifies every checksum: Orbax alone restores
most flipped bits silently.
"""

import contextlib
import json
import os
import re
import shutil
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

from lafg_jax.runtime import distributed, remote_workdir
from lafg_jax.utils.errors import UserError

# The newest, and of train.keep_best the best on the validation classes.
FOLDER, BEST = "checkpoints", "best"
FORMAT = 2
# What Orbax, tensorstore and JSON raise for files that are missing, cut or overwritten.
_CORRUPT = (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError)

# How tensorstore names the operating system's reason.
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")

Arrays = dict[str, np.ndarray]


class Damaged(ValueError):
  """Part of a checkpoint is missing, cut or changed."""


def folder(workdir: str, where: str = FOLDER) -> str:
  """The checkpoint folder of a workdir, absolute (Orbax asks for that)."""
  return os.path.abspath(os.path.join(workdir, where))


@contextlib.contextmanager
def manager(workdir: str, keep: int, where: str = FOLDER) -> Iterator[ocp.CheckpointManager | None]:
  """An asynchronous Orbax manager that keeps the `keep` newest checkpoints.

  None, which saves nothing, on every process but 0: all have the same arrays.

  Raises:
    UserError: a checkpoint cannot be written (a full disk); those before it are kept.
  """
  if jax.process_index() != 0:
    yield None
    return
  path = folder(workdir, where)
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep,
    create=False,
    enable_async_checkpointing=True,
    multiprocessing_options=_alone(where),
  )
  # For as long as the manager is open: its thread may fail, and log that, at any time.
  logger = logging.get_absl_logger()
  logger.addFilter(_without_orbax_tracebacks)
  try:
    with _as_user_error(path):
      os.makedirs(path, exist_ok=True)
      # Of a run that was killed: Orbax removes one only where that very step is saved again.
      _drop_unfinished(path)
      mngr = ocp.CheckpointManager(path, options=options)
    try:
      yield mngr
    finally:
      with _as_user_error(path):
        mngr.close()
  finally:
    # Where a save failed, another of its threads may have gone on writing until the close.
    _drop_unfinished(path)
    logger.removeFilter(_without_orbax_tracebacks)


def _alone(what: str) -> MultiprocessingOptions:
  """Orbax neither waits for other processes nor leaves anything to them."""
  me = jax.process_index()
  return MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{what}{me}"
  )


@contextlib.contextmanager
def _as_user_error(path: str) -> Iterator[None]:
  """Raises a UserError for what the operating system refuses while a checkpoint is written."""
  try:
    yield
  except (OSError, ValueError) as error:
    # Tensorstore raises ValueError for what the operating system refused.
    number = _OS_ERROR.search(str(error))
    if not isinstance(error, OSError) and number is None:
      raise
    why = os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or str(error)
    if jax.process_index() == 0:
      _drop_unfinished(path)
    raise UserError(
      f"{path}: a checkpoint cannot be written ({why}): make room and run the same command again, "
      "it goes on from the checkpoint before"
    ) from error


def _without_orbax_tracebacks(record: Any) -> bool:
  """A log filter: False for Orbax's tracebacks of failures that end in one line of ours."""
  return not (record.exc_info and "orbax" in record.pathname)


def _drop_unfinished(path: str) -> None:
  """Removes what a save that failed or was killed has left: it fills the disk and is of no use."""
  for name in os.listdir(path) if os.path.isdir(path) else ():
    if re.fullmatch(r"\d+\.orbax-checkpoint-tmp.*", name):
      shutil.rmtree(os.path.join(path, name), ignore_errors=True)


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


def save(
  mngr: ocp.CheckpointManager | None, step: int, arrays: Arrays, meta: dict[str, Any]
) -> None:
  """Starts an asynchronous save; `arrays` must not change until the manager is waited for.

  Raises:
    UserError: this checkpoint, or the one before, cannot be written.
  """
  if mngr is None:
    return
  described = {
    path: {"shape": list(x.shape), "dtype": str(x.dtype), "crc32": _crc(x)}
    for path, x in arrays.items()
  }
  meta = meta | {"format": FORMAT, "step": step, "versions": versions(), "arrays": described}
  meta["crc32"] = _meta_crc(meta)
  tree = traverse_util.unflatten_dict(arrays, sep="/")
  arguments = ocp.args.Composite(arrays=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
  with _as_user_error(str(mngr.directory)):
    mngr.save(step, args=arguments, force=True)


def _meta_crc(meta: dict[str, Any]) -> int:
  """Of all that meta says but its own checksum, whatever the order of its keys."""
  said = {key: value for key, value in meta.items() if key != "crc32"}
  return zlib.crc32(json.dumps(said, sort_keys=True).encode())


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
    Damaged: something is missing, cut or changed.
    UserError: the checkpoint is of another format.
    PermissionError: it may not be read.
  """
  try:
    return _read(workdir, step, where)
  except (UserError, PermissionError):
    raise
  except _CORRUPT as error:
    raise Damaged((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def _read(workdir: str, step: int, where: str) -> tuple[Arrays, dict[str, Any]]:
  path, meta = _path(workdir, step, where), _read_meta(workdir, step, where)
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


def _path(workdir: str, step: int, where: str) -> str:
  return os.path.join(folder(workdir, where), str(step))


def _read_meta(workdir: str, step: int, where: str) -> dict[str, Any]:
  path = _path(workdir, step, where)
  with open(os.path.join(path, "meta", "metadata"), encoding="utf-8") as file:
    meta = json.load(file)
  if meta["crc32"] != _meta_crc(meta):
    raise ValueError("the meta differs from its checksum")
  if meta["format"] != FORMAT:
    raise UserError(f"{path} has format {meta['format']}, this version reads {FORMAT}")
  if meta["step"] != step:
    raise ValueError(f"the meta is of step {meta['step']}")
  return meta


def recorded_config(workdir: str) -> dict[str, Any] | None:
  """The flat config that the newest checkpoint was trained with, on every process of a run.

  Only meta is read. A workdir that has no checkpoint but the best gives the config of that one.
  None where there is no meta that can be read.
  """

  def find() -> dict[str, Any] | None:
    for where in (FOLDER, BEST):
      for step in steps(workdir, where):
        # Whoever reads the whole checkpoint says what is wrong with it.
        with contextlib.suppress(*_CORRUPT):
          return _read_meta(workdir, step, where)["config"]
    return None

  return distributed.agree("the config of the checkpoint", find)


def latest(
  workdir: str, *, set_aside: bool = False, where: str = FOLDER
) -> tuple[Arrays, dict[str, Any]] | None:
  """The newest checkpoint that reads whole; damaged ones are skipped with a warning.

  None where there is no checkpoint; the unfinished folder of a killed save does not count as one.

  Args:
    workdir: the run's folder.
    set_aside: rename damaged checkpoints, so that a run that goes on can save that step again.
    where: FOLDER, or BEST for the best on the validation classes.

  Raises:
    UserError: a checkpoint is of another format, or all are damaged: training must not start anew
      over them unasked. PermissionError: a checkpoint may not be read.
  """
  damaged: dict[int, Damaged] = {}
  found = None
  for step in steps(workdir, where):
    try:
      found = read(workdir, step, where)
      break
    except Damaged as error:
      damaged[step] = error
  if found is None and damaged:
    raise _all_damaged(workdir, damaged, where)
  for step, why in damaged.items():
    logging.warning("skipping the damaged checkpoint %s: %s", _path(workdir, step, where), why)
  if set_aside and jax.process_index() == 0:
    rename(workdir, list(damaged), "damaged", where)
  return found


def _all_damaged(workdir: str, damaged: dict[int, Damaged], where: str) -> UserError:
  (step, error), *more = damaged.items()
  anew = "choose the best anew" if where == BEST else "start anew"
  if more:
    path = folder(workdir, where)
    what = f"all {len(damaged)} checkpoints in {path} are damaged (step {step}: {error})"
  else:
    path = _path(workdir, step, where)
    what = f"{path} is damaged ({error}), and there is no other checkpoint"
  return UserError(f"{what}: put a whole copy in its place, or rename or delete {path} to {anew}")


def rename(workdir: str, old: list[int], name: str, where: str = FOLDER) -> None:
  """Renames checkpoints to '<name>-<step>-<n>', which none is read from."""
  for step in old:
    path = _path(workdir, step, where)
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
  remote_workdir.fetch(where, step)
  try:
    return read(workdir, step, where)
  except (ValueError, OSError) as error:
    raise UserError(
      f"{_path(workdir, step, where)}: process {jax.process_index()} cannot read what process 0 "
      "reads; put --workdir in a folder that all machines share"
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
    best = " anew with --config.train.keep_best=True" if where == BEST else ""
    raise UserError(
      f"no readable checkpoint in {folder(workdir, where)}: run --stage=train{best} first"
    )
  return found


def subtree(arrays: Arrays, prefix: str) -> dict[str, Any]:
  """The nested dict below `prefix`, e.g. 'state/params'."""
  prefix = prefix.rstrip("/") + "/"
  inner = {p[len(prefix) :]: x for p, x in arrays.items() if p.startswith(prefix)}
  return traverse_util.unflatten_dict(inner, sep="/")
