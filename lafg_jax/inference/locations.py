"""Where a trained model lies: a workdir, an export, a .tar of one, the hub, or a URL (gs://)."""

import contextlib
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any

from lafg_jax.training import checkpoints
from lafg_jax.utils import urls
from lafg_jax.utils.errors import UserError

WEIGHTS, FACTS, EVALUATION = "model.safetensors", "config.json", "evaluation.json"
_HUB = "hf://"
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
# What tarfile and its decompressors raise for bytes that are no archive or end early.
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, KeyError)


@contextlib.contextmanager
def opened(source: str) -> Iterator[str]:
  """Yields a local folder that holds an export or the checkpoints of a workdir.

  Args:
    source: a folder, a .tar, .tar.gz or .tgz of one, hf://org/name[@revision], or a URL that fsspec
      reads, such as gs://bucket/workdir. Of a URL's checkpoints only the newest that reads whole is
      downloaded. What is downloaded or unpacked is deleted again, but for the hub's own cache.

  Raises:
    UserError: nothing is there, or it cannot be reached or unpacked.
  """
  source = os.fspath(source)
  if source.startswith(_HUB):
    yield _from_hub(source)
  elif not source:
    raise UserError(
      "no trained model: pass a workdir, an export, a .tar, hf://org/name or gs://..."
    )
  elif urls.is_url(source) or source.endswith(_ARCHIVES):
    with tempfile.TemporaryDirectory(prefix="lafg_jax-") as folder:
      yield _brought(source, folder)
  elif os.path.isdir(source):
    yield source
  else:
    what = "is a file, and no .tar, .tar.gz or .tgz" if os.path.exists(source) else "does not exist"
    raise UserError(
      f"{source} {what}: pass a workdir, an export, a .tar, hf://org/name or gs://..."
    )


def is_export(folder: str) -> bool:
  """Whether `folder` is what lafg_jax.export wrote."""
  return all(os.path.isfile(os.path.join(folder, name)) for name in (WEIGHTS, FACTS))


def _brought(source: str, folder: str) -> str:
  """The local folder of an archive or URL, below the temporary `folder`."""
  if not urls.is_url(source):
    return _unpacked(source, folder)
  if not source.endswith(_ARCHIVES):
    return _downloaded(source, folder)
  archive = os.path.join(folder, "archive.tar")
  with urls.told(source):
    system, remote = urls.opened(source)
    system.get_file(remote, archive)
  return _unpacked(archive, os.path.join(folder, "unpacked"), source)


def _unpacked(path: str, folder: str, named: str = "") -> str:
  """Unpacks what a retriever reads, wherever in the archive it lies; features and logs stay."""
  named = named or path
  if not os.path.isfile(path):
    raise UserError(f"{named} does not exist: pass a workdir, an export, a .tar, hf:// or gs://...")
  try:
    with tarfile.open(path) as archive:
      members = [member for member in archive.getmembers() if _is_wanted(member.name)]
      archive.extractall(folder, members, filter="data")
  except _DAMAGE as error:
    raise UserError(f"{named} cannot be unpacked: {error}") from error
  found = [root for root, folders, files in os.walk(folder)
           if checkpoints.FOLDER in folders or {WEIGHTS, FACTS} <= set(files)]  # fmt: skip
  if len(found) != 1:
    count = "no workdir with checkpoints and no export" if not found else f"{len(found)} models"
    raise UserError(f"{named} holds {count}; one is needed")
  return found[0]


def _is_wanted(name: str) -> bool:
  parts = name.split("/")
  return checkpoints.FOLDER in parts or parts[-1] in (WEIGHTS, FACTS, EVALUATION)


def _from_hub(source: str) -> str:
  import huggingface_hub as hub
  from huggingface_hub import errors

  name, _, revision = source.removeprefix(_HUB).rstrip("/").partition("@")
  try:
    paths = [
      hub.hf_hub_download(name, file, revision=revision or None) for file in (FACTS, WEIGHTS)
    ]
    return os.path.dirname(paths[0])
  except errors.LocalEntryNotFoundError as error:
    raise UserError(f"{source}: the hub cannot be reached ({type(error).__name__})") from error
  except errors.EntryNotFoundError as error:
    raise UserError(
      f"{source}: it has no {WEIGHTS} and {FACTS} as python -m lafg_jax.export writes them"
    ) from error
  except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled,
          OSError) as error:  # fmt: skip
    raise UserError(
      f"{source}: the hub did not give it ({type(error).__name__}); is it hf://org/name, and may "
      "you read it (hf auth login)?"
    ) from error


def _downloaded(source: str, folder: str) -> str:
  with urls.told(source):
    system, remote = urls.opened(source)
    names = {path.rstrip("/").rpartition("/")[2] for path in system.ls(remote, detail=False)}
    for name in (FACTS, WEIGHTS, EVALUATION):
      if name in names:
        system.get_file(f"{remote}/{name}", os.path.join(folder, name))
    if is_export(folder):
      return folder
    steps: list[str] = []
    if checkpoints.FOLDER in names:
      paths = system.ls(f"{remote}/{checkpoints.FOLDER}", detail=False)
      steps = [path.rstrip("/").rpartition("/")[2] for path in paths]
    steps = sorted((step for step in steps if re.fullmatch(r"\d+", step)), key=int, reverse=True)
  if not steps:
    raise UserError(f"{source} has neither checkpoints/ nor {WEIGHTS} with {FACTS}")
  for step in steps:
    local = os.path.join(folder, checkpoints.FOLDER, step)
    with urls.told(source):
      _copy(system, f"{remote}/{checkpoints.FOLDER}/{step}", local)
    if checkpoints.latest(folder) is not None:
      return folder
    # A damaged one must not stand beside the next, which would be skipped with it.
    shutil.rmtree(local)
  raise UserError(f"{source}: no checkpoint of {len(steps)} reads whole")


def _copy(system: Any, remote: str, local: str) -> None:
  """All files below a folder. File systems differ in where `get` with folders puts them."""
  os.makedirs(local)
  for path in system.find(remote):
    target = os.path.normpath(os.path.join(local, path.removeprefix(f"{remote}/")))
    if not target.startswith(os.path.join(local, "")):
      raise UserError(
        f"{path} would be written outside of its folder: a server that is not to trust"
      )
    os.makedirs(os.path.dirname(target), exist_ok=True)
    system.get_file(path, target)
