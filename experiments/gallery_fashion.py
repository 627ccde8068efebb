"""Searches a gallery of a shop by words, by images and by both, and counts what is right.

  python experiments/gallery_fashion.py --file=/data/fashion/metadata.csv \\
      --model=runs/small_clip/run --out=runs/gallery_fashion

--model is the workdir of experiments/small_clip.py: a small CLIP, trained on four fifths of the
photographs of half of the types. All photographs are indexed with the table's columns into
OUT/fashion.db; the same command indexes what is new.

  words   100 pairs of a colour and a type, drawn from those of at least 10 photographs; the query
          is both in lower case, such as "navy blue shirts"
  image   100 photographs of these pairs; the photograph itself is no answer
  both    the same photographs, and "but in COLOUR", another colour of which there are at least 10
          photographs of that type; the photograph itself is no answer

Precision@10 of colour, of type, and of both at once, by the table's columns: the mean over the
queries, with 95 % intervals (bootstrap over queries, 10,000 draws). Beside it chance: the share of
the gallery that is right; the ceiling is 1, as each query has 10 right images (of an image query,
the pairs with 11 alone are drawn). The figures of words are given for types that the CLIP saw and
for those that it did not, and once more in the gallery without the photographs that it trained on,
over the pairs that have 10 there.

Also printed: time to index, time of a query, and the share of hits that a filter by colour and type
lets pass wrongly. OUT/gallery_fashion.json has all figures and queries.
"""

import json
import runpy
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from lafg_jax.config import shipped
from lafg_jax.data import captions
from lafg_jax.gallery import building, model, searching, sources, store
from lafg_jax.utils import random_streams
from lafg_jax.utils.files import replacing

K, QUERIES, DRAWS = 10, 100, 10_000
KINDS = ("colour", "type", "both")

_FILE = flags.DEFINE_string("file", None, "metadata.csv.", required=True)
_MODEL = flags.DEFINE_string("model", None, "The workdir of the small CLIP.", required=True)
_OUT = flags.DEFINE_string("out", "runs/gallery_fashion", "Folder to write.")
_SEED = flags.DEFINE_integer("seed", 0, "Of which pairs and photographs are queries.")


def main(unused: list[str]) -> None:
  del unused
  out = Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  place, clip = str(out / "fashion.db"), model.read(_MODEL.value)
  begun = time.perf_counter()
  facts, counts = building.build(place, clip, sources.read(_FILE.value))
  found: dict[str, Any] = {"index_seconds": time.perf_counter() - begun}
  found |= {"added": counts.added, "kept": counts.kept, "skipped": len(counts.skipped)}
  print(f"{found}; floors {facts.floors}")
  seen, trained = of_training()
  with store.opened(place) as gallery:
    hits, vectors = store.everything(gallery)
    # One order, whatever order Milvus gives.
    order = sorted(range(len(hits)), key=lambda row: hits[row].path)
    hits, vectors = [hits[row] for row in order], vectors[order]
    table = Table(hits, vectors, np.array([Path(hit.path).name in trained for hit in hits]))
    found |= {"images": len(hits), "trained_on": int(table.trained.sum()), "seen_types": seen}
    found["rows"] = measured(gallery, clip, table, seen)
    found |= timed(gallery, clip)
  for name, row in found["rows"].items():
    print(shown(name, row))
  print({name: x for name, x in found.items() if name.endswith("_ms") or name == "filter"})
  with replacing(out / "gallery_fashion.json") as temporary:
    temporary.write_text(json.dumps(found, indent=2))


class Table:
  """The gallery: what is right of each image, and which images the CLIP trained on."""

  def __init__(self, hits: list[store.Hit], vectors: np.ndarray, trained: np.ndarray):
    self.vectors, self.trained, self.paths = vectors, trained, [hit.path for hit in hits]
    self.colour = np.array([hit.metadata["colour"] for hit in hits])
    self.type = np.array([hit.metadata["type"] for hit in hits])

  def right(self, colour: str, of: str) -> np.ndarray:
    """[3, G] bool: the colour is right, the type is, both are."""
    named = self.colour == colour, self.type == of
    return np.stack([*named, named[0] & named[1]])

  def pairs(self, least: int, among: np.ndarray | None = None) -> list[tuple[str, str]]:
    """The pairs of a colour and a type with at least so many images, sorted."""
    rows = np.flatnonzero(among) if among is not None else range(len(self.paths))
    count = Counter((str(self.colour[row]), str(self.type[row])) for row in rows)
    return sorted(pair for pair, number in count.items() if number >= least and pair[0] != "NA")


def of_training() -> tuple[list[str], set[str]]:
  """The types that the CLIP saw, and the names of the photographs that it trained on."""
  path = shipped.folder() / "image_text" / "fashion.py"
  config = runpy.run_path(str(path))["get_config"]("seen")
  config.captions.file = _FILE.value
  rows = captions.load_splits(config, ("train",))["train"]
  seen = sorted({rows.class_names[label] for label in rows.labels})
  return seen, {Path(str(image)).name for image in rows.images}


