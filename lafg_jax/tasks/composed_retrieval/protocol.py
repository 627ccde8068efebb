"""The benchmarks' own figures of rankings: recall@K, CIRR's subset, CIRCO's mAP@K, chance levels.

- `fashioniq`: recall@K of the target; the mean over the categories by `merged`.
- `cirr`: recall@K of the target, subset_recall@K among the members of its subset, and 'mean', of
  recall@5 and subset_recall@1.
- `circo`: map@K over all right answers, recall@K of the main target alone.
- `targets` (finches, tables, own files): map@K over all right answers, and recall@K, the share of
  queries with any of them among the first K.

  AP@K = 1 / min(K, T) * sum over k = 1 ... K of rel_k * (right answers among the first k) / k

of T right answers, whose mean over queries is map@K. All figures are in [0, 1].

Ties are the ranking's business. What a ranking must not have is refused here: a query without
results or with too few, an image twice, one outside of the gallery, a reference that was to be left
out. These are errors of the code that ranked, and ValueErrors.
"""

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import numpy as np

from lafg_jax.data.composed import Composed

DEPTH = 50  # ranks that all figures and submissions need
SUBSET_DEPTH = 3
RECALL_KS = {
  "fashioniq": (1, 5, 10, 50),
  "cirr": (1, 5, 10, 50),
  "circo": (5, 10, 25, 50),
  "targets": (1, 5, 10, 50),
}
MAP_KS = {"circo": (5, 10, 25, 50), "targets": (5, 10, 25, 50)}
SUBSET_KS = (1, 2, 3)
MEAN = "mean"  # CIRR: of recall@5 and subset_recall@1


def depth(part: Composed) -> int:
  """How many ranks a ranking must have: 50, or as many images as the gallery has."""
  return min(DEPTH, len(part.gallery))


def members(part: Composed) -> np.ndarray | None:
  """[Q, M] int32 rows of `part.ids`: the candidates of each query's subset; None without subsets.

  The reference is not among them where it is left out. A query with fewer has -1 at the end.
  """
  if not any(query.members for query in part.queries):
    return None
  row = _rows(part)
  lists = [
    [row[x] for x in query.members if not (part.drop_reference and x == query.reference)]
    for query in part.queries
  ]
  found = np.full((len(lists), max(map(len, lists))), -1, np.int32)
  for k, several in enumerate(lists):
    found[k, : len(several)] = several
  return found


def figures(
  part: Composed, ranked: np.ndarray, subset_ranked: np.ndarray | None = None
) -> dict[str, Any]:
  """All figures of a part; {} where its right answers are secret.

  Args:
    ranked: [Q, K] int32 rows of `part.ids`, best first, -1 behind the last where a gallery has
      fewer; the reference is left out where `part.drop_reference` says so. K >= `depth(part)`.
    subset_ranked: [Q, M] int32, the same among `members(part)`, M >= 3.

  Returns:
    The figures by name; 'chance', what a random ranking has on average; 'by_kind' {kind: the
    figures of its queries, with 'chance' and 'num_queries'}; 'num_queries', 'num_gallery',
    'answers' (mean, median and most right answers of a query), 'gallery', 'reference', 'split', and
    'partial' where images are missing.

  Raises:
    ValueError: a ranking is not as it must be.
  """
  if part.secret:
    check(part, ranked, subset_ranked)
    return {}
  measured = per_query(part, ranked, subset_ranked)
  chance = _chance(part)
  found: dict[str, Any] = _means(measured) | {"chance": _means(chance)}
  kinds = dict.fromkeys(kind for query in part.queries for kind in query.kinds)
  if kinds:
    found["by_kind"] = {}
  for kind in kinds:
    asks = np.array([kind in query.kinds for query in part.queries])
    one = _means({name: x[asks] for name, x in measured.items()})
    beside = _means({name: x[asks] for name, x in chance.items()})
    found["by_kind"][kind] = one | {"chance": beside, "num_queries": int(asks.sum())}
  answers = [len(query.targets) for query in part.queries]
  found |= {
    "num_queries": len(part.queries),
    "num_gallery": len(part.gallery),
    "answers": {
      "mean": float(np.mean(answers)),
      "median": float(np.median(answers)),
      "most": max(answers),
    },
    "gallery": part.about,
    "reference": "left out" if part.drop_reference else "kept",
    "split": part.split,
  }
  return found | ({"partial": True} if part.partial else {})


