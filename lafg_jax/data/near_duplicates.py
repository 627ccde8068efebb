"""Images that look the same: perceptual hashes, and all pairs of them within some bits.

The hash is ImageHash's pHash over 64 x 64 grey pixels: which of the 16 x 16 lowest cosine
frequencies are above their median. It survives another size, another quality and slight changes of
colour; it does not find mirrored or cropped copies.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 16
BITS = SIDE * SIDE
# Pixels of the shorter side that a hash needs at least: it is computed from 64 x 64.
PIXELS = 128


def phash(img: Image.Image) -> np.ndarray:
  """uint8 [BITS / 8], the perceptual hash of one image."""
  import imagehash

  return np.packbits(imagehash.phash(img, hash_size=SIDE).hash.ravel())


def pairs_within(hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
  """All pairs of rows whose hashes differ in at most `bits` bits.

  Of bits + 1 parts of a hash one at least is equal in such a pair: only rows that share a part are
  compared, so that 120,000 photographs take seconds.

  Args:
    hashes: uint8 [n, B], which may not repeat a row (`np.unique` them; else equal rows are pairs
      too, as many as there are).
    bits: 0 to 8 B - 1.

  Returns:
    pairs: int64 [p, 2], first below second, sorted.
    distances: int64 [p].
  """
  n, width = hashes.shape
  unpacked = np.unpackbits(hashes, axis=1)
  # In words of 8 bytes, counting bits is quicker.
  words = np.zeros((n, -(-width // 8) * 8), np.uint8)
  words[:, :width] = hashes
  words = words.view(np.uint64)
  found = [np.empty(0, np.int64)]
  for part in range(bits + 1):
    # Every (bits + 1)th bit: neighbouring frequencies are alike, and would tell images apart less.
    for first, second in _sharing(np.packbits(unpacked[:, part :: bits + 1], axis=1)):
      # Most pairs that share a part by chance differ too much in the first word already.
      near = _distance(words[:, :1], first, second) <= bits
      first, second = first[near], second[near]
      near = _distance(words, first, second) <= bits
      low, high = np.minimum(first, second)[near], np.maximum(first, second)[near]
      found.append(low * n + high)
  codes = np.unique(np.concatenate(found))
  pairs = np.stack([codes // max(n, 1), codes % max(n, 1)], axis=1)
  return pairs, _distance(words, pairs[:, 0], pairs[:, 1])


def _sharing(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Rows of `keys` that are equal, pair by pair, in arrays of at most a row each."""
  _, group = np.unique(keys, axis=0, return_inverse=True)
  group = group.ravel()
  order = np.argsort(group, kind="stable")
  group = group[order]
  at, lag = np.arange(len(group)), 0
  while len(at):
    lag += 1
    at = at[at + lag < len(group)]
    # Sorted: a row that differs from the one `lag` behind it differs from all further ones.
    at = at[group[at] == group[at + lag]]
    if len(at):
      yield order[at], order[at + lag]


def _distance(words: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
  return np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.int64)
