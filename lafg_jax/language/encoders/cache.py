"""Features of a frozen encoder, computed once and kept in `<folder>/<encoder>/*.npz`.

The key of an entry is a hash of the encoder's identity and of the text or image, so no entry goes
stale. Files are only added, merged and, beyond MOST_BYTES, deleted; each is written whole, and a
kill loses some seconds of work. The folder may be deleted at any time.
"""

import contextlib
import hashlib
import itertools
import os
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import read_cached_npz, write_npz
from lafg_jax.utils.progress import Progress

# Part of every key; it changes when this code computes other features of the same text. Both
# runtimes share the entries: their features differ by rounding (1e-5, test_runtimes.py).
_VERSION = 2
_KEY_BYTES = 32
# Rows -> those of them that could be encoded, and their features [r, d] float32.
Encode = Callable[[Sequence[int]], tuple[Sequence[int], np.ndarray]]
# `read` merges the small files of an encoder into one above this number.
_MANY_FILES, _SMALL_BYTES = 32, 16 * 2**20
# Of all encoders together. Beyond it, the files that were not read for longest are deleted.
MOST_BYTES = 4 * 2**30


class FeatureCache:
  """The features of one encoder; a context manager that writes the rest when it is left.

  Args:
    folder: of the cache, shared by all encoders; '' keeps nothing.
    identity: of the encoder's content.
    seconds: work that a kill may lose.
  """

  def __init__(self, folder: str | os.PathLike, identity: str, seconds: float = 3.0) -> None:
    self.identity, self.seconds = identity, seconds
    name = hashlib.sha256(f"{_VERSION} {identity}".encode()).hexdigest()[:_KEY_BYTES]
    self.folder = Path(folder).expanduser() / name if str(folder) else None
    self.waiting: list[tuple[list[bytes], np.ndarray]] = []
    self.written = time.monotonic()

  def __enter__(self) -> "FeatureCache":
    return self

  def __exit__(self, *unused) -> None:
    self.flush()

  def key(self, content: bytes) -> bytes:
    """The key [32 bytes] of a text or image."""
    return hashlib.sha256(f"{_VERSION} {self.identity}\n".encode() + content).digest()

  def read(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
    """The features [d] float32 of the `keys` that are stored; renames damaged files.

    Of a file without any of them, the features are not read.
    """
    wanted = set(keys)
    found: dict[bytes, np.ndarray] = {}
    small: list[Path] = []
    for path in sorted(self.folder.glob("*.npz")) if self.folder else []:
      names = _keys_of(path)
      if _bytes_of(path) < _SMALL_BYTES:
        small.append(path)
      if names is not None and wanted.isdisjoint(names):
        continue
      if arrays := read_cached_npz(path, ("keys", "features"), _is_sound):
        stored = zip(*arrays, strict=True)
        found |= {key: row for name, row in stored if (key := bytes(name)) in wanted}
        with contextlib.suppress(FileNotFoundError):
          os.utime(path)
    if len(small) > _MANY_FILES:
      self._merge(small)
    return {key: found[key] for key in keys if key in found}

  def _merge(self, paths: Sequence[Path]) -> None:
    """Puts the content of files into one, and deletes them."""
    read = [read_cached_npz(path, ("keys", "features"), _is_sound) for path in paths]
    stored = {
      bytes(key): row for arrays in read if arrays for key, row in zip(*arrays, strict=True)
    }
    if stored:
      self._write(list(stored), np.stack(list(stored.values())))
    for path in paths:
      path.unlink(missing_ok=True)

  def add(self, keys: Sequence[bytes], features: np.ndarray) -> None:
    """Keeps `features` [n, d]; the first call after `seconds` writes all that wait.

    Rows that are not finite, as a model that overflows gives, are not kept.
    """
    features = np.asarray(features, np.float32)
    sound = np.isfinite(features).all(axis=1)
    if sound.any():
      self.waiting.append((list(itertools.compress(keys, sound)), features[sound]))
    if time.monotonic() - self.written >= self.seconds:
      self.flush()

  def flush(self) -> None:
    """Writes all that wait; raises UserError if the folder cannot be written to."""
    if self.waiting:
      keys = [key for part, _ in self.waiting for key in part]
      self._write(keys, np.concatenate([features for _, features in self.waiting]))
    self.waiting, self.written = [], time.monotonic()

  def _write(self, keys: Sequence[bytes], features: np.ndarray) -> None:
    if self.folder is None:
      return
    # No two runs write the same name, so that they may share the folder.
    path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.npz"
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
    try:
      write_npz(path, keys=rows, features=features)
      _bound(self.folder.parent, path)
    except OSError as error:
      raise UserError(
        f"language.cache: {self.folder.parent} cannot be written to ({error.strerror}): "
        "pass --config.language.cache=FOLDER, or an empty one to keep nothing"
      ) from error


def _bytes_of(path: Path) -> int:
  with contextlib.suppress(FileNotFoundError):
    return path.stat().st_size
  return 0


def _keys_of(path: Path) -> set[bytes] | None:
  """The keys of a file; None where they cannot be read."""
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return {bytes(key) for key in arrays["keys"]}
  except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
    # `read_cached_npz` says so, and sets the file aside.
    return None


def _bound(folder: Path, newest: Path) -> None:
  """Deletes files of all encoders, those not read for longest first, until MOST_BYTES are left."""
  found = []
  for path in folder.glob("*/*.npz"):
    # Another run may delete files too.
    with contextlib.suppress(FileNotFoundError):
      status = path.stat()
      found.append((path != newest, status.st_mtime, path, status.st_size))
  total = sum(size for *_, size in found)
  for deletable, _, path, size in sorted(found, key=lambda x: x[1]):
    if total > MOST_BYTES and deletable:
      path.unlink(missing_ok=True)
      total -= size


def _is_sound(keys: np.ndarray, features: np.ndarray) -> bool:
  return (
    (keys.dtype, keys.ndim, keys.shape[1:]) == (np.uint8, 2, (_KEY_BYTES,))
    and (features.dtype, features.ndim, len(features)) == (np.float32, 2, len(keys))
    and bool(np.isfinite(features).all())
  )


def computed(
  contents: Iterable[bytes | None],
  lengths: Sequence[int],
  prepare: Callable[[], Encode],
  batch_size: int,
  cache: FeatureCache,
  unit: str,
) -> np.ndarray:
  """Features [n, d] float32 of n >= 1 texts or images: from the cache, the others in batches.

  Rows without features are nan; where no row has any, the result is [n, 0].

  Args:
    contents: what a row's features depend on; None for a row that cannot be encoded.
    lengths: [n]; rows of like length share a batch, which saves most of the padding.
    prepare: loads the model and returns the function that encodes rows; called only if a row is not
      in the cache. Rows that the function leaves out have no features, and no entry: they may be
      readable next time.
    unit: what a row is, for the progress lines.

  Raises:
    UserError: batch_size is below 1, or the cache cannot be written to.
  """
  if batch_size < 1:
    raise UserError(f"language.batch_size must be at least 1, not {batch_size}")
  with cache:
    keys = [content if content is None else cache.key(content) for content in contents]
    assert keys, f"no {unit} to encode"
    known = cache.read([key for key in keys if key is not None])
    first = {key: row for row, key in reversed([*enumerate(keys)]) if key and key not in known}
    key_of = {row: key for key, row in first.items()}
    if known:
      different = len(first) + len(known)
      logging.info("encode: %d of %d %s come from the cache", len(known), different, unit)
    rows = sorted(key_of, key=lambda row: lengths[row])
    if rows:
      encode = prepare()
      with Progress("encode", len(rows), unit) as progress:
        for start in range(0, len(rows), batch_size):
          encoded, features = encode(rows[start : start + batch_size])
          names = [key_of[row] for row in encoded]
          cache.add(names, features)
          known.update(zip(names, features, strict=True))
          progress.add(len(rows[start : start + batch_size]))
  width = len(next(iter(known.values()), ()))
  nothing = np.full(width, np.nan, np.float32)
  return np.stack([known.get(key or b"", nothing) for key in keys])
