"""Makes a gallery of images, keeps it up to date, and searches it by image and by text.

  python -m lafg_jax.search index --model=runs/cars --images=photos/ --gallery=cars.db
  python -m lafg_jax.search query --gallery=cars.db --image=q.jpg -k 10
  python -m lafg_jax.search query --gallery=cars.db --text="a red coupe" --where="class == 'x'"
  python -m lafg_jax.search info --gallery=cars.db
  python -m lafg_jax.search remove --gallery=cars.db photos/old.jpg photos/2019
  python -m lafg_jax.search export --gallery=cars.db --out=cars_gallery

index: new and changed images alone are embedded, and those that are gone leave; after a kill the
same command does what is left. --model is a workdir, an export, a .tar, hf://org/name or gs://...;
the gallery remembers it. --images is a folder, where the class of an image is its folder's name, or
a manifest: a CSV or Parquet with a column path, maybe class, and any columns of your own.
query: --image, --text, or both (models of class retrieval take images alone). --where is a filter
of Milvus over the columns: class == 'x' and year > 2000.
remove: files, folders, or what --where finds. The next index of a folder that still holds them adds
them again.
export: vectors (safetensors, and faiss where it is installed), rows, the model's id, and a page
that shows how to read, search and add.
--gallery is a FILE.db (embedded, a folder on disk), or http://HOST:PORT of a Milvus server, with
its token in MILVUS_TOKEN.
"""

import os
from collections.abc import Sequence
from typing import Any

from absl import flags

from lafg_jax.config import command_line
from lafg_jax.utils import packages
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

_MODEL = flags.DEFINE(
  command_line.PATH, "model", None, "What load_retriever takes (default: the gallery's own)."
)
_CHECKPOINT = flags.DEFINE_enum(
  "checkpoint",
  "newest",
  ["newest", "best", "auto"],
  "Of --model, where it is a workdir.",
  allow_override=True,
)
_IMAGES = flags.DEFINE(command_line.PATH, "images", None, "A folder, or a manifest.")
_ROOT = flags.DEFINE(
  command_line.PATH, "root", None, "Of a manifest: where its paths begin (default: its folder)."
)
_GALLERY = flags.DEFINE(
  command_line.PATH,
  "gallery",
  None,
  "FILE.db, or the URL of a Milvus server.",
  allow_override=True,
)
_INDEX = flags.DEFINE_string(
  "index_type",
  None,
  "FLAT (exact; the default of a file), HNSW, HNSW_SQ, IVF_FLAT, IVF_SQ8 or AUTOINDEX; a server "
  "has more.",
)
_IMAGE = flags.DEFINE(command_line.PATH, "image", None, "The image of a query.")
_TEXT = flags.DEFINE_string("text", None, "The text of a query; with --image, what is different.")
_EDITED = flags.DEFINE_string(
  "edited", None, "Beside --image and --text: a description of what is looked for."
)
_K = flags.DEFINE_integer("k", 10, "How many images.")
_WHERE = flags.DEFINE_string("where", "", "A filter over the columns.")
_EXACT = flags.DEFINE_bool("exact", False, "Look at every vector in memory, without the index.")
_EFFORT = flags.DEFINE_integer(
  "effort", None, "Candidates that the index looks at: ef of HNSW, nprobe of IVF."
)
_EXPAND = flags.DEFINE_integer(
  "expand", 0, "Ask again with the query drawn to its N best hits (alpha-QE); 0 does not."
)
_ALPHA = flags.DEFINE_float("alpha", 3.0, "Of --expand: a hit weighs its score to this power.")
_BITS = flags.DEFINE_integer(
  "bits",
  0,
  "index: also learn binary codes of so many bits; they are kept up to date from then on.",
)
_RERANK = flags.DEFINE_integer(
  "rerank", 0, "Look at the binary codes, then at N full vectors for each image; 0: at the index."
)
_RECALL = flags.DEFINE_bool(
  "recall", False, "info: measure recall@k of the index against exact search."
)
_OUT = flags.DEFINE(
  command_line.PATH, "out", None, "export: the folder to write.", allow_override=True
)
_JSON = flags.DEFINE_bool("json", False, "Print JSON.")
_HTML = flags.DEFINE(command_line.PATH, "html", None, "Also write a contact sheet to this file.")

