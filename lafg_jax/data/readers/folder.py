"""Images in a folder for each class, also below super-categories as in iNaturalist."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lafg_jax.data import listing, same_images
from lafg_jax.data.datasets import Dataset
from lafg_jax.data.listing import Listing
from lafg_jax.data.readers import common, own, split_folders
from lafg_jax.utils.counted import counted, listed
from lafg_jax.utils.errors import UserError


class ClassFolder(NamedTuple):
  """The folder of one class."""

  path: str  # below the root, with '/'
  above: str  # its super-category, or ''
  files: tuple[str, ...]  # paths of images below the root, sorted

  @property
  def name(self) -> str:
    return self.path.rpartition("/")[2]


Parts = dict[str, list[ClassFolder]]


class _Tree(NamedTuple):
  """What the functions here share."""

  root: Path
  depth: int  # data.depth
  lists: split_folders.Lists
  left_out: list[str]  # what is not read, and why, in lines


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The halves of root/CLASS/, of root/train/CLASS/ and root/test/CLASS/, or one level deeper.

  Folders that are called as parts of a split are one, by data.split_folders: their classes are kept
  apart ('split'), or put together and split anew ('pool'); or they are 'classes' like others.
  """
  root = common.root_folder(data)
  tree = _Tree(root, data.depth, functools.cache(listing.of), [])
  found = None
  if data.split_folders != "classes":
    found = split_folders.find(root, tree.lists)
  if found is None and data.split_folders == "pool":
    raise UserError(
      f"--config.data.split_folders=pool: {root} has no folders train and test to put together"
    )
  if found is None:
    classes = _class_folders(tree, "")
    _refuse_aliases(root, classes)
    if supers := sorted({folder.above for folder in classes} - {""}):
      logging.info(
        "%s: %s, such as %s, taken for super-categories: their classes are put together, and split "
        "by whole classes", root, counted(len(supers), "folder"), listing.shown(supers[0]),
      )  # fmt: skip
    halves = own.halves(data, _pool(root, "train", classes, classes), str(root))
  else:
    if found.beside:
      names = ", ".join(map(listing.shown, found.beside[:5]))
      tree.left_out.append(f"left out, being no part of the split: {names}")
    above = dict.fromkeys(("", *(os.path.dirname(path) for path in found.parts.values())))
    loose = [os.path.join(at, name) for at in above for name in tree.lists(root / at).images]
    _tell(tree, loose, [])
    parts = {kind: _class_folders(tree, path) for kind, path in found.parts.items()}
    put = _together if data.split_folders == "pool" else _apart
    halves = put(data, tree, found.parts, parts)
  for line in tree.left_out:
    logging.warning("%s: %s", root, line)
  train, test = same_images.refuse_trained(*halves, str(root))
  return dataclasses.replace(train, left_out=tuple(tree.left_out)), test


def _together(
  data: Any, tree: _Tree, paths: dict[str, str], parts: Parts
) -> tuple[Dataset, Dataset]:
  """The halves of all classes, each with the images that it has in any part."""
  folders = [folder for part in parts.values() for folder in part]
  _refuse_aliases(tree.root, folders)
  ordered = _ordered(_merged(folders))
  return own.halves(data, _pool(tree.root, "train", ordered, ordered), str(tree.root))


def _apart(data: Any, tree: _Tree, paths: dict[str, str], parts: Parts) -> tuple[Dataset, Dataset]:
  """The halves that the folders are; classes of val are validation classes."""
  root, train = tree.root, parts["train"]
  test = [*parts.get("test", ()), *parts.get("query", ()), *parts.get("gallery", ())]
  _refuse_shared(root, paths, parts)
  val, shared = parts.get("val", []), _shared(parts.get("val", []), [*train, *test])
  if shared:
    tree.left_out.append(
      f"{paths['val']} left out: it has classes of the other folders, such as '{shared[0]}', and "
      "validation classes are classes of their own (--config.data.split_folders=pool puts the "
      "images of a class together)"
    )
    val = []
  if val and not test and not data.num_val_classes:
    tree.left_out.append(f"no folder test: {paths['val']} is the test")
    test, val = val, []
  if val and not data.num_val_classes:
    tree.left_out.append(
      f"{paths['val']} left out: --config.data.num_val_classes={len(val)} takes its classes for "
      "validation"
    )
    val = []
  if not (test or val):
    return own.halves(data, _pool(root, "train", train, train), str(root))
  own.refuse_split_keys(data, f"{root} has the folders {listed(paths.values())}")
  _refuse_aliases(root, [*train, *val, *test])
  ours, theirs = _ordered([*train, *val]), _ordered(_merged(test))
  everything = [*ours, *theirs]
  half = _pool(root, "train", ours, everything)
  named = zip(half.class_names, ours, strict=True)
  half = dataclasses.replace(half, val_classes=tuple(name for name, x in named if x in val))
  other = _pool(root, "test", theirs, everything)
  if "query" in parts:
    asks = [name.startswith(f"{paths['query']}/") for name in other.ids]
    other = dataclasses.replace(other, is_query=np.array(asks, bool))
  return half, other


def _refuse_shared(root: Path, paths: dict[str, str], parts: Parts) -> None:
  """Raises UserError where the test has classes to train on, as in data sets to classify."""
  for kind in ("test", "query", "gallery"):
    shared = _shared(parts["train"], parts.get(kind, []))
    if shared:
      raise UserError(
        f"{root}: {counted(len(shared), 'class')} in both {paths['train']} and {paths[kind]}, such "
        f"as '{shared[0]}', but the classes of the test must be unseen: pass "
        "--config.data.split_folders=pool to put the images of each class together and split whole "
        "classes (data.train_fraction), or keep each class in one folder"
      )


