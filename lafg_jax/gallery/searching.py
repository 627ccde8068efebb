"""Queries to a gallery: by an image, a text or both, by its index or exactly, with a filter."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.evaluate import expansion, knn
from lafg_jax.gallery import codes, statistics, store
from lafg_jax.gallery.model import Model
from lafg_jax.gallery.store import Gallery, Hit
from lafg_jax.utils import packages, random_streams
from lafg_jax.utils.errors import UserError


class Answer(NamedTuple):
  """What a query found.

  floor: the score below which nothing is similar, or None where it is not known. of: what the query
  was, 'image', 'text' or 'image and text'.
  """

  hits: list[Hit]
  floor: float | None
  of: str

  def similar(self) -> int:
    """How many hits are at or above the floor; all where there is none."""
    return len(self.hits) if self.floor is None else sum(x.score >= self.floor for x in self.hits)


def query(
  gallery: Gallery,
  model: Model,
  k: int,
  *,
  image: Any = None,
  text: str | None = None,
  edited: str | None = None,
  where: str = "",
  exact: bool = False,
  effort: int | None = None,
  expand: int = 0,
  alpha: float = expansion.ALPHA,
  rerank: int = 0,
) -> Answer:
  """The k nearest images of one query.

  Args:
    image, text, edited: as `Retriever.search` takes them: an image, a text, or an image that the
      text changes.
    where: a filter of Milvus over the columns, such as "class == 'x' and year > 2000"; '' is none.
    exact: look at all vectors: by an index FLAT, or else in memory.
    effort: as `store.search`.
    expand: ask again with the query drawn to this many of its hits (`evaluate.expansion`); 0 does
      not. The floor is that of queries as they are: the answer has none.
    alpha: of `expand`.
    rerank: look at the binary codes, and at so many full vectors for each of k (`codes`); 0 looks
      at the index.

  Raises UserError as `Retriever.embed`, `embed_text` and `embed_query` do, and for a filter that
  cannot be read or names no column.
  """
  if k < 1:
    raise UserError(f"k is {k}; it takes a whole number of 1 or more")
  store.check(gallery, where)
  vector, of = embedded(model, image, text, edited)
  floor = statistics.floor_of(gallery.facts.floors, of, vector)
  find = _finder(gallery, max(k, expand), where, exact, effort, rerank)
  if expand:
    expansion.check(expand, alpha)
    vector, floor = drawn(gallery, vector, find(vector, expand), alpha), None
  return Answer(find(vector, k), floor, of)


def _finder(
  gallery: Gallery, k: int, where: str, exact: bool, effort: int | None, rerank: int
) -> Callable[[np.ndarray, int], list[Hit]]:
  """What finds the k nearest images of a vector [1, D]."""
  if exact and rerank:
    raise UserError("--exact looks at every vector, and --rerank at few: pass one of them")
  if rerank < 0:
    raise UserError(f"--rerank={rerank}: it takes 1 or more candidates for each image")
  # Of FLAT, the index looks at every vector itself, and nothing has to be read.
  if exact and not (gallery.facts.index_type == "FLAT" and k <= store.MOST):
    return lambda vector, k: exactly(gallery, vector, k, where)
  if rerank:
    known = needed_codes(gallery)
    return lambda vector, k: codes.search(gallery, known, vector, k, where, rerank)[0]
  return lambda vector, k: store.search(gallery, vector, k, where, effort)[0]


def needed_codes(gallery: Gallery) -> codes.Codes:
  """The binary codes of a gallery. Raises UserError where it has none."""
  packages.require("faiss", "faiss")
  found = codes.read(gallery.place)
  if found is None:
    raise UserError(f"--gallery={gallery.place} has no codes: make them with index --bits=128")
  return found


def drawn(gallery: Gallery, vector: np.ndarray, hits: list[Hit], alpha: float) -> np.ndarray:
  """A query [1, D] that is drawn to what it found, by the vectors' own cosines."""
  vectors = store.vectors_of(gallery, [store.key_of(hit.path) for hit in hits])
  return expansion.mixed(vector, vector @ vectors.T, vectors[None], alpha)


def embedded(
  model: Model, image: Any, text: str | None, edited: str | None = None
) -> tuple[np.ndarray, str]:
  """The query's vector [1, D], and what it is made of."""
  found = model.retriever
  if image is not None and text is not None:
    return found.embed_query(image, text, edited=edited), "image and text"
  if edited is not None:
    raise UserError("--edited is for an image with a text: pass --image and --text too")
  if text is not None:
    return found.embed_text(text), "text"
  if image is None:
    raise UserError("no query: pass --image=FILE, --text=WORDS, or both")
  return found.embed(image), "image"


def exactly(gallery: Gallery, vector: np.ndarray, k: int, where: str = "") -> list[Hit]:
  """The k nearest of all images that the filter lets pass, by the product with each."""
  hits, vectors = store.everything(gallery, where)
  if not hits:
    return []
  scores, rows = knn.search(vector, vectors, min(k, len(hits)))
  return [
    hits[row]._replace(score=float(score)) for score, row in zip(scores[0], rows[0], strict=True)
  ]


def recall(
  gallery: Gallery,
  k: int,
  queries: int = 200,
  effort: int | None = None,
  seed: int = 0,
  rerank: int = 0,
) -> tuple[float, int]:
  """The share of the k nearest that the index finds, over images of the gallery as queries.

  With `rerank`, what the binary codes find with so many full vectors for each of k.

  A hit that is as near as the k-th nearest counts, so that copies make no difference. Returns the
  share and the number of queries.
  """
  hits, vectors = store.everything(gallery)
  if not hits:
    raise UserError(f"{gallery.place} is empty: there is nothing to search")
  chosen = random_streams.of_seed(seed).choice(len(hits), min(queries, len(hits)), replace=False)
  k = min(k, len(hits))
  exact, _ = knn.search(vectors[chosen], vectors, k)
  if rerank:
    found = codes.search(gallery, needed_codes(gallery), vectors[chosen], k, rerank=rerank)
  else:
    found = store.search(gallery, vectors[chosen], k, effort=effort)
  row_of = {hit.path: row for row, hit in enumerate(hits)}
  shares = []
  for row, least, answers in zip(chosen, exact[:, -1], found, strict=True):
    # The vectors' own cosines: an index of 8 bits has others.
    cosines = vectors[[row_of[hit.path] for hit in answers]] @ vectors[row]
    shares.append(np.sum(cosines >= least - 1e-5) / k)
  return float(np.mean(shares)), len(chosen)
