"""A gallery in Milvus: an embedded file FILE.db by Milvus Lite, or a server by its URL.

Two collections: IMAGES, a row an image, and ABOUT, one row with what the gallery is. The key of an
image is a hash of its path, so that whatever is written twice is there once. Each batch is written
at once or not at all. Milvus Lite keeps FILE.db as a folder, which one process opens at a time.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.gallery import columns, milvus
from lafg_jax.gallery.columns import DESCRIBED, KEY, VECTOR
from lafg_jax.utils.errors import UserError

IMAGES, ABOUT = "lafg_images", "lafg_about"
FORMAT = 1
# Of Milvus Lite 3.2 (`milvus_lite/index/factory.py`), where AUTOINDEX is HNSW; a server has more.
LITE = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8", "AUTOINDEX")
# Whose searches look at more where `effort` is higher, and how the parameter is called.
_EFFORT = {"HNSW": "ef", "HNSW_SQ": "ef", "AUTOINDEX": "ef", "IVF_FLAT": "nprobe"}
_EFFORT |= {"IVF_SQ8": "nprobe"}
# Milvus' own limit of hits, and of rows of a read.
MOST = 16_384
# Numbers of vectors in one read: an answer of gRPC has 64 MiB at most.
_PAGE = 1 << 21
_TEXT = 65_535


class Facts(NamedTuple):
  """What a gallery is; JSON of it stands in ABOUT.

  model: the id, `bundle.identity`. task, dim, step: the model's. source, checkpoint: where it is
  read from, as `load_retriever` takes them. index_type: of the vectors.
  columns: {root: the user's own columns of it}. complete: whether indexing came to its end.
  floors: see `lafg_jax.gallery.statistics`. skipped: {'count', 'first': [[path, why]]} of the last
  run.
  """

  model: str
  task: str
  dim: int
  step: int
  source: str
  checkpoint: str
  index_type: str
  columns: dict[str, list[str]] = {}
  complete: bool = False
  floors: dict[str, Any] = {}
  skipped: dict[str, Any] = {}
  format: int = FORMAT

  def own_columns(self) -> list[str]:
    """The user's columns of all roots."""
    return sorted({name for names in self.columns.values() for name in names})


class Entry(NamedTuple):
  """What is known of an image without its vector."""

  path: str
  root: str
  size: int
  mtime: int  # in nanoseconds
  hash: str  # SHA-256 of its content
  described: str  # of its class and metadata


class Hit(NamedTuple):
  """One answer of a search."""

  path: str
  score: float  # the cosine
  label: str
  metadata: dict[str, Any]


class Gallery(NamedTuple):
  client: Any  # a MilvusClient
  place: str
  facts: Facts


def key_of(path: str) -> str:
  """The primary key of an image."""
  return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:40]


@contextlib.contextmanager
def opened(place: str) -> Iterator[Gallery]:
  """A gallery that is there. Raises UserError where it is not, or is of another format."""
  if not milvus.exists(place):
    raise UserError(f"--gallery={place} does not exist: make it with search index")
  with milvus.connected(place) as client:
    facts = read_facts(client, place)
    if facts is None:
      raise UserError(f"--gallery={place} holds no gallery: make it with search index")
    if not client.has_collection(IMAGES):
      # A kill between the two.
      create(client, place, facts)
    load(client, place)
    yield Gallery(client, place, facts)


def read_facts(client: Any, place: str) -> Facts | None:
  """What the gallery is; None where none was begun."""
  with milvus.as_user_error(place):
    if not client.has_collection(ABOUT):
      return None
    client.load_collection(ABOUT)
    rows = client.get(ABOUT, ids=["facts"], output_fields=["value"])
  if not rows:
    return None
  found = json.loads(rows[0]["value"])
  if found.get("format") != FORMAT or set(found) != set(Facts._fields):
    raise UserError(
      f"{place} has format {found.get('format')}, or is of another version of lafg_jax; this "
      f"one reads {FORMAT}: index into another --gallery"
    )
  return Facts(**found)


def write_facts(client: Any, place: str, facts: Facts) -> None:
  """Writes what the gallery is, at once."""
  from pymilvus import DataType

  with milvus.as_user_error(place):
    if not client.has_collection(ABOUT):
      schema = client.create_schema(auto_id=False)
      schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
      schema.add_field("value", DataType.VARCHAR, max_length=_TEXT)
      # A collection of Milvus has a vector.
      schema.add_field("unused", DataType.FLOAT_VECTOR, dim=2)
      index = client.prepare_index_params()
      index.add_index(field_name="unused", index_type="FLAT", metric_type="L2")
      client.create_collection(ABOUT, schema=schema, index_params=index, consistency_level="Strong")
    row = {"key": "facts", "value": json.dumps(facts._asdict()), "unused": [0.0, 0.0]}
    client.upsert(ABOUT, [row])