def measured(gallery: Any, clip: Any, table: Table, seen: list[str]) -> dict[str, Any]:
  """{what was searched how: figures}."""
  rng = random_streams.of_seed(_SEED.value)
  pairs = chosen(rng, table.pairs(K))
  words = [f"{colour} {of}".lower() for colour, of in pairs]
  vectors = clip.retriever.embed_text(words)
  # By the gallery's own index, as a user searches.
  answers = [[hit.path for hit in hits] for hits in store.search(gallery, vectors, K)]
  row_of = {path: row for row, path in enumerate(table.paths)}
  ranked = np.array([[row_of[path] for path in paths] for paths in answers])
  right = np.stack([table.right(*pair) for pair in pairs])
  known = np.array([of in seen for _, of in pairs])
  found = {"words": figures(ranked, right, words)}
  found["words, types it saw"] = figures(ranked[known], right[known])
  found["words, types it did not see"] = figures(ranked[~known], right[~known])
  fresh = ~table.trained
  kept = [row for row, pair in enumerate(pairs) if pair in set(table.pairs(K, fresh))]
  ranked = best(vectors[kept], table.vectors, np.broadcast_to(fresh, (len(kept), len(fresh))))
  name = "words, without photographs it trained on"
  found[name] = figures(ranked, right[kept], among=fresh)
  for part, those in (("saw", known[kept]), ("did not see", ~known[kept])):
    found[f"{name}, types it {part}"] = figures(ranked[those], right[kept][those], among=fresh)
  return found | by_images(clip, table, rng)


def by_images(clip: Any, table: Table, rng: Any) -> dict[str, Any]:
  """Queries by a photograph, and by a photograph and another colour."""
  enough = table.pairs(K + 1)
  rows, targets = [], []
  for pair in [enough[x] for x in rng.integers(0, len(enough), 4 * QUERIES)]:
    others = [colour for colour, of in enough if of == pair[1] and colour != pair[0]]
    if others and len(rows) < QUERIES:
      of_pair = np.flatnonzero(table.right(*pair)[2])
      rows.append(int(of_pair[rng.integers(len(of_pair))]))
      targets.append((others[rng.integers(len(others))], pair[1]))
  not_self = np.ones((len(rows), len(table.paths)), bool)
  not_self[np.arange(len(rows)), rows] = False
  own = np.stack([table.right(str(table.colour[row]), str(table.type[row])) for row in rows])
  ranked = best(table.vectors[rows], table.vectors, not_self)
  found = {"image": figures(ranked, own & not_self[:, None])}
  wanted = np.stack([table.right(*pair) for pair in targets]) & not_self[:, None]
  found["image, for another colour (no words)"] = figures(ranked, wanted)
  queries = np.concatenate(
    [
      clip.retriever.embed_query(table.paths[row], f"but in {colour.lower()}")
      for row, (colour, _) in zip(rows, targets, strict=True)
    ]
  )
  found['image and "but in COLOUR"'] = figures(best(queries, table.vectors, not_self), wanted)
  return found


def chosen(rng: Any, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
  return [pairs[row] for row in sorted(rng.choice(len(pairs), QUERIES, replace=False))]


def best(queries: np.ndarray, vectors: np.ndarray, among: np.ndarray) -> np.ndarray:
  """The K nearest rows [Q, K] of those that a query may find, `among` [Q, G]."""
  return np.argsort(np.where(among, -(queries @ vectors.T), np.inf), axis=1)[:, :K]


def figures(
  ranked: np.ndarray, right: np.ndarray, words: Any = None, among: np.ndarray | None = None
) -> dict[str, Any]:
  """Precision@K with intervals, and chance, of rows [Q, K] where right [Q, 3, G] is right."""
  if not len(ranked):
    return {"queries": 0}
  hit = np.take_along_axis(right, ranked[:, None], 2).mean(2)
  draws = random_streams.of_seed(1).integers(0, len(hit), (DRAWS, len(hit)))
  low, high = np.quantile(hit[draws].mean(1), (0.025, 0.975), axis=0)
  candidates = right if among is None else right[:, :, among]
  found: dict[str, Any] = {"queries": len(hit)}
  for row, kind in enumerate(KINDS):
    found[kind] = [float(x[row]) for x in (hit.mean(0), low, high)]
    found[f"{kind}_chance"] = float(candidates[:, row].mean())
  if words is not None:
    found["by_query"] = dict(zip(words, hit[:, 2].tolist(), strict=True))
  return found


def timed(gallery: Any, clip: Any) -> dict[str, Any]:
  """Milliseconds of a query (the second and later ones), and wrong hits of a filter."""
  times = []
  for _ in range(11):
    begun = time.perf_counter()
    searching.query(gallery, clip, K, text="red formal shirt")
    times.append(1000 * (time.perf_counter() - begun))
  where = "colour == 'Red' and type == 'Shirts' and usage == 'Formal'"
  hits = searching.query(gallery, clip, K, text="red formal shirt", where=where).hits
  columns = [(hit.metadata["colour"], hit.metadata["type"], hit.metadata["usage"]) for hit in hits]
  wrong = sum(x != ("Red", "Shirts", "Formal") for x in columns)
  return {"query_ms": float(np.median(times[1:])), "filter": {"hits": len(hits), "wrong": wrong}}


def shown(name: str, row: dict[str, Any]) -> str:
  if not row["queries"]:
    return f"| {name} | 0 | | | |"
  cells = [
    f"{100 * row[kind][0]:.0f} [{100 * row[kind][1]:.0f}, {100 * row[kind][2]:.0f}] "
    f"({100 * row[f'{kind}_chance']:.1f})"
    for kind in KINDS
  ]
  return f"| {name} | {row['queries']} | {' | '.join(cells)} |"


if __name__ == "__main__":
  app.run(main)
