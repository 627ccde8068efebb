"""Whether query expansion helps on classes that it was not chosen on.

  python experiments/query_expansion.py --embeddings=runs/demo/embeddings.npz

The embeddings of an evaluation are split by class, every other class into one half. n and alpha are
chosen on one half by MAP@R, and measured on the other; each half ranks its own images alone. Both
ways are printed, with the paper's alpha = 3 at each n over all classes, for which nothing is
chosen. Intervals (95 %): bootstrap over classes of the difference of MAP@R, 10,000 draws.
"""

import numpy as np
from absl import app, flags

from lafg_jax.evaluate import expansion, metrics
from lafg_jax.utils import files, random_streams

NEIGHBOURS, ALPHAS = (1, 2, 3, 5, 10, 20), (0.0, 1.0, 3.0, 9.0)

_EMBEDDINGS = flags.DEFINE_string("embeddings", None, "An embeddings.npz.", required=True)


def main(unused: list[str]) -> None:
  del unused
  arrays = files.read_npz(_EMBEDDINGS.value, ("vectors", "labels"), stage=None)
  vectors, labels = arrays["vectors"].astype(np.float32), arrays["labels"]
  print(f"{len(vectors)} images of {len(np.unique(labels))} classes")
  for name, chosen in (("even", labels % 2 == 0), ("odd", labels % 2 == 1)):
    grid = {
      (n, alpha): by_query(vectors[chosen], labels[chosen], n, alpha)["map@r"].mean()
      for n in NEIGHBOURS
      for alpha in ALPHAS
    }
    best = max(grid, key=lambda pair: grid[pair])
    print(f"chosen on the {name} classes: n={best[0]}, alpha={best[1]:g}; on the others:")
    said(vectors[~chosen], labels[~chosen], *best)
  for n in NEIGHBOURS:
    print(f"all classes, n={n}, alpha=3, nothing chosen:")
    said(vectors, labels, n, 3.0)


def by_query(
  vectors: np.ndarray, labels: np.ndarray, n: int, alpha: float
) -> dict[str, np.ndarray]:
  """The metrics of each query; n = 0 expands nothing."""
  queries = expansion.expanded(vectors, vectors, n, alpha, exclude_self=True) if n else vectors
  return metrics.per_query(queries, labels, vectors, labels, ks=(1,), exclude_self=True)[0]


def said(vectors: np.ndarray, labels: np.ndarray, n: int, alpha: float) -> None:
  plain, drawn = (by_query(vectors, labels, x, alpha) for x in (0, n))
  for name in ("recall@1", "map@r"):
    difference = drawn[name].astype(float) - plain[name]
    classes, numbers = np.unique(labels, return_inverse=True)
    of_class = np.bincount(numbers, difference) / np.bincount(numbers)
    draws = random_streams.of_seed(0).integers(0, len(classes), (10_000, len(classes)))
    low, high = 100 * np.quantile(of_class[draws].mean(1), (0.025, 0.975))
    figures = 100 * plain[name].mean(), 100 * drawn[name].mean()
    print(f"  {name:<9} {figures[0]:.1f} -> {figures[1]:.1f}  ({low:+.1f} to {high:+.1f})")


if __name__ == "__main__":
  app.run(main)
