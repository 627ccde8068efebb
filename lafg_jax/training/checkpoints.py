"""Orbax checkpoints that have all that a restore needs, with a checksum for each part.

`<workdir>/checkpoints/<step>/` has two items: `arrays`, one unreplicated NumPy copy of the train
state and of what the task keeps beside it, without the frozen weights, and `meta`, JSON with the
config, versions, the shape, dtype and CRC-32 of each array, the file of the frozen weights, and a
CRC-32 of its own. Restore goes through a template made from `meta`, so that the devices do not
matter, and verifies every checksum: Orbax alone restores most flipped bits silently.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import serialization, traverse_util
from orbax.checkpoint.options import MultiprocessingOptions

from lafg_jax.runtime import distributed, remote_workdir
from lafg_jax.training import frozen_weights
from lafg_jax.training.frozen_weights import Arrays, Frozen
from lafg_jax.utils.errors import UserError

# Folders of the newest checkpoints, of the best on the validation classes (train.keep_best), and of
# the weights that a task made of the last one after training.
FOLDER, BEST, FINAL = "checkpoints", "best", "final"
FORMAT = 3
# Where Orbax keeps the meta within the folder of a checkpoint.
_META = ("meta", "metadata")
# What Orbax, tensorstore and JSON raise for files that are missing, cut or overwritten.
_CORRUPT = (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError)
# How tensorstore names the operating system's reason.
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
# Characters that Orbax's libraries do not take as they are, in any folder of a path: etils globs
# the whole path, and would find no array, or those of another folder; tensorstore writes 'a/b' for
# 'a\\b', and takes no bytes that are not UTF-8, which Python has as lone surrogates.
_PATTERNS = re.compile(r"[\[\]*?\\\ud800-\udfff]")

# How often an unfinished checkpoint is looked for again, and seconds in between.
_LOOKS, _BETWEEN_LOOKS = 20, 0.1


class Damaged(ValueError):
  """Part of a checkpoint is missing, cut or changed."""


def folder(workdir: str, where: str = FOLDER) -> str:
  """The checkpoint folder of a workdir, absolute (Orbax asks for that)."""
  return os.path.abspath(os.path.join(workdir, where))


@contextlib.contextmanager
def manager(workdir: str, keep: int, where: str = FOLDER) -> Iterator[ocp.CheckpointManager | None]:
  """An asynchronous Orbax manager that keeps the `keep` newest checkpoints.

  None on every process but 0, for which `save` does nothing: all have the same arrays. Raises
  UserError where a checkpoint cannot be written (a full disk); those before it are kept.
  """
  if jax.process_index() != 0:
    yield None
    return
  path = folder(workdir, where)
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep, create=False, multiprocessing_options=_alone(where)
  )
  # The manager's thread may fail, and log that, at any time until the close.
  logger = logging.get_absl_logger()
  with contextlib.ExitStack() as after:
    logger.addFilter(_without_orbax_tracebacks)
    after.callback(logger.removeFilter, _without_orbax_tracebacks)
    # After a failed save, another of its threads may have written until the close.
    after.callback(_drop_unfinished, path)
    with _as_user_error(path):
      os.makedirs(path, exist_ok=True)
      # Orbax removes what a killed run left only where the same step is saved again.
      _drop_unfinished(path)
      plain = after.enter_context(_without_patterns(path))
      mngr = ocp.CheckpointManager(plain, options=options)
    try:
      yield mngr
    finally:
      with _as_user_error(path):
        mngr.close()


@contextlib.contextmanager
def _without_patterns(path: str) -> Iterator[str]:
  """A path of the folder `path` that Orbax and its libraries take literally.

  The path itself, or where it has characters of a pattern a link to it in a temporary folder.
  """
  if not _PATTERNS.search(path):
    yield path
    return
  places = (tempfile.gettempdir(), "/tmp", "/var/tmp", os.getcwd())
  usable = (x for x in places if not _PATTERNS.search(x) and os.access(x, os.W_OK))
  place = next(usable, None)
  if place is None:
    raise UserError(f"{path}: name it without any of []*?\\, or set TMPDIR to a folder without")
  with tempfile.TemporaryDirectory(prefix="lafg_jax-", dir=place) as temporary:
    link = os.path.join(temporary, "folder")
    os.symlink(path, link)
    yield link


def _alone(what: str) -> MultiprocessingOptions:
  """Orbax neither waits for other processes nor leaves anything to them."""
  me = jax.process_index()
  return MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{what}{me}"
  )


@contextlib.contextmanager
def _as_user_error(path: str) -> Iterator[None]:
  """Raises a UserError where the operating system refuses to write a checkpoint."""
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
  """A log filter: False for Orbax's tracebacks, since `_as_user_error` gives the reason."""
  return not (record.exc_info and "orbax" in record.pathname)


