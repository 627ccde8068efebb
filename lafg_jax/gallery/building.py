"""Makes a gallery and brings it up to date as a whole: its facts, rows, floors and index."""

from absl import logging

from lafg_jax.data import listing
from lafg_jax.gallery import codes, indexing, milvus, statistics, store
from lafg_jax.gallery import model as models
from lafg_jax.gallery.indexing import Counts
from lafg_jax.gallery.model import Model
from lafg_jax.gallery.sources import Source
from lafg_jax.gallery.store import Facts, Gallery
from lafg_jax.utils.errors import UserError

# Skipped images that the log names.
_NAMED = 20


def check_index(place: str, kind: str | None) -> None:
  """Raises UserError where Milvus Lite has no index of this type."""
  if kind is not None and milvus.is_local(place) and kind not in store.LITE:
    raise UserError(f"--index_type={kind}: Milvus Lite has {', '.join(store.LITE)}")


def facts_of(place: str) -> Facts | None:
  """What a gallery is; None where none is there yet."""
  if not milvus.exists(place):
    return None
  with milvus.connected(place) as client:
    return store.read_facts(client, place)


def build(
  place: str, model: Model, source: Source, kind: str | None = None, bits: int = 0
) -> tuple[Facts, Counts]:
  """Brings the gallery at `place` to what `source` lists; makes it where there is none.

  kind: type of the index; None leaves it, and of a new gallery is FLAT in a file and AUTOINDEX on a
  server. bits: of binary codes, learned anew; with 0, codes that are there are brought up to date.
  Raises UserError where the gallery is of another model.
  """
  with milvus.connected(place) as client:
    facts = store.read_facts(client, place)
    if facts is None:
      default = "FLAT" if milvus.is_local(place) else "AUTOINDEX"
      facts = model.facts(kind or default)
      store.write_facts(client, place, facts)
    models.check(facts, model)
    if not client.has_collection(store.IMAGES):
      store.create(client, place, facts)
    store.load(client, place)
    gallery = Gallery(client, place, facts)
    if kind is not None and kind != facts.index_type:
      gallery = store.reindex(gallery, kind)
    return _brought(gallery, model, source, bits)


def _brought(gallery: Gallery, model: Model, source: Source, bits: int) -> tuple[Facts, Counts]:
  columns = {name: list(x) for name, x in gallery.facts.columns.items()}
  # Until all rows are written anew, those that a manifest has no more are columns too.
  both = dict.fromkeys([*columns.get(source.root, ()), *source.columns])
  facts = gallery.facts._replace(columns=columns | {source.root: list(both)}, complete=False)
  store.write_facts(gallery.client, gallery.place, facts)
  gallery = gallery._replace(facts=facts)
  counts = indexing.run(gallery, source, model.retriever.embed_readable)
  for path, why in list(counts.skipped.items())[:_NAMED]:
    logging.warning("skipped %s: %s", listing.shown(path), listing.shown(" ".join(why.split())))
  if len(counts.skipped) > _NAMED:
    logging.warning("and %d more", len(counts.skipped) - _NAMED)
  floors = facts.floors
  if counts.added or counts.changed or counts.dropped or not floors:
    floors = statistics.floors(gallery, model)
  facts = facts._replace(
    columns=columns | {source.root: list(source.columns)},
    complete=True,
    floors=floors,
    skipped=indexing.shortened(counts.skipped),
  )
  with milvus.as_user_error(gallery.place):
    gallery.client.flush(store.IMAGES)
  # Before the gallery is said to be complete: a kill here is mended by the next run.
  if bits:
    codes.make(gallery, bits)
  elif (known := codes.read(gallery.place)) is not None:
    codes.refresh(gallery, known)
  store.write_facts(gallery.client, gallery.place, facts)
  return facts, counts
