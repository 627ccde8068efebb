"""Captions of FDRD (DCAR's data set): a JSON file for each domain and split; images elsewhere.

The class comes from 'class_name', or else from the key; the image from the key, in the layout that
its own data set has. 'file_path' is a path on the author's disk and is not read.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lafg_jax.data.caption_readers.listed import Listed
from lafg_jax.data.readers import table
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError


class Layout(NamedTuple):
  """How the files of a domain name things.

  image: (key, class_name) -> the path in the data set's own layout. key: what a key looks like.
  class_of: key -> the class, of files without 'class_name'.
  """

  key: str
  image: Callable[[str, str], str]
  class_of: Callable[[str], str] | None = None


def _before(key: str) -> str:
  return key.rpartition("_")[0]


def _after(key: str) -> str:
  return key.rpartition("_")[2]


# Variants of aircraft with '/' in their names, where a key has '_'.
_SLASHED = {"F_A-18": "F/A-18", "F-16A_B": "F-16A/B"}

LAYOUTS = {
  "flower": Layout(r".+_image_\d+", lambda key, _: f"jpg/image_{_after(key)}.jpg"),
  "pets": Layout(r".+_\d+", lambda key, _: f"images/{key}.jpg", _before),
  "plane": Layout(
    r".+_\d+",
    lambda key, _: f"images/{_after(key)}.jpg",
    lambda key: _SLASHED.get(_before(key), _before(key)),
  ),
  "car": Layout(r"cars_(train|test)_\d+\.jpg", lambda key, _: f"{_before(key)}/{_after(key)}"),
  "caltech": Layout(
    r".+_image_\d+\.jpg",
    lambda key, _: "101_ObjectCategories/{}/image_{}".format(*key.rsplit("_image_", 1)),
  ),
  "dtd": Layout(r".+_\d+\.jpg", lambda key, _: f"images/{_before(key)}/{key}"),
  "ucf": Layout(r"v_.+\.jpg", lambda key, name: f"UCF-101-midframes/{name}/{key}"),
}


def read(config: Any) -> Listed:
  """The rows of captions.file, and of captions.test_file as those of the test."""
  captions = config.captions
  parts = {"train": captions.file, "test": captions.test_file}
  found = [
    (split, read_file(Path(file), f"captions.{key}", captions.layout))
    for (split, file), key in zip(parts.items(), ("file", "test_file"), strict=True)
    if file
  ]
  splits = [split for split, part in found for _ in part.paths]
  rows = [part for _, part in found]
  return Listed(
    where=" and ".join(part.where for part in rows),
    paths=[x for part in rows for x in part.paths],
    captions=[x for part in rows for x in part.captions],
    classes=[x for part in rows for x in part.classes or ()],
    splits=splits if captions.test_file else None,
    negatives=_negatives(rows),
  )


def _negatives(parts: list[Listed]) -> list[list[str]] | None:
  every = [list(x) for part in parts for x in part.negatives or ()]
  return every if any(every) else None


def read_file(path: Path, key: str, layout: str = "auto") -> Listed:
  """One file, that `key` of the config names; its images need not be there.

  Raises UserError where it is no file of FDRD or its domain is not known.
  """
  items = _items(path, key)
  kind = LAYOUTS[layout if layout != "auto" else _kind(path)]
  paths, classes = [], []
  for name, item in items.items():
    if not re.fullmatch(kind.key, name):
      raise UserError(
        f"{path}: the key '{name}' is none of this domain: pass --config.captions.layout="
        f"{'|'.join(LAYOUTS)}"
      )
    raw = item.get("class_name") or (kind.class_of(name) if kind.class_of else "")
    if not raw:
      raise UserError(f"{path}: '{name}' has no class_name: fetch the file again")
    paths.append(kind.image(name, raw))
    classes.append(" ".join(raw.replace("_", " ").split()))
  return Listed(
    where=str(path),
    paths=paths,
    captions=[item["positive"] for item in items.values()],
    classes=classes,
    negatives=[item.get("negative") or [] for item in items.values()],
  )


def _items(path: Path, key: str) -> dict[str, dict[str, Any]]:
  table.start_of(path, key, "JSON file of FDRD")
  twice: list[str] = []

  def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
      names = [name for name, _ in pairs]
      twice.extend(name for name in found if names.count(name) > 1)
    return found

  try:
    items = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read as JSON ({error}): fetch it again") from error
  if not isinstance(items, dict) or not all(_is_item(item) for item in items.values()):
    raise UserError(
      f"{path} is no file of FDRD, an object of items with 'positive' and 'negative': for captions "
      "of your own pass --config.captions.source=table"
    )
  if twice:
    raise UserError(f"{path} has {counted(len(twice), 'key')} twice, such as '{twice[0]}'")
  if not items:
    raise UserError(f"{path} has no caption: of a file that is '{{}}' take an earlier version")
  return items


def _is_item(item: Any) -> bool:
  return (
    isinstance(item, dict)
    and isinstance(item.get("positive"), str)
    and item["positive"].strip() != ""
    and isinstance(item.get("class_name", ""), str)
    and isinstance(item.get("negative", []), list)
    and all(isinstance(x, str) for x in item.get("negative", []))
  )


def _kind(path: Path) -> str:
  """The domain that a file's name tells."""
  found = [kind for kind in LAYOUTS if kind in path.name.lower()]
  if len(found) != 1:
    raise UserError(
      f"{path}: its name tells no domain: pass --config.captions.layout={'|'.join(LAYOUTS)}"
    )
  return found[0]