def _refuse_aliases(root: Path, folders: Sequence[ClassFolder]) -> None:
  """Raises UserError where a link makes two classes of one folder: one may train, one test."""
  first: dict[str, str] = {}
  for folder in folders:
    other = first.setdefault(os.path.realpath(root / folder.path), folder.path)
    if other != folder.path:
      names = f"{listing.shown(other)} and {listing.shown(folder.path)}"
      raise UserError(f"{root}: {names} are one folder, by a link: remove one of them")


def _shared(one: Sequence[ClassFolder], other: Sequence[ClassFolder]) -> list[str]:
  """The names that are in both, however they are written."""
  return sorted({_key(folder) for folder in one} & {_key(folder) for folder in other})


def _key(folder: ClassFolder) -> str:
  # iNaturalist 2018 numbers its species within super-categories.
  name = f"{folder.above} {folder.name}" if folder.name.isdecimal() else folder.name
  return common.folded(own.clean_names([name])[0])


def _merged(folders: Sequence[ClassFolder]) -> list[ClassFolder]:
  """One for each class, with the images of all folders of its name."""
  classes: dict[tuple[str, str], ClassFolder] = {}
  for folder in folders:
    before = classes.get(key := (folder.above, folder.name))
    files = (*before.files, *folder.files) if before else folder.files
    classes[key] = (before or folder)._replace(files=files)
  return list(classes.values())


def _ordered(classes: Sequence[ClassFolder]) -> list[ClassFolder]:
  """By name; names of digits alone by number."""
  numbers = all(folder.name.isdecimal() for folder in classes)
  return sorted(classes, key=lambda c: (int(c.name) if numbers else 0, c.name, c.above))


def _class_folders(tree: _Tree, below: str) -> list[ClassFolder]:
  """The class folders in the folder `below` of the root that hold images, ordered."""
  start, prefix = tree.root / below, f"{below}/" if below else ""
  top = tree.lists(start)
  depth = tree.depth or _depth(start, {name: tree.lists(start / name) for name in top.folders})
  found: list[tuple[ClassFolder, Listing]] = []
  loose = [prefix + name for name in top.images]
  for name in top.folders:
    inner = tree.lists(start / name)
    if depth == 1:
      found.append((_class_folder(prefix + name, "", inner), inner))
      continue
    loose += [f"{prefix}{name}/{image}" for image in inner.images]
    for deeper in inner.folders:
      content = tree.lists(start / name / deeper)
      found.append((_class_folder(f"{prefix}{name}/{deeper}", name, content), content))
  _tell(tree, loose, found)
  odd = {prefix + x: what for x, what in top.others.items() if what != listing.NO_IMAGE}
  tree.left_out.extend(listing.said(odd))
  classes = [folder for folder, _ in found if folder.files]
  if not classes:
    raise _without_images(tree, start, depth)
  return _ordered(classes)


def _without_images(tree: _Tree, start: Path, depth: int) -> UserError:
  """What there is in place of class folders with images."""
  message = f"{start} has no images in folders named after classes (data.depth={depth})"
  found = [name for name in listing.images_below(start)[0] if name.count("/") > depth]
  if found:
    tree.left_out.append(
      f"there are images deeper, such as {listing.shown(found[0])}: pass as --config.data.root the "
      "folder that holds the class folders"
    )
  return UserError("; ".join([message, *tree.left_out]))


def _class_folder(path: str, above: str, content: Listing) -> ClassFolder:
  return ClassFolder(path, above, tuple(f"{path}/{name}" for name in content.images))


def _depth(start: Path, folders: dict[str, Listing]) -> int:
  with_images = [name for name, content in folders.items() if content.images]
  deeper = [name for name, content in folders.items() if content.folders and not content.images]
  if with_images and deeper:
    raise UserError(
      f"{start}: {with_images[0]} holds images and {deeper[0]} only folders: pass "
      "--config.data.depth=1 if the former is a class, 2 if it is a super-category"
    )
  return 2 if deeper else 1


def _tell(tree: _Tree, loose: Sequence[str], found: Sequence[tuple[ClassFolder, Listing]]) -> None:
  """Counts what lies beside and within class folders and is not read."""
  empty = [folder.path for folder, _ in found if not folder.files]
  nested = [f"{folder.path}/{name}" for folder, content in found for name in content.folders]
  for names, noun, what in (
    (loose, "image", "left out, beside the class folders"),
    (empty, "class folder", "without images left out"),
    (nested, "folder", "within class folders left out"),
  ):
    if names:
      example = listing.shown(names[0])
      tree.left_out.append(f"{counted(len(names), noun)} {what}, such as {example}")
  others = {
    f"{folder.path}/{name}": what
    for folder, content in found
    for name, what in content.others.items()
  }
  tree.left_out.extend(listing.said(others))


def _pool(
  root: Path, split: str, classes: Sequence[ClassFolder], everything: Sequence[ClassFolder]
) -> Dataset:
  """The images of `classes`, named so that names are unique among `everything`."""
  raw = [folder.name for folder in everything]
  numbered = all(folder.above and folder.name.isdecimal() for folder in everything)
  # iNaturalist 2018 numbers its species: only the super-category says what a class is.
  names = [f"{f.above} {f.name}" for f in everything] if numbered else own.clean_names(raw)
  name_of = {folder.path: name for folder, name in zip(everything, names, strict=True)}
  common.check_names(root, name_of, own=True)
  ids = [file for folder in classes for file in folder.files]
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