def create(client: Any, place: str, facts: Facts) -> None:
  """Makes an empty gallery. Facts are written first: a kill in between is mended by `opened`."""
  from pymilvus import DataType

  write_facts(client, place, facts)
  schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
  schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=64)
  for name in ("path", "class", "file_root"):
    schema.add_field(name, DataType.VARCHAR, max_length=_TEXT)
  for name in ("file_size", "file_mtime"):
    schema.add_field(name, DataType.INT64)
  for name in ("file_hash", DESCRIBED):
    schema.add_field(name, DataType.VARCHAR, max_length=64)
  schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=facts.dim)
  with milvus.as_user_error(place):
    client.create_collection(
      IMAGES, schema=schema, index_params=_index(client, facts), consistency_level="Strong"
    )


def _index(client: Any, facts: Facts) -> Any:
  params = client.prepare_index_params()
  params.add_index(field_name=VECTOR, index_type=facts.index_type, metric_type="COSINE")
  return params


def load(client: Any, place: str) -> None:
  """Makes the images searchable; makes their index where a kill left it out."""
  with milvus.as_user_error(place):
    if not client.list_indexes(IMAGES):
      facts = read_facts(client, place)
      assert facts is not None
      client.create_index(IMAGES, _index(client, facts))
    client.load_collection(IMAGES)


def reindex(gallery: Gallery, kind: str) -> Gallery:
  """Gives the vectors an index of another type."""
  client, facts = gallery.client, gallery.facts._replace(index_type=kind)
  with milvus.as_user_error(f"--index_type={kind}"):
    client.release_collection(IMAGES)
    for name in client.list_indexes(IMAGES):
      client.drop_index(IMAGES, name)
    client.create_index(IMAGES, _index(client, facts))
    client.load_collection(IMAGES)
  write_facts(client, gallery.place, facts)
  return gallery._replace(facts=facts)


def entries(gallery: Gallery) -> dict[str, Entry]:
  """{key: what is known} of every image, without vectors."""
  fields = ["path", "file_root", "file_size", "file_mtime", "file_hash", DESCRIBED]
  found: dict[str, Entry] = {}
  for rows in _pages(gallery, "", [KEY, *fields], MOST):
    found |= {row[KEY]: Entry(*(row[name] for name in fields)) for row in rows}
  return found