def _drop_unfinished(path: str) -> None:
  """Removes what a save that failed or was killed has left on the disk."""
  # Orbax does not wait for all threads of a save that failed: one may write, and so make its folder
  # again, for a moment. So it is looked for until it stays away.
  for _ in range(_LOOKS):
    found = list(Path(path).glob("[0-9]*.orbax-checkpoint-tmp*"))
    if not found:
      return
    for unfinished in found:
      shutil.rmtree(unfinished, ignore_errors=True)
    time.sleep(_BETWEEN_LOOKS)


def flatten(tree: Any) -> Arrays:
  """A pytree of arrays (a train state, optax's included) as {'a/b/c': NumPy array}."""
  flat = traverse_util.flatten_dict(serialization.to_state_dict(tree), sep="/")
  return {path: np.asarray(leaf) for path, leaf in flat.items()}


def unflatten_like(template: Any, arrays: Arrays) -> Any:
  """`template` with its leaves from `arrays`.

  Raises ValueError, which lists all arrays that are missing, left over, or of another shape.
  """
  flat = traverse_util.flatten_dict(
    serialization.to_state_dict(template), sep="/", keep_empty_nodes=True
  )
  wanted = {p: np.shape(x) for p, x in flat.items() if x is not traverse_util.empty_node}
  found = {p: x.shape for p, x in arrays.items()}
  problems = [f"missing {p}" for p in wanted if p not in found]
  problems += [f"extra {p}" for p in found if p not in wanted]
  both = (p for p in wanted if p in found and found[p] != wanted[p])
  problems += [f"{p} is {found[p]}, not {wanted[p]}" for p in both]
  if problems:
    raise ValueError("arrays do not fit the model: " + "; ".join(problems))
  state_dict = traverse_util.unflatten_dict(flat | {p: arrays[p] for p in wanted}, sep="/")
  return serialization.from_state_dict(template, state_dict)


