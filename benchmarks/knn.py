"""Seconds of an evaluation and of a search, beside NumPy, faiss, PyTorch and its metric learning.

  python benchmarks/knn.py [--size cub|sop] [--rounds 5]
  python benchmarks/knn.py --size million

'cub' and 'sop' evaluate R@1 to 1000, MAP@R and R-precision of one set against itself, in the size
of the test halves of CUB-200 and of Stanford Online Products. NumPy's is the matrix product alone,
block by block, which is what any exact search has to do; faiss has no MAP@R, and its 1,001 nearest
neighbours are all it is asked for; pytorch-metric-learning has no R@1000. 'million' searches the 10
nearest rows of 10,000 queries in galleries of 125,000 to 1,000,000 rows of 256.

OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are unset, so that NumPy's OpenBLAS takes the kernel that it
thinks best; the kernel is printed.
"""

import argparse
import threading
import time
from typing import Any

import faiss
import jax
import numpy as np
import psutil
import side_by_side
import torch

from lafg_jax.evaluate import knn, metrics

SIZES = {"cub": (5924, 100), "sop": (60502, 11316)}
KS = (1, 10, 100, 1000)


def clusters(n: int, classes: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
  """Unit vectors [n, dim] around the centre of their class, and labels."""
  rng = np.random.default_rng(0)
  labels = np.arange(n) % classes
  x = rng.standard_normal((classes, dim), np.float32)[labels]
  x += 2 * rng.standard_normal((n, dim), np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def with_peak(job) -> float:
  """MiB that the process holds beyond what it held before, at most, while the job runs."""
  process, most, done = psutil.Process(), [0], threading.Event()
  before = process.memory_info().rss

  def watch() -> None:
    while not done.wait(0.01):
      most[0] = max(most[0], process.memory_info().rss)

  thread = threading.Thread(target=watch)
  thread.start()
  job()
  done.set()
  thread.join()
  return max(most[0] - before, 0) / 2**20


def evaluation(size: str, rounds: int) -> dict[str, Any]:
  x, labels = clusters(*SIZES[size], 384)
  tensor = torch.from_numpy(x)

  def product() -> None:
    for first in range(0, len(x), 2048):
      x[first : first + 2048] @ x.T

  def neighbours() -> None:
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    index.search(x, KS[-1] + 1)

  def top_k() -> None:
    for first in range(0, len(x), 2048):
      (tensor[first : first + 2048] @ tensor.T).topk(KS[-1] + 1)

  def metric_learning() -> None:
    from pytorch_metric_learning.utils import accuracy_calculator

    include = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    calculator = accuracy_calculator.AccuracyCalculator(include=include, device=torch.device("cpu"))
    calculator.get_accuracy(tensor, torch.from_numpy(labels))

  jobs = {
    "NumPy, the product alone": product,
    "lafg_jax": lambda: metrics.evaluate_embeddings(x, labels, KS),
    "faiss IndexFlatIP, k = 1001": neighbours,
    "torch, product and topk": top_k,
    "pytorch-metric-learning": metric_learning,
  }
  start = time.perf_counter()
  jobs["lafg_jax"]()
  first = time.perf_counter() - start
  print(f"first call of lafg_jax, compiling included: {first:.2f} s")
  seconds = side_by_side.turns(jobs, rounds)
  print("\n".join(side_by_side.table(seconds, 0, "s", "NumPy, the product alone")))
  peaks = {name: with_peak(job) for name, job in jobs.items()}
  for name, peak in peaks.items():
    print(f"{name}: {peak:.0f} MiB beside the embeddings")
  return {"rows": len(x), "first_call": first, "seconds": seconds, "MiB": peaks}


def million(rounds: int) -> dict[str, Any]:
  queries = clusters(10_000, 100, 256)[0]
  found, peaks = {}, {}
  for count in (125_000, 250_000, 500_000, 1_000_000):
    gallery = clusters(count, 10_000, 256)[0]

    def search(gallery: np.ndarray = gallery) -> None:
      knn.search(queries, gallery, 10)

    peaks[count] = with_peak(search)
    found[count] = side_by_side.seconds_of(search, rounds)
    fastest = min(found[count])
    tera = 2e-12 * len(queries) * gallery.size / fastest
    print(
      f"| {count:,} | {fastest:.2f} s | {tera:.2f} TFLOP/s | {peaks[count]:.0f} MiB |", flush=True
    )
  return {"seconds": found, "MiB": peaks}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", default="cub", choices=(*SIZES, "million"))
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  side_by_side.restart_without("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
  packages = ("jax", "numpy", "faiss-cpu", "torch", "pytorch-metric-learning")
  machine = f"{side_by_side.machine(*packages)}, {jax.default_backend()}"
  print(f"{machine}\nNumPy's BLAS: {side_by_side.blas_kernel()}")
  if args.size == "million":
    found = million(args.rounds)
  else:
    found = evaluation(args.size, args.rounds)
  side_by_side.keep(f"knn-{args.size}", machine, found)


if __name__ == "__main__":
  main()