def merged(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
  """The result of all parts, by the name of each: the means of their figures (FashionIQ).

  One part is its own result. Of several, 'parts' holds each, and numbers of queries are sums. Parts
  whose answers are secret have no figures; {} where all are.
  """
  known = {name: result for name, result in results.items() if result}
  if len(known) <= 1:
    return dict(*known.values())
  parts = list(known.values())
  names = [name for name, x in parts[0].items() if isinstance(x, float)]
  found: dict[str, Any] = {name: float(np.mean([x[name] for x in parts])) for name in names}
  found["chance"] = {name: float(np.mean([x["chance"][name] for x in parts])) for name in names}
  found["num_queries"] = sum(x["num_queries"] for x in parts)
  found |= {name: parts[0][name] for name in ("reference", "split")}
  if any("partial" in x for x in parts):
    found["partial"] = True
  return found | {"parts": known}


def per_query(
  part: Composed, ranked: np.ndarray, subset_ranked: np.ndarray | None = None
) -> dict[str, np.ndarray]:
  """{name of a figure: [Q] float64 of each query}, whose means `figures` has; see there."""
  check(part, ranked, subset_ranked)
  ranked = np.asarray(ranked)
  row = _rows(part)
  main = np.array([row[query.targets[0]] for query in part.queries])
  right = [[row[x] for x in query.targets] for query in part.queries]
  hits = np.stack([np.isin(one, of) for one, of in zip(ranked, right, strict=True)])
  any_counts = part.protocol == "targets"
  at = hits if any_counts else ranked == main[:, None]
  found = {f"recall@{k}": _among(at, k) for k in RECALL_KS[part.protocol]}
  if part.protocol in MAP_KS:
    number = np.array([len(of) for of in right])
    found = {f"map@{k}": average_precision(hits, number, k) for k in MAP_KS[part.protocol]} | found
  if subset_ranked is not None:
    in_subset = np.asarray(subset_ranked) == main[:, None]
    found |= {f"subset_recall@{k}": _among(in_subset, k) for k in SUBSET_KS}
    found[MEAN] = (found["recall@5"] + found["subset_recall@1"]) / 2
  return found


def average_precision(hits: np.ndarray, number: np.ndarray, k: int) -> np.ndarray:
  """AP@K [Q] float64 (see above) of hits [Q, R] bool at the ranks, and numbers [Q] of answers."""
  hits = hits[:, :k]
  precision = np.cumsum(hits, 1) / np.arange(1, hits.shape[1] + 1)
  return np.asarray((precision * hits).sum(1) / np.minimum(k, number), np.float64)


def _among(at: np.ndarray, k: int) -> np.ndarray:
  return np.asarray(at[:, :k].any(1), np.float64)


def _means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
  return {name: float(x.mean()) for name, x in values.items()}


def _rows(part: Composed) -> dict[str, int]:
  return {name: k for k, name in enumerate(part.ids)}


def _chance(part: Composed) -> dict[str, np.ndarray]:
  """{name of a figure: [Q]}: its expectation where all orders of the candidates are as likely."""
  row, there = _rows(part), _in_gallery(part)
  # Queries with as many candidates and answers have one chance.
  sizes = [
    (len(part.gallery) - bool(part.drop_reference and there[row[query.reference]]), query)
    for query in part.queries
  ]
  any_counts = part.protocol == "targets"
  found = {}
  for k in MAP_KS.get(part.protocol, ()):
    found[f"map@{k}"] = np.array([_chance_of_map(n, len(q.targets), k) for n, q in sizes])
  for k in RECALL_KS[part.protocol]:
    found[f"recall@{k}"] = np.array(
      [_chance_of_hit(n, len(q.targets) if any_counts else 1, k) for n, q in sizes]
    )
  candidates = members(part)
  if candidates is not None:
    number = (candidates >= 0).sum(1)
    found |= {f"subset_recall@{k}": np.minimum(1, k / number) for k in SUBSET_KS}
    found[MEAN] = (found["recall@5"] + found["subset_recall@1"]) / 2
  return found


def _chance_of_hit(n: int, answers: int, k: int) -> float:
  """That one of the first k of n images in random order is right: 1 - C(n - T, k) / C(n, k)."""
  k = min(k, n)
  return 1 - comb(n - answers, k) / comb(n, k)


def _chance_of_map(n: int, answers: int, k: int) -> float:
  """The expected AP@K of n images in random order.

  Rank r is right with T / n, and each of the r - 1 before it then with (T - 1) / (n - 1).
  """
  ranks = np.arange(1, min(k, n) + 1)
  others = (ranks - 1) * (answers - 1) / max(1, n - 1)
  return float((answers / n * (1 + others) / ranks).sum() / min(k, answers))


def check(part: Composed, ranked: np.ndarray, subset_ranked: np.ndarray | None = None) -> None:
  """Raises ValueError where rankings are not what `figures` takes."""
  row = _rows(part)
  references = np.array([row[query.reference] for query in part.queries])
  there = _in_gallery(part)
  candidates = len(part.gallery) - (there[references] & part.drop_reference)
  allowed = np.broadcast_to(there, (len(references), len(there)))
  dropped = references if part.drop_reference else np.full(len(references), -1)
  _check(part, "ranking", ranked, allowed, dropped, np.minimum(depth(part), candidates))
  subset = members(part)
  if (subset is None) != (subset_ranked is None):
    what = "has subsets and no ranking of them" if subset is not None else "has no subsets"
    raise ValueError(f"{part.name}: {what}")
  if subset is not None and subset_ranked is not None:
    inside = np.zeros((len(references), len(part.ids)), bool)
    queries, places = np.nonzero(subset >= 0)
    inside[queries, subset[queries, places]] = True
    number = np.minimum(SUBSET_DEPTH, (subset >= 0).sum(1))
    _check(part, "ranking of the subset", subset_ranked, inside, dropped, number)


def _in_gallery(part: Composed) -> np.ndarray:
  there = np.zeros(len(part.ids), bool)
  there[part.gallery] = True
  return there


def _check(
  part: Composed,
  what: str,
  ranked: np.ndarray,
  allowed: np.ndarray,
  dropped: np.ndarray,
  number: np.ndarray,
) -> None:
  """allowed: [Q, n] bool. dropped: [Q] rows or -1. number: [Q], results that a query must have."""
  ranked = np.asarray(ranked)
  shape = f"{what} of shape {ranked.shape}"
  if ranked.ndim != 2 or len(ranked) != len(number) or ranked.dtype.kind not in "iu":
    raise ValueError(f"{part.name}: {shape} and type {ranked.dtype}, not [{len(number)}, K] int")
  if ranked.size and not -1 <= ranked.min() <= ranked.max() < len(part.ids):
    raise ValueError(f"{part.name}: a {what} has rows that are no images")
  filled = ranked >= 0
  in_order = np.sort(ranked, 1)
  twice = ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any(1)
  outside = (filled & ~np.take_along_axis(allowed, np.maximum(ranked, 0), 1)).any(1)
  faults: Sequence[tuple[str, Any]] = (
    ("has -1 before an image", (filled[:, 1:] & ~filled[:, :-1]).any(1)),
    ("has an image twice", twice),
    ("has its reference, which is left out", (filled & (ranked == dropped[:, None])).any(1)),
    ("has an image that is no candidate", outside),
    ("has too few images", filled.sum(1) < number),
  )
  for fault, where in faults:
    if where.any():
      k = int(np.argmax(where))
      raise ValueError(
        f"{part.name}: the {what} of query {part.queries[k].id} {fault} ({int(where.sum()):,} of "
        f"{len(where):,} queries)"
      )
