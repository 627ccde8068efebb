"""Where a trained model lies: a workdir, an export, a .tar of one, the hub, or a URL (gs://)."""

import contextlib
import itertools
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.language.encoders import tokens
from lafg_jax.runtime import mirror
from lafg_jax.training import checkpoints
from lafg_jax.utils import places
from lafg_jax.utils.errors import UserError

WEIGHTS, FACTS, EVALUATION = "model.safetensors", "config.json", "evaluation.json"
# Which checkpoint of a workdir; 'auto' is the best where there is one, and else the newest.
CHECKPOINTS = ("newest", "best", "auto")
_KINDS = (checkpoints.FOLDER, checkpoints.BEST, checkpoints.FINAL)
_HUB = "hf://"
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_PASS = "pass a workdir, an export, a .tar, hf://org/name or gs://..."
# What tarfile and its decompressors raise for bytes that are no archive or end early.
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, KeyError)


@contextlib.contextmanager
def opened(source: str, checkpoint: str = "newest") -> Iterator[tuple[str, str]]:
  """Yields a local folder with an export or a workdir's checkpoints, and which of these to read:
  `checkpoints.FOLDER`, `.BEST` or `.FINAL`, without a meaning for an export.

  Args:
    source: a folder, a .tar, .tar.gz or .tgz of one, hf://org/name[@revision], or a URL that fsspec
      reads, such as gs://bucket/workdir. Of an archive only the checkpoints of the wanted kind are
      unpacked, with frozen weights; of a URL only the newest of them that reads whole is kept. The
      copies are deleted in the end, except for those in the hub's own cache.
    checkpoint: one of CHECKPOINTS.

  Raises:
    UserError: nothing is there, it cannot be reached or unpacked, or it has no such checkpoint.
  """
  if not isinstance(source, str | os.PathLike):
    raise UserError(f"a model's place is a {type(source).__name__}: {_PASS}")
  source = places.expanded(os.fsdecode(source))
  if checkpoint not in CHECKPOINTS:
    raise UserError(f"checkpoint={checkpoint!r}: it takes one of {', '.join(CHECKPOINTS)}")
  if source.startswith(_HUB):
    yield _from_hub(source), checkpoints.FOLDER
  elif places.is_url(source) or source.endswith(_ARCHIVES):
    with tempfile.TemporaryDirectory(prefix="lafg_jax-") as folder:
      yield _local_copy(source, folder, checkpoint)
  elif os.path.isdir(source):
    steps = {where: checkpoints.steps(source, where) for where in _KINDS}
    if not _is_of_the_newest(source, steps):
      steps[checkpoints.FINAL] = []
    yield source, checkpoints.FOLDER if is_export(source) else _chosen(source, checkpoint, steps)
  else:
    what = "is a file, and no .tar, .tar.gz or .tgz" if os.path.exists(source) else "does not exist"
    raise UserError(f"{source} {what}: {_PASS}" if source else f"no trained model: {_PASS}")


def is_export(folder: str) -> bool:
  """Whether `folder` is what lafg_jax.export wrote."""
  return all(os.path.isfile(os.path.join(folder, name)) for name in (WEIGHTS, FACTS))


def _steps_of(names: Iterable[tuple[str, str]]) -> dict[str, list[int]]:
  """The steps of each kind, newest first, by (folder, name) pairs such as ('best', '60')."""
  pairs = sorted(((where, int(x)) for where, x in set(names) if x.isdecimal()), reverse=True)
  return {kind: [step for where, step in pairs if where == kind] for kind in _KINDS}


def _is_of_the_newest(workdir: str, steps: dict[str, list[int]]) -> bool:
  """Whether the final checkpoint was made of the newest one, where both are of one step.

  It was not where training started anew and was stopped before its end. True where their meta
  cannot be read: whoever reads them says why.
  """
  newest, final = steps[checkpoints.FOLDER], steps[checkpoints.FINAL]
  if not final or newest[:1] != final[:1]:
    return True
  kinds = checkpoints.FINAL, checkpoints.FOLDER
  paths = [path for where in kinds for path in checkpoints.newest_meta(workdir, where)]
  try:
    made, of = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    return bool(made["made_from"] == of["crc32"])
  except (OSError, ValueError, KeyError, TypeError):
    return True


def _chosen(source: str, checkpoint: str, steps: dict[str, list[int]]) -> str:
  """The kind that `checkpoint` asks for, the newest if there is none at all. Raises UserError where
  there is only the other kind.

  The newest is the final one, where its weights were made of the newest."""
  newest, best = steps[checkpoints.FOLDER], steps[checkpoints.BEST]
  final = steps[checkpoints.FINAL]
  if checkpoint == "best" and newest and not best:
    hint = "take the newest, or train with --config.train.keep_best=True"
    raise UserError(f"{source} has no best checkpoint: {hint}")
  if checkpoint == "newest" and best and not newest:
    raise UserError(f"{source} has no checkpoint but the best: pass checkpoint=best")
  if best and checkpoint != "newest":
    return checkpoints.BEST
  if best and best[0] != newest[0]:
    other = f"the best on the validation classes was step {best[0]} (checkpoint=best takes it)"
    logging.info("%s: step %d is taken, the newest; %s", source, newest[0], other)
  is_final = final and newest[:1] in ([], final[:1])
  return checkpoints.FINAL if is_final else checkpoints.FOLDER


