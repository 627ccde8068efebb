"""Images in a folder for each class, also below super-categories as in iNaturalist."""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lafg_jax.data import same_images
from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import common, own
from lafg_jax.utils.errors import UserError

# Pillow knows these formats, but decodes them only with other software.
_NO_DECODER = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
_IGNORED = ("thumbs.db", "__macosx", "desktop.ini")
_TRAIN_FOLDER = re.compile(r"train(_mini|_?val.*)?")


class ClassFolder(NamedTuple):
  """The folder of one class."""

  path: str  # below the root, with '/'
  above: str  # its super-category, or ''
  files: list[str]  # of images, sorted

  @property
  def name(self) -> str:
    return self.path.rpartition("/")[2]


class _Listing(NamedTuple):
  folders: list[str]
  images: list[str]
  others: list[str]  # files that are no images, and links that lead nowhere


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The halves of root/CLASS/, of root/train/CLASS/ and root/test/CLASS/, or one level deeper."""
  root = common.root_folder(data)
  top = _list(root)
  splits = [name for name in top.folders if name == "test" or _TRAIN_FOLDER.fullmatch(name)]
  listed = {name: _list(root / name) for name in splits}
  inner = [name for name in splits if listed[name].folders and not listed[name].images]
  if "train" in inner and "test" in inner:
    _leave_out(root, [name for name in top.folders if name not in ("train", "test")])
    own.refuse_split_keys(data, f"{root} has the folders train and test")
    return _two_folders(data, root)
  parts = [name for name in inner if name != "test"]
  if len(parts) > 1:
    raise UserError(f"{root} has {' and '.join(parts)}: point --config.data.root at one of them")
  if parts:
    _leave_out(root, [name for name in top.folders if name != parts[0]])
  classes = _class_folders(root, parts[0] if parts else "", data.depth)
  halves = own.halves(data, _pool(root, "train", classes, classes), str(root))
  return same_images.refuse_trained(*halves, str(root))


def _two_folders(data: Any, root: Path) -> tuple[Dataset, Dataset]:
  parts = [_class_folders(root, name, data.depth) for name in ("train", "test")]
  shared = {folder.name for folder in parts[0]} & {folder.name for folder in parts[1]}
  if shared:
    raise UserError(
      f"{root}: {len(shared)} classes stand in train and in test, such as '{min(shared)}', but "
      "the classes of the test must be unseen: put all images of a class in one folder"
    )
  train, test = (
    _pool(root, name, part, [*parts[0], *parts[1]])
    for name, part in zip(("train", "test"), parts, strict=True)
  )
  return same_images.refuse_trained(train, test, str(root))


def _class_folders(root: Path, below: str, depth: int) -> list[ClassFolder]:
  """The class folders that hold images, ordered by name; names of digits alone by number."""
  start = root / below
  top = _list(start)
  prefix = f"{below}/" if below else ""
  folders = {name: _list(start / name) for name in top.folders}
  if depth == 0:
    depth = _depth(start, folders)
  found = []
  for name, listing in folders.items():
    if depth == 1:
      found.append((ClassFolder(prefix + name, "", listing.images), listing))
      continue
    for inner in listing.folders:
      deeper = _list(start / name / inner)
      found.append((ClassFolder(f"{prefix}{name}/{inner}", name, deeper.images), deeper))
  _warn(start, [folder for folder, _ in found], [listing for _, listing in found])
  classes = [folder for folder, _ in found if folder.files]
  if not classes:
    raise UserError(f"{start} has no images in folders named after classes (data.depth={depth})")
  numbers = all(folder.name.isdecimal() for folder in classes)
  classes.sort(key=lambda c: (int(c.name) if numbers else 0, c.name, c.above))
  return classes


def _depth(start: Path, folders: dict[str, _Listing]) -> int:
  with_images = [name for name, listing in folders.items() if listing.images]
  deeper = [name for name, listing in folders.items() if listing.folders and not listing.images]
  if with_images and deeper:
    raise UserError(
      f"{start}: {with_images[0]} holds images and {deeper[0]} only folders: pass "
      "--config.data.depth=1 if the former is a class, 2 if it is a super-category"
    )
  return 2 if deeper else 1


def _warn(start: Path, classes: Sequence[ClassFolder], listings: Sequence[_Listing]) -> None:
  empty = [folder.path for folder in classes if not folder.files]
  others = [file for listing in listings for file in listing.others]
  nested = [name for listing in listings for name in listing.folders]
  for names, what in (
    (empty, "classes without images left out"),
    (others, "files are no images: left out"),
    (nested, "folders within class folders left out"),
  ):
    if names:
      logging.warning("%s: %d %s, e.g. %s", start, len(names), what, names[0])


def _leave_out(root: Path, names: Sequence[str]) -> None:
  if names:
    logging.warning("%s: left out, being no part of the split: %s", root, ", ".join(names))


def _pool(
  root: Path, split: str, classes: Sequence[ClassFolder], everything: Sequence[ClassFolder]
) -> Dataset:
  """The images of `classes`, named so that names are unique among `everything`."""
  raw = [folder.name for folder in everything]
  numbered = all(folder.above and folder.name.isdecimal() for folder in everything)
  # iNaturalist 2018 numbers its species: only the super-category says what a class is.
  names = [f"{f.above} {f.name}" for f in everything] if numbered else own.clean_names(raw)
  name_of = {folder.path: name for folder, name in zip(everything, names, strict=True)}
  common.check_names(root, name_of)
  ids = [f"{folder.path}/{file}" for folder in classes for file in folder.files]
  base = os.fspath(root)
  return Dataset(
    name="folder",
    split=split,
    images=np.array([os.path.join(base, path) for path in ids], dtype=np.str_),
    labels=np.repeat(
      np.arange(len(classes), dtype=np.int32), [len(folder.files) for folder in classes]
    ),
    class_names=tuple(name_of[folder.path] for folder in classes),
    ids=tuple(ids),
    super_classes=tuple(folder.above for folder in classes) if numbered else None,
  )


def _list(folder: Path) -> _Listing:
  """The content of a folder, each kind sorted by name."""
  try:
    with os.scandir(folder) as entries:
      shown = [entry for entry in entries if not _ignored(entry.name)]
    found = sorted(shown, key=lambda entry: entry.name)
    "".join(entry.name for entry in found).encode()
  except UnicodeEncodeError as error:
    bad = next(entry.name for entry in found if not entry.name.isprintable())
    raise UserError(f"{folder} holds a name that is not UTF-8, {bad!a}: rename it") from error
  except OSError as error:
    raise UserError(f"{folder} cannot be listed: {error.strerror}") from error
  endings = _endings()
  listing = _Listing([], [], [])
  for entry in found:
    name = entry.name
    # These two calls read the disk again for links only.
    if entry.is_dir():
      listing.folders.append(name)
    elif os.path.splitext(name)[1].lower() in endings and entry.is_file():
      listing.images.append(name)
    else:
      listing.others.append(name)
  return listing


def _ignored(name: str) -> bool:
  return name.startswith(".") or name.lower() in _IGNORED


@functools.cache
def _endings() -> frozenset[str]:
  from PIL import Image

  Image.init()
  known = Image.registered_extensions().items()
  return frozenset(x for x, kind in known if kind in Image.OPEN and kind not in _NO_DECODER)


def all_images(root: str | Path) -> list[str]:
  """Paths below `root`, with '/', of the images at any depth, sorted: the files that `read` takes.

  A folder that several links lead to is listed once. Raises UserError where one cannot be listed.
  """
  found, seen, waiting = [], set(), [""]
  while waiting:
    below = waiting.pop()
    place = os.path.realpath(os.path.join(root, below))
    if place not in seen:
      seen.add(place)
      listing = _list(Path(root, below))
      found += [f"{below}{name}" for name in listing.images]
      waiting += [f"{below}{name}/" for name in reversed(listing.folders)]
  return sorted(found)