# The flags that each subcommand has, beside --gallery.
ALLOWED = {
  "index": ("model", "checkpoint", "images", "root", "index_type", "bits", "json"),
  "query": ("model", "checkpoint", "image", "text", "edited", "k", "where", "exact", "effort")
  + ("expand", "alpha", "rerank", "json", "html"),
  "info": ("recall", "k", "effort", "rerank", "json"),
  "remove": ("where", "json"),
  "export": ("out", "json"),
}


def main(argv: Sequence[str]) -> None:
  """Checks the subcommand and its flags, and does it."""
  names = ", ".join(ALLOWED)
  if len(argv) < 2 or argv[1] not in ALLOWED:
    what = f"no subcommand {argv[1]!r}" if len(argv) > 1 else "no subcommand"
    raise UserError(f"{what}: search takes one of {names}; see --help")
  name, words = argv[1], list(argv[2:])
  _check_flags(name)
  if words and name != "remove":
    raise UserError(f"leftover word {words[0]!r} on the command line: flags are --name=value")
  if not _GALLERY.value:
    raise UserError("pass --gallery=FILE.db")
  from lafg_jax.gallery import milvus

  packages.require("gallery", "pymilvus")
  milvus.is_local(_GALLERY.value)
  does = {
    "index": _index,
    "query": _query,
    "info": _info,
    "remove": _remove,
    "export": _export,
  }
  does[name](_GALLERY.value, words)


def _check_flags(name: str) -> None:
  ours = {flag for allowed in ALLOWED.values() for flag in allowed}
  for flag in sorted(ours - set(ALLOWED[name])):
    if flags.FLAGS[flag].present:
      of = " and ".join(x for x, allowed in ALLOWED.items() if flag in allowed)
      raise UserError(f"--{flag} is of search {of}, not of {name}")
  if flags.FLAGS["checkpoint"].present and not _MODEL.value:
    raise UserError("--checkpoint is of --model: pass both")


def _print(lines: Sequence[str], facts: dict[str, Any]) -> None:
  import json

  print(json.dumps(facts, indent=2) if _JSON.value else "\n".join(lines))


def _index(place: str, words: Sequence[str]) -> None:
  del words
  from lafg_jax.gallery import building, codes, model, sources

  if not _IMAGES.value:
    raise UserError("pass --images=FOLDER, or a manifest")
  building.check_index(place, _INDEX.value)
  if _BITS.value:
    codes.check(place, _BITS.value)
  facts = building.facts_of(place)
  wanted = _MODEL.value or ""
  if facts is None and not wanted:
    raise UserError(f"--gallery={place} is new: pass --model, what is to embed its images")
  source = sources.read(_IMAGES.value, _ROOT.value)
  if facts is None:
    found = model.read(wanted, _CHECKPOINT.value)
  else:
    found = model.of_gallery(facts, wanted, _CHECKPOINT.value if wanted else None)
  if not place.startswith("http"):
    os.makedirs(os.path.dirname(os.path.abspath(place)), exist_ok=True)
  facts, counts = building.build(place, found, source, _INDEX.value, _BITS.value)
  said = counts._asdict() | {"skipped": len(counts.skipped)}
  line = ", ".join(f"{number:,} {name}" for name, number in said.items())
  _print([f"{place}: {line}"], said | {"skipped_images": counts.skipped})


