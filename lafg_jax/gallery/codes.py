"""Binary codes: a bit a sign, kept beside a gallery, to look at few full vectors of a large one.

A code is the sign of a learned rotation (ITQ of Gong and Lazebnik, CVPR 2011, by faiss). A query
compares codes (Hamming distance, in memory, 1/32 of the vectors' size at a bit a number), and ranks
the nearest anew by their full vectors, which come from Milvus. Milvus Lite 3.2 has no binary
vectors, so that the codes are a file of ours: FILE.db.codes.npz.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.gallery import milvus, store
from lafg_jax.gallery.store import Gallery, Hit
from lafg_jax.utils import files, packages, random_streams
from lafg_jax.utils.errors import UserError

# Vectors that the rotation is learned from, and the fewest for a bit.
SAMPLE, FEWEST = 20_000, 4
# Candidates that are ranked anew, for each image that is asked for.
RERANK = 20
# Rows whose vectors are in memory at once.
_CHUNK = 8192


class Codes(NamedTuple):
  """keys, hashes [n]: of the rows and their images' content. bits [n, b / 8] uint8.

  A vector x has the code sign(rotation (x - mean)): rotation [b, D], mean [D], float32.
  """

  keys: np.ndarray
  hashes: np.ndarray
  bits: np.ndarray
  rotation: np.ndarray
  mean: np.ndarray

  def of(self, vectors: np.ndarray) -> np.ndarray:
    """The codes [n, b / 8] of vectors [n, D]."""
    return np.packbits((vectors - self.mean) @ self.rotation.T > 0, axis=1)


def file_of(place: str) -> str:
  """Where the codes of a gallery lie. Raises UserError for a server, which has its own indexes."""
  if not milvus.is_local(place):
    raise UserError(
      f"--gallery={place}: codes are for a FILE.db; a server has --index_type=IVF_SQ8 and others"
    )
  return place.rstrip("/") + ".codes.npz"


def read(place: str) -> Codes | None:
  """The codes of a gallery; None where it has none."""
  if not milvus.is_local(place) or not os.path.exists(file_of(place)):
    return None
  arrays = files.read_npz(file_of(place), Codes._fields, stage=None)
  return Codes(**arrays)


def bits_of(place: str) -> int:
  """How many bits a code of a gallery has; 0 where it has none."""
  found = read(place)
  return 8 * found.bits.shape[1] if found else 0


def check(place: str, bits: int) -> None:
  """Raises UserError where there cannot be codes of so many bits."""
  packages.require("faiss", "faiss")
  file_of(place)
  if bits < 8 or bits % 8:
    raise UserError(f"--bits={bits}: it takes a multiple of 8")


def learn(vectors: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
  """The rotation [bits, D] and mean [D] of vectors [n, D]; UserError where they are too few."""
  import faiss

  count, dim = vectors.shape
  if bits > dim:
    raise UserError(f"--bits={bits}: the vectors have {dim} numbers, and a number has one bit")
  if count < FEWEST * dim:
    raise UserError(
      f"{count:,} images are too few to learn codes of {dim} numbers: {FEWEST * dim:,} are needed"
    )
  transform = faiss.ITQTransform(dim, bits, True)
  # Its own matrix is random otherwise.
  transform.itq.seed = 0
  transform.train(np.ascontiguousarray(vectors, np.float32))
  linear = transform.pca_then_itq
  rotation = faiss.vector_to_array(linear.A).reshape(bits, dim)
  # It scales what is centred to unit norm, which changes no sign.
  return rotation, faiss.vector_to_array(transform.mean)


def make(gallery: Gallery, bits: int, seed: int = 0) -> Codes:
  """Learns the rotation from a sample of a gallery, and writes the codes of all."""
  entries = store.entries(gallery)
  keys = sorted(entries)
  rng = random_streams.of_seed(seed)
  chosen = rng.choice(len(keys), min(SAMPLE, len(keys)), replace=False)
  sample = store.vectors_of(gallery, [keys[row] for row in chosen])
  rotation, mean = learn(sample, bits)
  none = np.zeros((0, bits // 8), np.uint8)
  codes = Codes(np.array([], "U40"), np.array([], "U64"), none, rotation, mean)
  return _brought(gallery, codes, entries)


def refresh(gallery: Gallery, codes: Codes) -> Codes:
  """Brings codes to what the gallery holds, and writes them; the rotation stays."""
  return _brought(gallery, codes, store.entries(gallery))


def _brought(gallery: Gallery, codes: Codes, entries: dict[str, store.Entry]) -> Codes:
  known = {key: row for row, key in enumerate(codes.keys.tolist())}
  kept = [
    known[key]
    for key, entry in entries.items()
    if key in known and codes.hashes[known[key]] == entry.hash
  ]
  there = {str(codes.keys[row]) for row in kept}
  new = [key for key in entries if key not in there]
  bits = [codes.bits[kept]]
  for at in range(0, len(new), _CHUNK):
    bits.append(codes.of(store.vectors_of(gallery, new[at : at + _CHUNK])))
  keys = np.array([*codes.keys[kept].tolist(), *new], "U40")
  hashes = np.array([*codes.hashes[kept].tolist(), *(entries[key].hash for key in new)], "U64")
  codes = codes._replace(keys=keys, hashes=hashes, bits=np.concatenate(bits))
  files.write_npz(file_of(gallery.place), **codes._asdict())
  return codes


def search(
  gallery: Gallery,
  codes: Codes,
  vectors: np.ndarray,
  k: int,
  where: str = "",
  rerank: int = RERANK,
) -> list[list[Hit]]:
  """The k nearest images of each vector [Q, D], best first: by codes, then by full vectors.

  rerank: how many candidates the codes give for each of k. `where` as in `store.search`.
  """
  import faiss

  keys, bits = codes.keys, codes.bits
  if where:
    passing = np.isin(keys, np.array(store.matching(gallery, where), keys.dtype))
    keys, bits = keys[passing], bits[passing]
  if not len(keys):
    return [[] for _ in vectors]
  index = faiss.IndexBinaryFlat(8 * bits.shape[1])
  index.add(np.ascontiguousarray(bits))
  _, rows = index.search(codes.of(vectors), min(k * max(1, rerank), len(keys)))
  return [
    _ranked(gallery, vector, keys[found].tolist(), k)
    for vector, found in zip(vectors, rows, strict=True)
  ]


def _ranked(gallery: Gallery, vector: np.ndarray, keys: Sequence[str], k: int) -> list[Hit]:
  hits, vectors = store.of_keys(gallery, keys)
  scores: Any = vectors @ vector
  return [hits[row]._replace(score=float(scores[row])) for row in np.argsort(-scores)[:k]]
