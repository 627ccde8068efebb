"""Images that look the same: perceptual hashes, and all pairs of them within some bits.

The hash is ImageHash's pHash over 64 x 64 grey pixels: which of the 16 x 16 lowest cosine
frequencies are above their median. It finds copies of another size, of another quality and with
slight changes of colour; it does not find mirrored or cropped copies.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 16
BITS = SIDE * SIDE
# The shorter side of an image before it is hashed, at least: the hash takes 64 x 64 pixels.
PIXELS = 128


def phash(img: Image.Image) -> np.ndarray:
  """uint8 [BITS / 8], the perceptual hash of one image."""
  import imagehash

  return np.packbits(imagehash.phash(img, hash_size=SIDE).hash.ravel())


def pairs_within(hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
  """All pairs of rows whose hashes differ in at most `bits` bits.

  Of bits + 1 parts of a hash at least one is equal in such a pair. Only rows that share a part are
  compared, so that 120,000 photographs take seconds.

  Args:
    hashes: uint8 [n, B]; no row twice, as each two equal rows are a pair.
    bits: 0 to 8 B - 1.

  Returns:
    pairs: int64 [p, 2], first below second, sorted.
    distances: int64 [p].
  """
  n, width = hashes.shape
  unpacked = np.unpackbits(hashes, axis=1)
  # Bits are counted faster in words of 8 bytes.
  words = np.zeros((n, -(-width // 8) * 8), np.uint8)
  words[:, :width] = hashes
  words = words.view(np.uint64)
  found = [np.empty(0, np.int64)]
  for part in range(bits + 1):
    # Every (bits + 1)th bit: neighbouring frequencies are alike and would separate images less.
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
  """The pairs of rows of `keys` that are equal, as (first rows, second rows), in several parts."""
  _, group = np.unique(keys, axis=0, return_inverse=True)
  group = group.ravel()
  order = np.argsort(group, kind="stable")
  group = group[order]
  at, lag = np.arange(len(group)), 0
  while len(at):
    lag += 1
    at = at[at + lag < len(group)]
    # Sorted: a row that differs from the one `lag` places later differs from all later ones.
    at = at[group[at] == group[at + lag]]
    if len(at):
      yield order[at], order[at + lag]


def _distance(words: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
  return np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.int64)