def _query(place: str, words: Sequence[str]) -> None:
  del words
  if not (_IMAGE.value or _TEXT.value):
    raise UserError("no query: pass --image=FILE, --text=WORDS, or both")
  from absl import logging

  from lafg_jax.gallery import model, searching, sheet, store
  from lafg_jax.utils.files import replacing

  with store.opened(place) as gallery:
    if not gallery.facts.complete:
      logging.warning("indexing of this gallery has not come to its end: run search index again")
    # Before the model is read, which takes seconds.
    store.check(gallery, _WHERE.value)
    chosen = _CHECKPOINT.value if _MODEL.value else None
    answer = searching.query(
      gallery,
      model.of_gallery(gallery.facts, _MODEL.value, chosen),
      _K.value,
      image=_IMAGE.value,
      text=_TEXT.value,
      edited=_EDITED.value,
      where=_WHERE.value,
      exact=_EXACT.value,
      effort=_EFFORT.value,
      expand=_EXPAND.value,
      alpha=_ALPHA.value,
      rerank=_RERANK.value,
    )
  print(sheet.as_json(answer, gallery) if _JSON.value else sheet.table(answer))
  if _HTML.value:
    asked = {"image": _IMAGE.value, "text": _TEXT.value, "edited": _EDITED.value}
    lines = [f"{name}: {x}" for name, x in (asked | {"where": _WHERE.value}).items() if x]
    with replacing(_HTML.value) as temporary:
      temporary.write_text(sheet.page(answer, lines, _IMAGE.value), encoding="utf-8")


def _info(place: str, words: Sequence[str]) -> None:
  del words
  from lafg_jax.data import listing
  from lafg_jax.gallery import codes, searching, store

  with store.opened(place) as gallery:
    facts, number = gallery.facts, store.count(gallery)
    bits = codes.bits_of(place)
    said = facts._asdict() | {"images": number, "code_bits": bits}
    shares = {}
    if _RECALL.value:
      shares[""], queries = searching.recall(gallery, _K.value, effort=_EFFORT.value)
      for rerank in [_RERANK.value or codes.RERANK] if bits else []:
        of = f" of codes, {rerank} x {_K.value} vectors"
        shares[of], _ = searching.recall(gallery, _K.value, rerank=rerank)
      said |= {f"recall@{_K.value}{of}": x for of, x in shares.items()}
      said |= {"recall_queries": queries}
  state = "" if facts.complete else " (indexing has not come to its end)"
  lines = [
    f"{place}: {counted(number, 'image')}{state}",
    f"model: {facts.model}, {facts.task}, step {facts.step} of {facts.source} ({facts.checkpoint})",
    f"vectors: {facts.dim} numbers, index {facts.index_type}"
    + (f", codes of {bits} bits" if bits else ""),
    *(f"from {root}: columns {', '.join(x) or 'none'}" for root, x in facts.columns.items()),
    *_floors(facts.floors),
    f"skipped by the last index: {facts.skipped.get('count', 0)}",
    *(
      f"  {listing.shown(path)}: {listing.shown(' '.join(why.split()))}"
      for path, why in facts.skipped.get("first", [])
    ),
  ]
  lines += [
    f"recall@{_K.value}{of} against exact search: {share:.4f} ({queries} queries)"
    for of, share in shares.items()
  ]
  _print(lines, said)


def _floors(found: dict[str, Any]) -> list[str]:
  above = " above a text's mean score" if "mean" in found else ""
  said = {"image": "", "text": above}
  return [f"floor of {of}: {found[of]:.3f}{more}" for of, more in said.items() if of in found]


def _remove(place: str, words: Sequence[str]) -> None:
  from lafg_jax.gallery import store
  from lafg_jax.utils import places

  if not words and not _WHERE.value:
    raise UserError("nothing to remove: pass files or folders, or --where")
  with store.opened(place) as gallery:
    gone = set(store.matching(gallery, _WHERE.value)) if _WHERE.value else set()
    known = store.entries(gallery) if words else {}
    for word in words:
      path = os.path.abspath(places.expanded(word))
      below = os.path.join(path, "")
      found = {key for key, e in known.items() if e.path == path or e.path.startswith(below)}
      if not found:
        raise UserError(f"{word}: the gallery has no such image, and none below it")
      gone |= found
    store.drop(gallery, sorted(gone))
  _print([f"{place}: {counted(len(gone), 'image')} removed"], {"removed": len(gone)})


def _export(place: str, words: Sequence[str]) -> None:
  del words
  from lafg_jax.gallery import exporting, store

  if not _OUT.value:
    raise UserError("pass --out=FOLDER")
  with store.opened(place) as gallery:
    command_line.make_folder("out", _OUT.value)
    paths = exporting.export(gallery, _OUT.value)
  _print(paths, {"written": paths})


if __name__ == "__main__":
  command_line.run(main, __doc__ or "", with_config=False, words=True)
