"""Features that were computed once, on disk: `<folder>/<encoder>/*.npz`, only ever added to.

An entry is found by a hash of what made it (the encoder's identity and the text or image), so no
entry goes stale. A file holds some seconds of work and appears whole or not at all; a kill loses no
more than that. The folder may be deleted at any time.
"""

import hashlib
import itertools
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import read_cached_npz, write_npz
from lafg_jax.utils.progress import Progress

# Part of every key: changes when the same encoder and text give other features by this code.
_VERSION = 1
_KEY_BYTES = 32
# Rows -> those of them that could be encoded, and their features [r, d].
Encode = Callable[[Sequence[int]], tuple[Sequence[int], np.ndarray]]
# More files than this are merged into one when they are read.
_MANY_FILES = 32


class FeatureCache:
  """The features of one encoder; a context manager that writes what is left on leaving.

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
    """The features [d] float32 of those `keys` that are there; damaged files are set aside."""
    wanted, found = set(keys), {}
    paths = sorted(self.folder.glob("*.npz")) if self.folder else []
    read = {path: read_cached_npz(path, ("keys", "features"), _is_sound) for path in paths}
    files = {path: arrays for path, arrays in read.items() if arrays is not None}
    for stored, features in files.values():
      rows = zip(map(bytes, stored), features, strict=True)
      found.update({key: row for key, row in rows if key in wanted})
    if len(files) > _MANY_FILES:
      self._merge(files)
    return found

  def add(self, keys: Sequence[bytes], features: np.ndarray) -> None:
    """Keeps `features` [n, d]; on disk at the latest with the first call after `seconds`.

    Rows that are not finite, of a model that overflows, are not kept.
    """
    features = np.asarray(features, np.float32)
    sound = np.isfinite(features).all(axis=1)
    if sound.any():
      self.waiting.append((list(itertools.compress(keys, sound)), features[sound]))
    if time.monotonic() - self.written >= self.seconds:
      self.flush()

  def flush(self) -> None:
    """Writes what has not been written.

    Raises:
      UserError: the folder cannot be written to.
    """
    if self.waiting and self.folder:
      keys = [key for part, _ in self.waiting for key in part]
      self._write(keys, np.concatenate([features for _, features in self.waiting]))
    self.waiting, self.written = [], time.monotonic()

  def _write(self, keys: Sequence[bytes], features: np.ndarray) -> Path:
    assert self.folder is not None
    # No two runs write the same name, so that they may share the folder.
    path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.npz"
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
    try:
      return write_npz(path, keys=rows, features=features)
    except OSError as error:
      raise UserError(
        f"language.cache: {self.folder.parent} cannot be written to ({error.strerror}): "
        "pass --config.language.cache=FOLDER, or an empty one to keep nothing"
      ) from error

  def _merge(self, files: dict[Path, tuple[np.ndarray, np.ndarray]]) -> None:
    unique = {
      bytes(key): row
      for keys, features in files.values()
      for key, row in zip(keys, features, strict=True)
    }
    self._write(list(unique), np.stack(list(unique.values())))
    for path in files:
      path.unlink(missing_ok=True)


def _is_sound(keys: np.ndarray, features: np.ndarray) -> bool:
  return (
    (keys.dtype, keys.ndim, keys.shape[1:]) == (np.uint8, 2, (_KEY_BYTES,))
    and (features.dtype, features.ndim, len(features)) == (np.float32, 2, len(keys))
    and bool(np.isfinite(features).all())
  )


def computed(
  keys: Sequence[bytes | None],
  lengths: Sequence[int],
  prepare: Callable[[], Encode],
  batch_size: int,
  cache: FeatureCache,
  unit: str,
) -> np.ndarray:
  """Features [n, d] of the rows that `keys` name: from the cache, the others in batches.

  Rows without features are nan; where no row has any, the result is [n, 0].

  Args:
    keys: [n >= 1], of `FeatureCache.key`; None for a row that has nothing to encode.
    lengths: [n]; rows of like length share a batch.
    prepare: loads the model and gives the function that encodes rows; called only if a row is not
      in the cache. Rows that it leaves out have no features.
    batch_size: rows at once.
    cache: where features are kept.
    unit: what a row is, for the progress bar.
  """
  assert keys, f"no {unit} to encode"
  named = [(row, key) for row, key in enumerate(keys) if key is not None]
  known = cache.read([key for _, key in named])
  first = {key: row for row, key in reversed(named) if key not in known}
  if known:
    different = len(first) + len(known)
    logging.info("encode: %d of %d %s come from the cache", len(known), different, unit)
  key_of = {row: key for key, row in first.items()}
  # Texts of like length share a batch, which saves most of the padding.
  rows = sorted(key_of, key=lambda row: lengths[row])
  if rows:
    known |= _encoded(rows, key_of, prepare(), batch_size, cache, unit)
  width = len(next(iter(known.values()), ()))
  found = np.full((len(keys), width), np.nan, np.float32)
  for row, key in named:
    if key in known:
      found[row] = known[key]
  return found


def _encoded(
  rows: Sequence[int],
  key_of: dict[int, bytes],
  encode: Encode,
  batch_size: int,
  cache: FeatureCache,
  unit: str,
) -> dict[bytes, np.ndarray]:
  """Features by key of the `rows`, also into the cache."""
  found: dict[bytes, np.ndarray] = {}
  with Progress("encode", len(rows), unit) as progress:
    for start in range(0, len(rows), batch_size):
      batch = rows[start : start + batch_size]
      encoded, features = encode(batch)
      # What cannot be read now may be readable next time: it gets no entry.
      names = [key_of[row] for row in encoded]
      cache.add(names, features)
      found.update(zip(names, features, strict=True))
      progress.add(len(batch))
  return found
