"""Index and search times of a gallery in Milvus Lite, and its recall@10 against exact search.

  python benchmarks/gallery.py [--rows 100000] [--dim 384] [--kind HNSW] [--effort 128]

Generated embeddings in clusters (a centre for 50 rows, noise of the centre's own length), written
in batches of 256 as `lafg_jax.search index` writes them. No image is decoded and no model runs.
"""

import argparse
import statistics as of_times
import tempfile
import time

import numpy as np

from lafg_jax.gallery import milvus, searching, store
from lafg_jax.gallery.indexing import BATCH


def embeddings(rows: int, dim: int) -> np.ndarray:
  rng = np.random.default_rng(0)
  centres = rng.standard_normal((max(1, rows // 50), dim)).astype(np.float32)
  x = centres[rng.integers(0, len(centres), rows)]
  x += rng.standard_normal((rows, dim), dtype=np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def write(gallery: store.Gallery, x: np.ndarray) -> None:
  for at in range(0, len(x), BATCH):
    images = []
    for row in range(at, min(at + BATCH, len(x))):
      entry = store.Entry(f"/photos/{row}.jpg", "/photos", 1, row, "0" * 64, "0" * 32)
      images.append((entry, f"class {row % 100}", {"year": 1990 + row % 30}))
    store.put(gallery, images, x[at : at + BATCH])


def timed(name: str, work, rounds: int = 1) -> None:
  times = []
  for _ in range(rounds):
    begun = time.perf_counter()
    work()
    times.append(time.perf_counter() - begun)
  print(f"{name}: {of_times.median(times):.3f} s", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", type=int, default=100_000)
  parser.add_argument("--dim", type=int, default=384)
  parser.add_argument("--kind", default="HNSW", choices=store.LITE)
  parser.add_argument("--effort", type=int)
  given = parser.parse_args()
  x = embeddings(given.rows, given.dim)
  facts = store.Facts("m", "class_retrieval", given.dim, 0, "/m", "newest", given.kind)
  facts = facts._replace(columns={"/photos": ["year"]})
  with tempfile.TemporaryDirectory() as folder:
    place = f"{folder}/g.db"
    with milvus.connected(place) as client:
      store.create(client, place, facts)
      store.load(client, place)
      gallery = store.Gallery(client, place, facts)
      timed(f"write {given.rows:,} rows", lambda: write(gallery, x))
      begun = time.perf_counter()
    print(f"close, with the index: {time.perf_counter() - begun:.3f} s", flush=True)
    begun = time.perf_counter()
    with store.opened(place) as gallery:
      print(f"open again: {time.perf_counter() - begun:.3f} s", flush=True)
      ask = (gallery, x[:1], 10)
      timed("one query", lambda: store.search(*ask, effort=given.effort), 20)
      timed("... with a filter", lambda: store.search(*ask, "year > 2010", given.effort), 5)
      timed("compare all rows", lambda: store.entries(gallery))
      found, queries = searching.recall(gallery, 10, effort=given.effort)
      print(f"recall@10 of {given.kind}: {found:.4f} ({queries} queries)")


if __name__ == "__main__":
  main()