def _local_copy(source: str, folder: str, checkpoint: str) -> tuple[str, str]:
  """What `opened` yields of an archive or URL, below the temporary `folder`."""
  path = source
  if places.is_url(source):
    if not source.endswith(_ARCHIVES):
      return _downloaded(source, folder, checkpoint)
    path = os.path.join(folder, "archive.tar")
    with places.as_user_error(source):
      system, remote = places.opened(source)
      system.get_file(remote, path)
  elif not os.path.isfile(path):
    raise UserError(f"{source} does not exist: {_PASS}")
  return _unpacked(source, path, os.path.join(folder, "unpacked"), checkpoint)


def _unpacked(source: str, path: str, folder: str, checkpoint: str) -> tuple[str, str]:
  """Unpacks what a retriever reads, from any folder of the archive: no features and no logs."""
  try:
    with tarfile.open(path) as archive:
      names = archive.getnames()
      steps = _steps_of(pair for name in names for pair in itertools.pairwise(name.split("/")))
      where = _chosen(source, checkpoint, steps)
      members = [member for member in archive.getmembers() if _is_wanted(member.name, where)]
      archive.extractall(folder, members, filter="data")
  except UserError:
    raise
  except _DAMAGE as error:
    raise UserError(f"{source} cannot be unpacked: {error}") from error
  roots = [root for root, *_ in os.walk(folder)]
  found = [root for root in roots if checkpoints.steps(root, where) or is_export(root)]
  if len(found) != 1:
    count = "no workdir with checkpoints and no export" if not found else f"{len(found)} models"
    raise UserError(f"{source} holds {count}; one is needed")
  return found[0], where


def _is_wanted(name: str, where: str) -> bool:
  parts = name.split("/")
  of_step = any(folder == where and x.isdecimal() for folder, x in itertools.pairwise(parts))
  frozen = mirror.is_frozen("/".join(parts[-2:]))
  # A tokenizer is in a folder of a workdir, and beside the other files of an export.
  return of_step or frozen or parts[-1] in (WEIGHTS, FACTS, EVALUATION, *tokens.FILES)


def _from_hub(source: str) -> str:
  name, _, revision = source.removeprefix(_HUB).rstrip("/").partition("@")
  hint = "is it hf://org/name, and may you read it (hf auth login)?"
  problem = f"{source}: the hub did not give it ({{}}); {hint}"
  paths = [places.hub_file(name, file, problem, revision or None) for file in (FACTS, WEIGHTS)]
  if paths[0] is None or paths[1] is None:
    why = f"it has no {WEIGHTS} and {FACTS} as python -m lafg_jax.export writes them"
    raise UserError(f"{source}: {why}")
  for file in _tokenizer(paths[0]):
    places.hub_file(name, file, problem, revision or None)
  return os.path.dirname(paths[0])


def _tokenizer(path: str) -> list[str]:
  """The files of a tokenizer that the config.json of an export names; [] where it is damaged."""
  try:
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    names = found.get("lafg_jax", found)["facts"].get("tokenizer", {})
    return [name for name in tokens.FILES if name in names]
  except (ValueError, KeyError, TypeError, AttributeError):
    # `bundle.read` says what is wrong with it.
    return []


def _downloaded(source: str, folder: str, checkpoint: str) -> tuple[str, str]:
  with places.as_user_error(source):
    system, remote = places.opened(source)
    names = _listed(system, remote)
    for name in (FACTS, WEIGHTS, EVALUATION, *tokens.FILES):
      if name in names:
        system.get_file(f"{remote}/{name}", os.path.join(folder, name))
    if is_export(folder):
      return folder, checkpoints.FOLDER
    kinds = names & {*_KINDS}
    steps = _steps_of((kind, x) for kind in kinds for x in _listed(system, f"{remote}/{kind}"))
  where = _chosen(source, checkpoint, steps)
  if not steps[where]:
    raise UserError(f"{source} has neither checkpoints/ nor {WEIGHTS} with {FACTS}")
  for beside in {mirror.FROZEN, tokens.FOLDER} & names:
    with places.as_user_error(source):
      _copy(system, f"{remote}/{beside}", os.path.join(folder, beside))
  for step in steps[where]:
    local = os.path.join(folder, where, str(step))
    with places.as_user_error(source):
      _copy(system, f"{remote}/{where}/{step}", local)
    try:
      checkpoints.read(folder, step, where)
      return folder, where
    except checkpoints.Damaged as error:
      logging.warning("skipping the damaged checkpoint %s/%s/%d: %s", source, where, step, error)
      # The copy holds one checkpoint at most.
      shutil.rmtree(local)
  raise UserError(f"{source}: no checkpoint of {len(steps[where])} reads whole")


def _listed(system: Any, remote: str) -> set[str]:
  """The names of what lies in a folder."""
  return {path.rstrip("/").rpartition("/")[2] for path in system.ls(remote, detail=False)}


def _copy(system: Any, remote: str, local: str) -> None:
  """All files below a folder. File systems differ in where `get` with folders puts them."""
  os.makedirs(local)
  for path in system.find(remote):
    target = os.path.normpath(os.path.join(local, path.removeprefix(f"{remote}/")))
    if not target.startswith(os.path.join(local, "")):
      raise UserError(f"{path} would be written outside of its folder: do not trust its server")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    system.get_file(path, target)