def versions() -> dict[str, str]:
  """Versions of the packages that decide what a checkpoint means."""
  names = ("lafg_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
  found = dict.fromkeys(names, "not installed")
  for name in names:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[name] = metadata.version(name)
  return found


def save(
  mngr: ocp.CheckpointManager | None,
  step: int,
  arrays: Arrays,
  meta: dict[str, Any],
  frozen: Frozen = frozen_weights.NONE,
) -> None:
  """Starts an asynchronous save; `arrays` must not change until the manager is waited for.

  They are without those of `frozen`, whose file the workdir has. Raises UserError where this
  checkpoint, or the one before, cannot be written.
  """
  if mngr is None:
    return
  meta = meta | {"format": FORMAT, "step": step, "versions": versions()}
  meta |= {"arrays": frozen_weights.describe(arrays), "frozen": frozen._asdict()}
  meta["crc32"] = _meta_crc(meta)
  tree = traverse_util.unflatten_dict(arrays, sep="/")
  arguments = ocp.args.Composite(arrays=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
  # Where the folder's name is no plain one, the manager has a link to it.
  with _as_user_error(os.path.realpath(mngr.directory)):
    mngr.save(step, args=arguments, force=True)


def _meta_crc(meta: dict[str, Any]) -> int:
  """CRC-32 of all of meta but its own checksum; the order of keys does not matter."""
  said = {key: value for key, value in meta.items() if key != "crc32"}
  return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def steps(workdir: str, where: str = FOLDER) -> list[int]:
  """Steps of finished checkpoints, newest first; the folders of others have other names."""
  path = folder(workdir, where)
  names = os.listdir(path) if os.path.isdir(path) else []
  return sorted((int(n) for n in names if re.fullmatch(r"\d+", n)), reverse=True)


def where_of(source: str) -> str:
  """The folder of the checkpoint that evaluate.source means."""
  return BEST if source == "best" else FOLDER


def newest_meta(workdir: str, where: str = FOLDER) -> list[Path]:
  """The meta of the newest finished checkpoint, in a list; an empty one where there is none."""
  return [Path(_path(workdir, step, where), *_META) for step in steps(workdir, where)[:1]]


def read(workdir: str, step: int, where: str = FOLDER) -> tuple[Arrays, dict[str, Any]]:
  """The arrays and meta of one checkpoint, frozen weights too, every checksum verified.

  Raises:
    Damaged: something is missing, cut or changed.
    UserError: the checkpoint is of another format.
    PermissionError: it may not be read.
  """
  path = os.path.join(_path(workdir, step, where), "arrays")
  try:
    meta = _read_meta(workdir, step, where)
    described = meta["arrays"]
    empty = {p: np.empty(d["shape"], np.dtype(d["dtype"])) for p, d in described.items()}
    options = _alone("read")
    with (
      _without_patterns(path) as plain,
      ocp.StandardCheckpointer(multiprocessing_options=options) as checkpointer,
    ):
      tree = checkpointer.restore(plain, traverse_util.unflatten_dict(empty, sep="/"))
    arrays = {p: np.asarray(x) for p, x in traverse_util.flatten_dict(tree, sep="/").items()}
    frozen_weights.verify(arrays, described)
    return arrays | frozen_weights.read(workdir, Frozen(**meta["frozen"])), meta
  except (UserError, PermissionError):
    raise
  except _CORRUPT as error:
    raise Damaged((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def _path(workdir: str, step: int, where: str) -> str:
  return os.path.join(folder(workdir, where), str(step))


def _read_meta(workdir: str, step: int, where: str) -> dict[str, Any]:
  path = _path(workdir, step, where)
  with open(os.path.join(path, *_META), encoding="utf-8") as file:
    meta = json.load(file)
  if meta["crc32"] != _meta_crc(meta):
    raise ValueError("the meta differs from its checksum")
  if meta["format"] != FORMAT:
    raise UserError(f"{path} has format {meta['format']}, this version reads {FORMAT}")
  if meta["step"] != step:
    raise ValueError(f"the meta is of step {meta['step']}")
  return meta


def recorded_config(workdir: str) -> dict[str, Any] | None:
  """The flat config of the newest checkpoint, or else of the best, on every process of a run.

  Only meta is read. None where there is none that can be read.
  """

  def find() -> dict[str, Any] | None:
    for where in (FOLDER, BEST):
      for step in steps(workdir, where):
        # `read` says what is wrong with it.
        with contextlib.suppress(*_CORRUPT):
          return _read_meta(workdir, step, where)["config"]
    return None

  return distributed.agree("the config of the checkpoint", find)


def latest(
  workdir: str, *, set_aside: bool = False, where: str = FOLDER
) -> tuple[Arrays, dict[str, Any]] | None:
  """The newest checkpoint that reads whole; None where there is no finished one.

  Damaged ones are skipped with a warning.

  Args:
    set_aside: rename damaged checkpoints, so that a run that goes on can save that step again.
    where: FOLDER or BEST.

  Raises:
    UserError: a checkpoint is of another format, or all are damaged: training must not start anew
      over them unasked.
    PermissionError: a checkpoint may not be read.
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
  step, error = next(iter(damaged.items()))
  anew = "choose the best anew" if where == BEST else "start anew"
  path = _path(workdir, step, where)
  what = f"{path} is damaged ({error}), and there is no other checkpoint"
  if len(damaged) > 1:
    path = folder(workdir, where)
    what = f"all {len(damaged)} checkpoints in {path} are damaged (step {step}: {error})"
  return UserError(f"{what}: put a whole copy in its place, or rename or delete {path} to {anew}")


def rename(workdir: str, old: list[int], name: str, where: str = FOLDER) -> None:
  """Renames checkpoints to '<name>-<step>-<n>', which are not read."""
  for step in old:
    new = os.path.join(folder(workdir, where), f"{name}-{step}-")
    number = next(n for n in itertools.count() if not os.path.exists(f"{new}{n}"))
    os.replace(_path(workdir, step, where), f"{new}{number}")


def shared(
  workdir: str, *, set_aside: bool = False, where: str = FOLDER
) -> tuple[Arrays, dict[str, Any]] | None:
  """`latest` of process 0, on every process of a run; UserError also where one cannot read it."""
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


def require(workdir: str, where: str = FOLDER) -> tuple[Arrays, dict[str, Any]]:
  """`shared`, or a UserError where there is no checkpoint."""
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
