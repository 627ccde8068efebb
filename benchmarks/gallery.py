"""Index and search times of a gallery in Milvus Lite, and its recall@10 against exact search.

  python benchmarks/gallery.py [--rows 100000] [--dim 384] [--kind HNSW] [--effort 64 256]
  python benchmarks/gallery.py --bits 256 [--rows 100000] [--dim 384] [--rerank 20]
  python benchmarks/gallery.py --kills 10 [--rows 100000] [--kind HNSW]

Generated embeddings in clusters (a centre for 50 rows, noise of the centre's own length), written
in batches of 256 as `lafg_jax.search index` writes them. No image is decoded and no model runs.
Recall@10 is over 200 of them as queries, for each --effort (0: Milvus Lite's default).

--bits: the same with binary codes (lafg_jax/gallery/codes.py) in place of the index.

--kills: as many times, `search index` of a folder of small files (each file's vector is a row of
these embeddings) is killed by SIGKILL after a random number of batches. Then it runs to its end,
and every row is compared: each file once, with its own vector.
"""

import argparse
import random
import statistics as of_times
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.evaluate import knn
from lafg_jax.gallery import building, codes, milvus, searching, sources, store
from lafg_jax.gallery.indexing import BATCH
from lafg_jax.gallery.model import Model


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


class Rows:
  """A retriever that looks embeddings up: the content of a file is the number of its row."""

  def __init__(self, x: np.ndarray):
    self.x, self.embedding_dim = x, x.shape[1]

  def embed_readable(self, paths: list[str]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    print("batch", flush=True)
    found = self.x[[int(Path(path).read_text()) for path in paths]]
    return found, np.arange(len(paths)), {}


def index_once(folder: str, kind: str) -> None:
  """One run of indexing, in a process that may be killed."""
  x = np.load(f"{folder}/x.npy", mmap_mode="r")
  model = Model(Rows(x), "m", "class_retrieval", x.shape[1], 0, False, "/m", "newest")
  source = sources.read(f"{folder}/photos")
  entries = store.entries

  def counted(gallery: store.Gallery) -> dict[str, store.Entry]:
    found = entries(gallery)
    print(f"known {len(found)}", flush=True)
    return found

  vars(store)["entries"] = counted
  print(building.build(f"{folder}/g.db", model, source, kind)[1], flush=True)


def killed(given: argparse.Namespace, kills: int) -> None:
  """Kills indexing again and again; raises AssertionError where a row is lost, double or wrong."""
  with tempfile.TemporaryDirectory() as folder:
    photos = Path(folder) / "photos"
    for row in range(given.rows):
      below = photos / f"{row // 1000:03d}"
      if row % 1000 == 0:
        below.mkdir(parents=True)
      (below / f"{row}.jpg").write_text(str(row))
    np.save(f"{folder}/x.npy", embeddings(given.rows, given.dim))
    command = [sys.executable, __file__, "--once", folder, "--kind", given.kind]
    draw, written = random.Random(0), 0
    most = max(2, 2 * given.rows // BATCH // (kills + 1))
    for kill in range(kills):
      process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
      assert process.stdout is not None
      known = int(process.stdout.readline().removeprefix("known "))
      assert known >= written, f"{written} rows were written, and {known} are there"
      batches, until = 0, draw.randint(1, most)
      while batches < until and process.stdout.readline() == "batch\n":
        batches += 1
      time.sleep(draw.uniform(0, 0.5))
      process.kill()
      process.wait()
      # The last batch may not have been written.
      written = known + BATCH * max(0, batches - 1)
      print(f"kill {kill + 1}: {written:,} rows at least", flush=True)
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"the run to the end: {time.perf_counter() - begun:.1f} s", flush=True)
    check(folder, given.rows)


def check(folder: str, rows: int) -> None:
  """Each file has one row, with its own vector."""
  x: Any = np.load(f"{folder}/x.npy", mmap_mode="r")
  with store.opened(f"{folder}/g.db") as gallery:
    hits, vectors = store.everything(gallery)
    assert gallery.facts.complete
  numbers = [int(Path(hit.path).stem) for hit in hits]
  assert len(numbers) == len(set(numbers)) == rows, (len(numbers), len(set(numbers)))
  worst = float(np.abs(vectors - x[numbers]).max())
  assert worst < 1e-6, worst
  print(f"{rows:,} rows, none lost, none double, each with its own vector", flush=True)


def by_index(gallery: store.Gallery, x: np.ndarray, kind: str, effort: int | None) -> None:
  """Times of an index, and its recall@10."""
  said = f"effort {effort}" if effort else "default effort"
  timed(f"one query, {said}", lambda: store.search(gallery, x[:1], 10, effort=effort), 20)
  batch = x[np.linspace(0, len(x) - 1, 200).astype(int)]
  timed(f"{len(batch)} queries, {said}", lambda: store.search(gallery, batch, 10, effort=effort), 3)
  exact, _ = knn.search(batch, x, 10)
  shares = []
  found = store.search(gallery, batch, 10, effort=effort)
  for query, least, hits in zip(batch, exact[:, -1], found, strict=True):
    # The vectors' own cosines: an index of 8 bits has others.
    cosines = x[[int(Path(hit.path).stem) for hit in hits]] @ query
    shares.append(np.sum(cosines >= least - 1e-5) / 10)
  print(f"recall@10 of {kind}, {said}: {np.mean(shares):.4f}", flush=True)


def by_codes(gallery: store.Gallery, x: np.ndarray, bits: int, rerank: int) -> None:
  """Times of binary codes, and their recall@10 after full vectors of 10 x rerank images."""
  timed(f"learn {bits} bits, and write all codes", lambda: codes.make(gallery, bits))
  found = codes.read(gallery.place)
  assert found is not None
  timed("read the codes", lambda: codes.read(gallery.place), 3)
  timed("one query", lambda: codes.search(gallery, found, x[:1], 10, rerank=rerank), 5)
  share, queries = searching.recall(gallery, 10, 50, rerank=rerank)
  print(f"recall@10 of {bits} bits, {rerank} x 10 full vectors: {share:.4f} ({queries} queries)")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", type=int, default=100_000)
  parser.add_argument("--dim", type=int, default=384)
  parser.add_argument("--kind", default="HNSW", choices=store.LITE)
  parser.add_argument("--effort", type=int, nargs="*", default=[0])
  parser.add_argument("--bits", type=int)
  parser.add_argument("--rerank", type=int, default=codes.RERANK)
  parser.add_argument("--kills", type=int, default=0)
  parser.add_argument("--once", help=argparse.SUPPRESS)
  given = parser.parse_args()
  if given.once:
    index_once(given.once, given.kind)
    return
  if given.kills:
    killed(given, given.kills)
    return
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
      timed("the first query", lambda: store.search(gallery, x[:1], 10))
      if given.bits:
        by_codes(gallery, x, given.bits, given.rerank)
        return
      for effort in given.effort:
        by_index(gallery, x, given.kind, effort or None)
      timed("... with a filter", lambda: store.search(gallery, x[:1], 10, "year > 2010"), 5)
      timed("compare all rows", lambda: store.entries(gallery))
      timed("read all vectors", lambda: store.everything(gallery))


if __name__ == "__main__":
  main()
