"""Indexing: what is new or changed is embedded, what is gone is dropped, the rest stays.

Work is done in batches, each written at once, and nothing else remembers where it stands: a run
after a kill compares the images with the rows, and does what is left.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.gallery import store
from lafg_jax.gallery.sources import Item, Source
from lafg_jax.gallery.store import Entry, Gallery
from lafg_jax.runtime import interrupts
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.progress import Progress

# Images between two writes: what a kill costs at most.
BATCH = 256
# Skipped images that the gallery names, and letters of a reason.
_NAMED, _LETTERS = 50, 300


class Counts(NamedTuple):
  """What one run did. `skipped` are {path: why}."""

  added: int = 0
  changed: int = 0
  kept: int = 0  # that have not changed
  updated: int = 0  # whose class, metadata or date alone changed: nothing was embedded
  dropped: int = 0
  skipped: dict[str, str] = {}


class _Work(NamedTuple):
  item: Item
  entry: Entry  # as it will be; its hash is '' until the file is read
  before: Entry | None


Embed = Callable[[list[str]], tuple[np.ndarray, np.ndarray, dict[int, str]]]


def run(gallery: Gallery, source: Source, embed: Embed, batch: int = BATCH) -> Counts:
  """Brings a gallery to what `source` lists.

  Args:
    embed: paths to vectors [n, D], their rows among the paths, and {row: why} of the others, as
      `Retriever.embed_readable`.

  An image is taken as unchanged where its size and date are; else its content is hashed, and where
  that is the same, its vector is kept. Rows of the same root whose image is not listed any more, or
  cannot be read any more, are dropped.
  """
  known = store.entries(gallery)
  skipped = dict(source.skipped)
  work, kept = _compared(source, known, skipped)
  if not work and not kept:
    raise UserError(
      f"none of the {len(source.items):,} images of {source.root} is there: is its disk mounted? "
      "Nothing was changed"
    )
  listed = {store.key_of(item.path) for item in source.items}
  added = changed = updated = 0
  gone = [key for key, e in known.items() if e.root == source.root and key not in listed]
  with Progress("gallery", len(work), "images") as progress:
    for at in range(0, len(work), batch):
      interrupts.check()
      part = work[at : at + batch]
      same, new = _hashed(part, skipped)
      if same:
        keys = [store.key_of(one.item.path) for one in same]
        _put(gallery, same, store.vectors_of(gallery, keys))
      vectors, rows, reasons = _embedded(embed, [one.item.path for one in new])
      skipped |= {new[row].item.path: why for row, why in reasons.items()}
      done = [new[row] for row in rows]
      _put(gallery, done, vectors)
      updated += len(same)
      added += sum(one.before is None for one in done)
      changed += sum(one.before is not None for one in done)
      progress.add(len(part))
  # What was there and cannot be read any more: its vector shows another content.
  gone += [store.key_of(path) for path in skipped if store.key_of(path) in known]
  gone = list(dict.fromkeys(gone))
  store.drop(gallery, gone)
  return Counts(added, changed, kept, updated, len(gone), skipped)


def _embedded(embed: Embed, paths: list[str]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
  return embed(paths) if paths else (np.zeros((0, 1), np.float32), np.zeros(0, np.int32), {})


def _put(gallery: Gallery, works: Sequence[_Work], vectors: np.ndarray) -> None:
  images = [(one.entry, one.item.label, one.item.metadata) for one in works]
  store.put(gallery, images, vectors)


def _compared(
  source: Source, known: dict[str, Entry], skipped: dict[str, str]
) -> tuple[list[_Work], int]:
  """What has to be looked at, and how many images have not changed."""
  work, kept = [], 0
  for item in source.items:
    try:
      found = os.stat(item.path)
    except (OSError, ValueError) as error:
      skipped[item.path] = f"cannot read image: {getattr(error, 'strerror', None) or error}"
      continue
    if not stat.S_ISREG(found.st_mode):
      skipped[item.path] = "cannot read image: it is a folder, pipe or device, not a file"
      continue
    before = known.get(store.key_of(item.path))
    described = files.fingerprint(item.label, item.metadata)[:32]
    # A path that two roots list stays with the first of them.
    root = before.root if before else source.root
    entry = Entry(item.path, root, found.st_size, found.st_mtime_ns, "", described)
    if before and entry._replace(hash=before.hash) == before:
      kept += 1
    else:
      work.append(_Work(item, entry, before))
  return work, kept


def _hashed(works: Sequence[_Work], skipped: dict[str, str]) -> tuple[list[_Work], list[_Work]]:
  """The works with hashes: those whose content is that of their row, and those to be embedded."""

  def content(one: _Work) -> str | OSError:
    try:
      return files.file_hash(one.item.path)
    except OSError as error:
      return error

  same: list[_Work] = []
  new: list[_Work] = []
  with ThreadPoolExecutor(os.cpu_count(), "hash") as pool:
    for one, found in zip(works, pool.map(content, works), strict=True):
      if isinstance(found, OSError):
        skipped[one.item.path] = f"cannot read image: {found.strerror or found}"
        continue
      one = one._replace(entry=one.entry._replace(hash=found))
      (same if one.before and one.before.hash == found else new).append(one)
  return same, new


def shortened(skipped: dict[str, str]) -> dict[str, Any]:
  """What a gallery keeps of the images that were skipped."""
  first = [[path[-_LETTERS:], why[:_LETTERS]] for path, why in _first(skipped)]
  return {"count": len(skipped), "first": first}


def _first(skipped: dict[str, str]) -> Iterator[tuple[str, str]]:
  for _, pair in zip(range(_NAMED), skipped.items(), strict=False):
    yield pair
