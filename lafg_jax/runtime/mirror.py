"""Keeps a local folder ("here") and a URL such as gs:// ("there") equal, file by file.

`<folder>/.remote.json` records each file as it was when both sides were equal. A file that was
changed there is downloaded; any other that was changed here is uploaded. The meta of a checkpoint
is uploaded last and deleted first: without it, a checkpoint counts as half-uploaded. Frozen weights
are uploaded before the checkpoints that name them, and deleted after them.
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.utils import files, places

STEP_FOLDERS, FROZEN = ("checkpoints", "best", "final"), "frozen"
_RECORD, _META = ".remote.json", "meta/metadata"
_STEP = re.compile(rf"({'|'.join(STEP_FOLDERS)})/(\d+)/(.+)")
_FROZEN = re.compile(rf"{FROZEN}/[0-9a-f]{{64}}\.safetensors")
# Facts that change with a file, by the names that the file systems of fsspec give them.
_CHANGES = ("generation", "etag", "ETag", "md5Hash", "mtime", "LastModified", "last_modified")


def is_in_checkpoint(name: str) -> bool:
  """Whether a file of a workdir, such as 'best/60/meta/metadata', is part of a checkpoint."""
  return _STEP.fullmatch(name) is not None


def is_frozen(name: str) -> bool:
  """Whether a file of a workdir, such as 'frozen/a1b2.safetensors', has frozen weights."""
  return _FROZEN.fullmatch(name) is not None


def is_named(folder: str, name: str) -> bool:
  """Whether a checkpoint of a workdir, also one set aside, names a file of frozen weights."""
  file = Path(name).stem.encode()
  for meta in (x for where in STEP_FOLDERS for x in Path(folder, where).glob(f"*/{_META}")):
    # Any mention counts: a damaged meta may be replaced by a whole copy.
    with contextlib.suppress(FileNotFoundError):
      if file in meta.read_bytes():
        return True
  return False


def _is_kept_equal(name: str) -> bool:
  """False for locks, temporary files, and steps that are unfinished or set aside."""
  parts = name.split("/")
  unfinished = parts[-1].startswith(".") and parts[-1].endswith(".tmp")
  if not all(parts) or ".." in parts or parts[0].startswith(".") or unfinished:
    return False
  if parts[0] == FROZEN:
    return is_frozen(name)
  return parts[0] not in STEP_FOLDERS or is_in_checkpoint(name)


def _order(name: str) -> tuple:
  """Sorts files for copying: a file comes after those that it refers to."""
  match = _STEP.fullmatch(name)
  if not match:
    return (3 if name == "stages.json" else 0, 0, 0, name)
  # The best and the final one come before the newest, and later steps come first.
  return (1 + (match[1] == "checkpoints"), -int(match[2]), match[3] == _META, name)


def _token(info: dict[str, Any]) -> str:
  """A string that differs between two contents of a file there."""
  return f"{info.get('size')} {next((info[key] for key in _CHANGES if info.get(key)), '')}"


class Mirror:
  """A URL and the local folder that is kept equal to it; may be used from several threads.

  there: {name: token} of the files there. record: {name: [token, size, mtime_ns]} of those that are
  the same here. Raises UserError where the package for such URLs is missing.
  """

  def __init__(self, url: str, folder: str) -> None:
    self.url, self.folder = url, folder
    with places.as_user_error(url):
      self.system, self.root = places.opened(url)
    self.lock = threading.Lock()
    self.there: dict[str, str] = {}
    self.record: dict[str, list] = {}
    # Without a record every file counts as changed there.
    with contextlib.suppress(OSError, ValueError), open(self._path(_RECORD)) as file:
      self.record = json.load(file)

  def _path(self, name: str) -> str:
    return os.path.join(self.folder, name)

  def _write_record(self, name: str, stat: os.stat_result | None) -> None:
    """Records that a file is the same here and there, or with None that it is deleted."""
    self.record.pop(name, None)
    if stat is not None:
      self.record[name] = [self.there[name], stat.st_size, stat.st_mtime_ns]
    # At once: after a kill, an unrecorded file counts as changed there and is downloaded again.
    with files.replacing(self._path(_RECORD)) as temporary:
      temporary.write_text(json.dumps(self.record), encoding="utf-8")

  def down(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Downloads the wanted files that are changed there or missing here, or raises UserError."""
    with self.lock, places.as_user_error(self.url):
      self.there = self._listing()
      for name in self.record.keys() - self.there.keys():
        Path(self._path(name)).unlink(missing_ok=True)
        self._write_record(name, None)
        # An empty folder of a step would count as a checkpoint; the record keeps the workdir.
        with contextlib.suppress(OSError):
          os.removedirs(os.path.dirname(self._path(name)))
      steps = {name[: -len(m[3])] for name in self.there if (m := _STEP.fullmatch(name))}
      half = tuple(sorted(step for step in steps if step + _META not in self.there))
      for step in half:
        logging.warning("skipping the half-uploaded checkpoint %s/%s", self.url, step[:-1])
      for name in sorted(filter(wanted, self.there), key=_order):
        same = self.record.get(name, [""])[0] == self.there[name]
        if not (same and os.path.exists(self._path(name))) and not name.startswith(half):
          with files.replacing(self._path(name)) as temporary:
            self.system.get_file(f"{self.root}/{name}", str(temporary))
          self._write_record(name, os.stat(self._path(name)))

  def _listing(self) -> dict[str, str]:
    found: dict[str, Any] = {}
    self.system.invalidate_cache()
    with contextlib.suppress(FileNotFoundError):
      found = self.system.find(self.root, detail=True)
    named = {path.removeprefix(f"{self.root}/"): _token(info) for path, info in found.items()}
    return {name: token for name, token in named.items() if _is_kept_equal(name)}

  def up(self) -> None:
    """Uploads what was changed here, and deletes there the checkpoints that newer ones replaced.

    Raises what the file system raises (`places.errors()`); the next call does the rest.
    """
    with self.lock:
      here, vanished = self._here(), set()
      for name in sorted(here, key=_order):
        step = tuple(name.split("/")[:2]) if is_in_checkpoint(name) else name
        same = self.record.get(name, [])[1:] == [here[name].st_size, here[name].st_mtime_ns]
        # If a checkpoint is deleted here meanwhile, its meta is not uploaded: it would look whole.
        if not same and step not in vanished and not self._upload(name, here[name]):
          vanished.add(step)
      kept = [m for m in map(_STEP.fullmatch, here) if m]
      newest = {m[1]: int(m[2]) for m in sorted(kept, key=lambda m: int(m[2]))}
      for name in sorted(self.there.keys() - here.keys(), key=_order, reverse=True):
        match = _STEP.fullmatch(name)
        if match and int(match[2]) <= newest.get(match[1], -1):
          self._delete(name)
      others = self.there.keys() - here.keys()
      # A checkpoint that is there alone may name any of them.
      if newest and not any(map(is_in_checkpoint, others)):
        for name in filter(is_frozen, others):
          if not is_named(self.folder, name):
            self._delete(name)

  def _delete(self, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
      self.system.rm_file(f"{self.root}/{name}")
    del self.there[name]
    self._write_record(name, None)

  def _here(self) -> dict[str, os.stat_result]:
    found = {}
    # "best" is listed after "checkpoints", so that it holds the best of every step listed before.
    for below in (*STEP_FOLDERS, ""):
      for root, _, names in os.walk(self._path(below)):
        for path in (os.path.join(root, name) for name in names):
          name = os.path.relpath(path, self.folder).replace(os.sep, "/")
          if _is_kept_equal(name) and (below or not is_in_checkpoint(name)):
            with contextlib.suppress(FileNotFoundError):
              found[name] = os.stat(path)
    return found

  def _upload(self, name: str, stat: os.stat_result) -> bool:
    """Uploads a file; returns False if it was deleted here meanwhile."""
    there = f"{self.root}/{name}"
    try:
      self.system.makedirs(os.path.dirname(there), exist_ok=True)
      self.system.put_file(self._path(name), there)
    except FileNotFoundError:
      if not os.path.exists(self._path(name)):
        return False
      raise
    self.there[name] = _token(self.system.info(there))
    self._write_record(name, stat)
    return True
