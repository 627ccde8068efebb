"""The search against all pairs by hand, and the hash on copies and strangers."""

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lafg_jax.data import near_duplicates


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 40), st.data())
def test_all_pairs_are_found_and_no_others(seed, n, width, data):
  rng = np.random.default_rng(seed)
  bits = data.draw(st.integers(0, min(40, 8 * width - 1)))
  # Around a few centres, at about the distance that is asked for.
  centres = rng.random((3, 8 * width)) < 0.5
  noise = rng.random((n, 8 * width)) < data.draw(st.floats(0, 1)) * (bits + 2) / (8 * width)
  hashes = np.packbits(centres[rng.integers(0, 3, n)] ^ noise, axis=1).reshape(n, width)
  pairs, distances = near_duplicates.pairs_within(hashes, bits)
  unpacked = [[bin(byte)[2:].zfill(8) for byte in row] for row in hashes]
  expected = {}
  for i in range(n):
    for j in range(i + 1, n):
      apart = sum(a != b for a, b in zip("".join(unpacked[i]), "".join(unpacked[j]), strict=True))
      if apart <= bits:
        expected[i, j] = apart
  got = {tuple(pair): d for pair, d in zip(pairs.tolist(), distances.tolist(), strict=True)}
  assert got == expected and len(pairs) == len(got)


def test_copies_are_near_and_other_photographs_are_far():
  hashes = []
  for seed in range(12):
    coarse = np.random.default_rng(seed).integers(0, 255, (10, 14, 3), np.uint8)
    img = Image.fromarray(coarse).resize((220, 160), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    img.resize((190, 140), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=40)
    hashes += [near_duplicates.phash(img), near_duplicates.phash(Image.open(buffer))]
  pairs, _ = near_duplicates.pairs_within(np.array(hashes), 24)
  assert pairs.tolist() == [[k, k + 1] for k in range(0, 24, 2)]
  assert hashes[0].shape == (near_duplicates.BITS // 8,)