def everything(gallery: Gallery, where: str = "") -> tuple[list[Hit], np.ndarray]:
  """All images that a filter lets pass, with score 0, and their vectors [n, D] float32."""
  hits: list[Hit] = []
  vectors = [np.zeros((0, gallery.facts.dim), np.float32)]
  size = max(1, min(MOST, _PAGE // gallery.facts.dim))
  for rows in _pages(gallery, where, ["*"], size):
    hits += [_hit(row, 0.0) for row in rows]
    vectors.append(np.array([row[VECTOR] for row in rows], np.float32))
  return hits, np.concatenate(vectors)


def _pages(gallery: Gallery, where: str, fields: list[str], size: int) -> Iterator[list[Any]]:
  with milvus.as_user_error(f"--where={where}" if where else gallery.place):
    found = gallery.client.query_iterator(
      IMAGES, batch_size=size, filter=where, output_fields=fields
    )
    while rows := found.next():
      yield rows
    found.close()


def vectors_of(gallery: Gallery, keys: Sequence[str]) -> np.ndarray:
  """The vectors [n, D] of images that are there, in the order of their keys."""
  found: dict[str, Any] = {}
  with milvus.as_user_error(gallery.place):
    for at in range(0, len(keys), 512):
      part = list(keys[at : at + 512])
      for row in gallery.client.get(IMAGES, ids=part, output_fields=[KEY, VECTOR]):
        found[row[KEY]] = row[VECTOR]
  return np.array([found[key] for key in keys], np.float32).reshape(len(keys), gallery.facts.dim)


def of_keys(gallery: Gallery, keys: Sequence[str]) -> tuple[list[Hit], np.ndarray]:
  """Those of some images that are there, with score 0, and their vectors [n, D] float32."""
  rows: list[Any] = []
  with milvus.as_user_error(gallery.place):
    for at in range(0, len(keys), 512):
      rows += gallery.client.get(IMAGES, ids=list(keys[at : at + 512]), output_fields=["*"])
  vectors = np.array([row[VECTOR] for row in rows], np.float32)
  return [_hit(row, 0.0) for row in rows], vectors.reshape(len(rows), gallery.facts.dim)


def put(
  gallery: Gallery,
  images: Sequence[tuple[Entry, str, dict[str, Any]]],
  vectors: np.ndarray,
) -> None:
  """Writes images, each with its class and metadata, and their vectors [n, D], all at once.

  A row that is there already is replaced. Milvus Lite keeps what a new row does not name, and a
  server does not: so each row names all columns.
  """
  blank = dict.fromkeys(gallery.facts.own_columns())
  rows = [
    blank | metadata | _row(entry, label) | {VECTOR: np.asarray(vector, np.float32)}
    for (entry, label, metadata), vector in zip(images, vectors, strict=True)
  ]
  if rows:
    with milvus.as_user_error(gallery.place):
      gallery.client.upsert(IMAGES, rows)


def _row(entry: Entry, label: str) -> dict[str, Any]:
  return {
    KEY: key_of(entry.path),
    "path": entry.path,
    "class": label,
    "file_root": entry.root,
    "file_size": entry.size,
    "file_mtime": entry.mtime,
    "file_hash": entry.hash,
    DESCRIBED: entry.described,
  }


def drop(gallery: Gallery, keys: Sequence[str]) -> None:
  """Removes images; keys that are not there are no error."""
  with milvus.as_user_error(gallery.place):
    for at in range(0, len(keys), MOST):
      gallery.client.delete(IMAGES, ids=list(keys[at : at + MOST]))


def check(gallery: Gallery, where: str) -> None:
  """Raises UserError where a filter cannot be read, or names a column that the gallery lacks."""
  if where:
    columns.check(where, gallery.facts.own_columns())
    with milvus.as_user_error(f"--where={where}"):
      gallery.client.query(IMAGES, filter=where, limit=1, output_fields=[KEY])


def matching(gallery: Gallery, where: str) -> list[str]:
  """The keys of the images that a filter lets pass; UserError as `check`."""
  check(gallery, where)
  return [row[KEY] for rows in _pages(gallery, where, [KEY], MOST) for row in rows]


def count(gallery: Gallery) -> int:
  """How many images there are."""
  with milvus.as_user_error(gallery.place):
    found = gallery.client.query(IMAGES, filter="", output_fields=["count(*)"])
  return int(found[0]["count(*)"])


def search(
  gallery: Gallery, vectors: np.ndarray, k: int, where: str = "", effort: int | None = None
) -> list[list[Hit]]:
  """The k nearest images of each vector [Q, D] by the index, best first.

  effort: how many candidates the index looks at, of HNSW `ef`, of IVF `nprobe`; None is Milvus'
  default. Raises UserError for a filter that cannot be read, or where k is above MOST.
  """
  if k > MOST:
    raise UserError(f"k is {k:,}; Milvus gives {MOST:,} at most")
  name = _EFFORT.get(gallery.facts.index_type)
  params = {name: effort} if effort and name else {}
  if name == "ef":
    # A search for more than it looks at is an error of a server.
    params["ef"] = max(effort or 64, k)
  answers = []
  with milvus.as_user_error(f"--where={where}" if where else gallery.place):
    for at in range(0, len(vectors), 256):
      answers += gallery.client.search(
        IMAGES,
        data=[np.asarray(x, np.float32) for x in vectors[at : at + 256]],
        anns_field=VECTOR,
        limit=k,
        filter=where,
        search_params={"metric_type": "COSINE", "params": params},
        output_fields=["path", "class", *gallery.facts.own_columns()],
      )
  return [[_hit(hit["entity"], hit["distance"]) for hit in hits] for hits in answers]


def _hit(row: dict[str, Any], score: float) -> Hit:
  hidden = {KEY, VECTOR, DESCRIBED, *columns.OURS}
  own = {name: x for name, x in row.items() if name not in hidden and x is not None}
  return Hit(row["path"], float(score), row["class"], own)


def classes(gallery: Gallery) -> list[str]:
  """The classes of the images, each once, sorted; '' of those without one is left out."""
  found = {row["class"] for rows in _pages(gallery, "", ["class"], MOST) for row in rows}
  return sorted(found - {""})
