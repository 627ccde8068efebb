"""What the readers of composed queries share: JSON files, images by name, and making a part.

`composed.missing` decides what happens where listed images are not there:

- 'refuse': a UserError that counts them and names one.
- 'partial': they leave the gallery, and queries that name one of them are left out, with counts in
  `Composed.about`; the part is partial.
- 'annotations': no image is looked for, and `Composed.images` are the paths where they would be.
  This is for features that were computed elsewhere; opening an image fails loudly.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.data import datasets, listing
from lafg_jax.data.composed import Composed, Query
from lafg_jax.data.datasets import Rows
from lafg_jax.utils import ground as grounds
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

_AGAIN = "fetch it again"


class Found(NamedTuple):
  """Where images are: `at` {id: path, or row of `images`}; `images` is None for files."""

  at: Mapping[str, Any]
  images: Any = None

  def take(self, ids: Sequence[str]) -> Any:
    """[n] images as `Dataset.images` has them."""
    if self.images is None:
      return np.array([self.at[name] for name in ids], dtype=np.str_)
    return Rows(self.images, np.array([self.at[name] for name in ids], np.int64))


def root(config: Any, wanted: str) -> Path:
  """The folder composed.root, which holds what `wanted` says; UserError where it is none."""
  if not config.composed.root:
    raise UserError(
      f"composed.root is not set: pass --config.composed.root=FOLDER with {wanted}, of "
      f"--config.composed.source={config.composed.source}"
    )
  folder = Path(config.composed.root)
  if not folder.is_dir():
    raise UserError(f"--config.composed.root={folder} is no folder: it takes {wanted}")
  return folder


def images_folder(config: Any, default: Path) -> Path:
  """composed.images, or the folder that stands in for it; UserError where it is none."""
  folder = Path(config.composed.images) if config.composed.images else default
  if not folder.is_dir() and config.composed.missing != "annotations":
    raise UserError(f"--config.composed.images={folder} is no folder: pass that of the images")
  return folder


def first_there(paths: Sequence[Path], mend: str) -> Path:
  """The first of some paths that is a file; UserError, which says how to get it, without one."""
  for path in paths:
    if path.is_file():
      return path
  raise UserError(f"{paths[0]} is missing: {mend}")


def json_of(path: Path, kind: type) -> Any:
  """The content of a JSON file, a list or a dict; UserError where it is none."""
  try:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read as JSON ({error}): {_AGAIN}") from error
  if not isinstance(content, kind) or not content:
    raise UserError(f"{path} holds no {'list' if kind is list else 'object'} of entries: {_AGAIN}")
  return content


def field(path: Path, number: int, entry: Any, key: str, kind: type) -> Any:
  """entry[key], which is of that type; `number` counts entries from 1, for the UserError."""
  value = entry.get(key) if isinstance(entry, dict) else None
  if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
    what = {str: "text", int: "whole number", list: "list", dict: "object"}[kind]
    raise UserError(f"{path} entry {number}: '{key}' is no {what}: {_AGAIN}")
  return value


def texts(path: Path, number: int, entry: Any, key: str) -> tuple[str, ...]:
  """entry[key], a list of texts; UserError where it is none."""
  several = field(path, number, entry, key, list)
  if not all(isinstance(x, str) for x in several):
    raise UserError(f"{path} entry {number}: '{key}' is no list of texts: {_AGAIN}")
  return tuple(several)


def find(
  config: Any, folder: Path, ids: Iterable[str], listed: Mapping[str, Sequence[str]] | None = None
) -> Found:
  """Those of the images that are there: at their listed path, else by name anywhere below.

  Args:
    folder: of the images.
    ids: names of images without the ending of a file.
    listed: {id: paths below the folder where an image may lie}, the first of them is expected.

  Raises UserError: two images below the folder have the name, and neither is at a listed path.
  """
  listed, at = listed or {}, {}
  ids = tuple(dict.fromkeys(ids))
  if config.composed.missing == "annotations":
    return Found({x: os.path.join(folder, listed.get(x, (f"{x}.jpg",))[0]) for x in ids})
  for name in ids:
    paths = (os.path.join(folder, path) for path in listed.get(name, ()))
    there = next((path for path in paths if os.path.isfile(path)), None)
    if there:
      at[name] = there
  if len(at) < len(ids):
    stems = by_stem(listing.images_below(folder)[0])
    for name in ids:
      if name not in at and (near := stems.get(name)):
        at[name] = os.path.join(folder, only(folder, name, near))
  return Found(at)


def by_stem(paths: Iterable[str]) -> dict[str, list[str]]:
  """{name of a file without folder and ending: the paths that have it}."""
  stems: dict[str, list[str]] = {}
  for path in paths:
    stems.setdefault(os.path.splitext(os.path.basename(path))[0], []).append(path)
  return stems


def only(folder: Path, name: str, paths: Sequence[str]) -> str:
  """The one path of an image; UserError where there are two."""
  if len(paths) > 1:
    raise UserError(
      f"{folder} has two images '{name}', {paths[0]} and {paths[1]}: remove one, or pass the "
      "folder that counts, --config.composed.images=FOLDER"
    )
  return paths[0]


def drops(config: Any, usual: bool) -> bool:
  """Whether the reference is left out of its ranking: composed.drop_reference, or the usual."""
  return {"auto": usual, "always": True, "never": False}[config.composed.drop_reference]


def part(
  config: Any,
  queries: Sequence[Query],
  gallery: Sequence[str],
  found: Found,
  *,
  name: str,
  about: str,
  protocol: str,
  drop: bool,
  where: Path,
  published: tuple[int, int] | None = None,
  expected: Sequence[str] = (),
) -> Composed:
  """One part of a source.

  Args:
    queries: as the annotations have them.
    gallery: ids of the gallery, in its order.
    found: which images are there.
    name: of the part. about: what the gallery is. protocol, drop: as in `Composed`.
    where: the folder of the images, for messages.
    published: numbers of queries and of images of the gallery, where they are known.
    expected: ids that are listed, where `gallery` has only those that are there.

  Raises:
    UserError: annotations contradict each other; or images are missing, or counts differ from the
      published ones, under composed.missing='refuse'.
  """
  _check(name, queries, gallery)
  wanted = dict.fromkeys((*gallery, *(x for query in queries for x in _named(query)), *expected))
  missing = tuple(x for x in wanted if x not in found.at)
  if config.composed.missing != "partial":
    if missing:
      raise UserError(lacking(name, where, missing, len(wanted)))
    _check_counts(name, (len(queries), len(gallery)), published)
  kept = [query for query in queries if all(x in found.at for x in _named(query))]
  shown = [x for x in gallery if x in found.at]
  if not kept or not shown:
    raise UserError(f"{name}: no query has its images below {where}: pass --config.composed.images")
  about = _about(about, (len(shown), len(gallery)), (len(kept), len(queries)), published)
  ids = tuple(dict.fromkeys((*shown, *(query.reference for query in kept))))
  position = {x: k for k, x in enumerate(ids)}
  made = Composed(
    name=name,
    split=config.composed.split,
    queries=tuple(kept),
    ids=ids,
    images=found.take(ids),
    gallery=np.array([position[x] for x in shown], np.int32),
    about=about,
    drop_reference=drop,
    protocol=protocol,
    content="",
    missing=missing,
    ground=grounds.of(config.data),
    incomplete=bool(published) and (len(kept), len(shown)) != published,
  )
  return made._replace(content=_content(made, config.composed.missing == "annotations"))


def _named(query: Query) -> tuple[str, ...]:
  return query.reference, *query.targets, *query.members


def _check(name: str, queries: Sequence[Query], gallery: Sequence[str]) -> None:
  """Raises UserError where ids repeat, or an answer is not in the gallery."""
  for what, ids in (("query", [query.id for query in queries]), ("image", gallery)):
    if len(set(ids)) < len(ids):
      seen: set[str] = set()
      twice = next(x for x in ids if x in seen or seen.add(x))  # type: ignore[func-returns-value]
      raise UserError(f"{name}: {what} '{twice}' stands there twice: remove one")
  there = set(gallery)
  for query in queries:
    outside = [x for x in (*query.targets, *query.members) if x not in there]
    if outside:
      raise UserError(f"{name}: query {query.id} names '{outside[0]}', which is not in the gallery")
    if query.reference in query.targets:
      raise UserError(f"{name}: the reference of query {query.id} is one of its own right answers")


def _check_counts(name: str, counts: tuple[int, int], published: tuple[int, int] | None) -> None:
  """Raises UserError where numbers of queries and of images are not the published ones."""
  if published and counts != published:
    raise UserError(
      f"{name}: {counts[0]:,} queries and {counts[1]:,} images in the gallery, not "
      f"{published[0]:,} and {published[1]:,}: complete the copy, or pass "
      "--config.composed.missing=partial"
    )


def lacking(name: str, where: Path, missing: Sequence[str], number: int) -> str:
  """The message of images that are missing, of `number` in all."""
  return (
    f"{where} lacks {len(missing):,} of {counted(number, 'image')} of {name}, such as "
    f"'{listing.shown(missing[0])}': complete the copy, or pass --config.composed.missing=partial "
    "to go on without them"
  )


def _about(
  about: str, gallery: tuple[int, int], queries: tuple[int, int], published: tuple[int, int] | None
) -> str:
  """'original split, 3,817 images'; with what is left out, where something is."""
  there, listed = gallery
  listed = published[1] if published else listed
  of = "" if there == listed else f" of {listed:,}"
  text = f"{about}, {there:,}{of} images" if of else f"{about}, {counted(there, 'image')}"
  if queries[0] < queries[1]:
    left = counted(queries[1] - queries[0], "query")
    text += f"; {left} of {queries[1]:,} left out, whose images are missing"
  return text


def _content(made: Composed, unread: bool) -> str:
  digest = hashlib.sha256(repr((made.queries, made.ids, made.ground, made.missing)).encode())
  digest.update(made.gallery.tobytes())
  if isinstance(made.images, np.ndarray) and not unread:
    digest.update(repr([datasets.size_of(path) for path in made.images]).encode())
  return digest.hexdigest()[:16]


def no_training(name: str) -> UserError:
  """The error of a source that has nothing to train Phi on."""
  return UserError(
    f"--config.composed.source={name} is a benchmark without training data for Phi: pass "
    "--config.mapping.texts=FILE ('lincir') or --config.mapping.images=FOLDER, or "
    "--config.mapping.source=CHECKPOINT"
  )


def names_of(path: Path, key: str) -> list[str]:
  """The names of images in a file: a name a line, a JSON list, COCO's image_info, or an .npy.

  Numbers become texts. Raises UserError where the file, which `key` names, is none of these.
  """
  if not path.is_file():
    raise UserError(f"--config.{key}={path} is no file: it takes a name of an image a line")
  try:
    if path.suffix == ".npy":
      values = np.load(path, allow_pickle=False).ravel().tolist()
    elif path.suffix == ".json":
      values = json.loads(path.read_text(encoding="utf-8-sig"))
      if isinstance(values, dict):
        values = [image["id"] for image in values["images"]]
    else:
      values = [x.strip() for x in path.read_text(encoding="utf-8-sig").split("\n") if x.strip()]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"--config.{key}={path} holds no names of images ({error})") from error
  if not values or not all(isinstance(x, str | int) for x in values):
    raise UserError(f"--config.{key}={path} holds no names of images")
  return [str(x) for x in values]
