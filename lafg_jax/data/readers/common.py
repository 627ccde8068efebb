"""What the readers share: finding files, checking counts, putting a half together."""

import dataclasses
import math
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lafg_jax.config.table.data import LAYOUTS
from lafg_jax.data import listing
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

Box = tuple[float, ...]


class Image(NamedTuple):
  """One image of a list: where it is, and the key of its class."""

  path: str  # below the root, with '/'
  key: Any  # of its class, as the data set numbers or names it


class Published(NamedTuple):
  """The counts that a half of a data set is published with."""

  classes: int
  images: int


def root_folder(data: Any, file: str = "", inner: str = "") -> Path:
  """`data.root`, or the folder `inner` in it if only that can have `file`.

  Archives have a folder of their own: data.root may be that folder or the one above it. Raises
  UserError where data.root is not set, or is no folder.
  """
  if not data.root:
    raise UserError(f"data.root is not set: {_pass_layout(data)}")
  root = Path(data.root)
  if not root.is_dir():
    raise UserError(f"data.root={root} is not a folder: {_pass_layout(data)}")
  return root / inner if not (root / file).exists() and (root / inner).is_dir() else root


def require_file(path: Path, data: Any) -> None:
  """Raises UserError, which names the layout that is expected, where the file is missing."""
  if not path.is_file():
    raise UserError(f"{path} is missing: {_pass_layout(data)}")


def _pass_layout(data: Any) -> str:
  return f"pass --config.data.root=FOLDER with {LAYOUTS[data.name]}"


def read_rows(path: Path, data: Any, columns: int, skip: int = 0) -> list[list[str]]:
  """The lines of a text file, split at white space into `columns` fields each.

  The last field takes the rest of its line, so that a path may hold spaces. Empty lines and the
  first `skip` lines are left out. Raises UserError where the file is missing, is no text, or has a
  line with too few fields.
  """
  require_file(path, data)
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not a text file: fetch it again") from error
  rows = [line.strip().split(maxsplit=columns - 1) for line in lines]
  for number, fields in enumerate(rows[skip:], skip + 1):
    if fields and len(fields) != columns:
      raise UserError(f"{path} line {number}: {len(fields)} fields, not {columns}: fetch it again")
  return [fields for fields in rows[skip:] if fields]


def present(root: Path, images: Sequence[Image], data: Any) -> list[Image]:
  """The listed images that are on disk; an error where `data.expect_counts` wants them all."""
  folders = {os.path.dirname(image.path) for image in images}
  # Pipes, devices and links that lead nowhere are no files.
  on_disk = {
    f"{folder}/{file}" if folder else file
    for folder in folders
    for file in listing.files_in(root / folder)
  }
  missing = [image.path for image in images if image.path not in on_disk]
  if missing and data.expect_counts:
    odd = root / missing[0]
    wrong = "a link that leads nowhere" if odd.is_symlink() else "missing"
    raise UserError(
      f"{listing.shown(str(odd))} is listed but {wrong} ({counted(len(missing), 'image')} in all): "
      "complete the copy, or pass --config.data.expect_counts=False to leave them out"
    )
  if missing:
    logging.warning("%s: %s listed and not on disk: left out", root, counted(len(missing), "image"))
  return [image for image in images if image.path in on_disk]


def by_id(path: Path, data: Any, columns: int) -> dict[str, list[str]]:
  """{first field: the others} of a file whose lines begin with an id, no id twice."""
  found: dict[str, list[str]] = {}
  for key, *rest in read_rows(path, data, columns):
    if key in found:
      raise UserError(f"{path}: id {key} stands there twice: fetch it again")
    found[key] = rest
  return found


def box(path: Path, of: str, fields: Sequence[str], first: int = 0) -> Box:
  """The four finite numbers of a box, such as left, top, right and bottom.

  Args:
    path: file that the box stands in, for the error.
    of: whose box it is, for the error.
    fields: the numbers as texts.
    first: how the file numbers the first pixel. With 1, and right and bottom inside of the box,
      left and top become one less.
  """
  try:
    left, top, right, bottom = numbers = tuple(float(field) for field in fields)
  except ValueError:
    numbers = ()
  if not numbers or not all(map(math.isfinite, numbers)):
    raise UserError(f"{path}: the box of {of} is '{' '.join(fields)}', not four numbers")
  return left - first, top - first, right, bottom


def folded(name: str) -> str:
  """A name without case, hyphens, letters of full width and invisible signs."""
  name = unicodedata.normalize("NFKC", name).casefold()
  seen = "".join(sign for sign in name if unicodedata.category(sign) != "Cf")
  return " ".join(re.sub(r"[-\u2010-\u2015_]", " ", seen).split())


def check_names(where: str | Path, classes: Mapping[Any, str], own: bool = False) -> None:
  """Raises UserError where two classes, by their keys, have one name, or one has none.

  With `own` also where names are the same but for what `folded` removes: in a user's own data set
  they are one class that is written in two ways, of which one may train and the other test.
  """
  key_of: dict[str, Any] = {}
  name_of: dict[str, str] = {}
  for key, name in classes.items():
    if not name:
      raise UserError(f"{where}: class '{key}' has no name: give it one")
    if name in key_of:
      raise UserError(
        f"{where}: classes '{key_of[name]}' and '{key}' are both named '{name}': rename one"
      )
    key_of[name] = key
    other = name_of.setdefault(folded(name), name) if own else name
    if other != name:
      raise UserError(
        f"{where}: classes '{listing.shown(other)}' and '{listing.shown(name)}' differ in case, "
        "hyphens or width alone: put them together, or rename one"
      )


def check_listed_once(where: Path, images: Sequence[Image]) -> None:
  """Raises UserError where an image is listed twice, with the same class or with another."""
  key_of: dict[str, Any] = {}
  for image in images:
    if image.path in key_of:
      raise UserError(
        f"{where}: {image.path} is listed twice, for class {key_of[image.path]} and for class "
        f"{image.key}: fetch it again"
      )
    key_of[image.path] = image.key


def halves(
  name: str,
  root: Path,
  images: Sequence[Image],
  classes: Mapping[Any, str],
  train: Container[Any],
  boxes: Mapping[str, Box] | None = None,
) -> tuple[Dataset, Dataset]:
  """The training half, of the classes whose keys are in `train`, and the test half; see `half`."""
  ours = {key: name for key, name in classes.items() if key in train}
  rest = {key: name for key, name in classes.items() if key not in train}
  return (
    half(name, "train", root, images, ours, boxes=boxes),
    half(name, "test", root, images, rest, boxes=boxes),
  )


def half(
  name: str,
  split: str,
  root: Path,
  images: Sequence[Image],
  classes: dict[Any, str],
  super_classes: dict[Any, str] | None = None,
  boxes: Mapping[str, Box] | None = None,
) -> Dataset:
  """One side of the class split as a Dataset of paths.

  Args:
    name: of the data set.
    split: 'train' or 'test'.
    root: folder that the paths are below.
    images: images whose key is not in `classes` are left out.
    classes: {key: class name} in the order of the labels; classes without images are left out.
    super_classes: {key: what it is} where classes have no names of their own.
    boxes: {path below the root: left, top, right, bottom} where images are cropped.

  Raises:
    UserError: two classes have one name, an image is listed twice, or one has no box.
  """
  check_names(root, classes)
  check_listed_once(root, images)
  images = [image for image in images if image.key in classes]
  shown = None
  if boxes is not None:
    without = [image.path for image in images if image.path not in boxes]
    if without:
      raise UserError(
        f"{root} has no box for {counted(len(without), 'image')}, such as {without[0]}: fetch it "
        "again, or pass --config.data.box_crop=False"
      )
    shown = np.array([boxes[image.path] for image in images], np.float64).reshape(-1, 4)
  used = {image.key for image in images}
  keys = [key for key in classes if key in used]
  label = {key: k for k, key in enumerate(keys)}
  return Dataset(
    name=name,
    split=split,
    images=np.array([os.path.join(root, image.path) for image in images], dtype=np.str_),
    labels=np.array([label[image.key] for image in images], dtype=np.int32),
    class_names=tuple(classes[key] for key in keys),
    ids=tuple(image.path for image in images),
    super_classes=None if super_classes is None else tuple(super_classes[key] for key in keys),
    boxes=shown,
  )


def check_counts(
  data: Any,
  title: str,
  halves: tuple[Dataset, Dataset],
  published: tuple[Published, Published],
  mend: str = "complete the copy",
  queries: int = 0,
) -> tuple[Dataset, Dataset]:
  """The training and the test half, marked `partial` unless both have the published counts.

  `queries` test images are published as queries, the others as the gallery. Errors name the data
  set as `title`, and say by `mend` what to do.

  Raises:
    UserError: the counts differ under data.expect_counts, there is no training image, or a class
      name stands in both halves.
  """
  found = tuple(Published(len(half.class_names), len(half)) for half in halves)
  asking = 0 if halves[1].is_query is None else int(halves[1].is_query.sum())
  partial = found != tuple(published) or asking != queries
  shared = sorted(set(halves[0].class_names) & set(halves[1].class_names))
  if shared:
    raise UserError(
      f"{data.root}: {counted(len(shared), 'class')} in the training and in the test half, such as "
      f"'{shared[0]}': no class may be in both"
    )
  if partial and data.expect_counts:
    one, two = (
      f"{counted(count.images, 'image')} of {counted(count.classes, 'class')}" for count in found
    )
    asked, wanted = (f" ({x:,} of them queries)" if x else "" for x in (asking, queries))
    raise UserError(
      f"{data.root} has {one} for training and {two}{asked} for the test, not {title}'s "
      f"{published[0].images:,} of {published[0].classes:,} and {published[1].images:,} of "
      f"{published[1].classes:,}{wanted}: {mend}, or pass "
      "--config.data.expect_counts=False for a partial copy"
    )
  # A copy without test images can be trained on.
  if not len(halves[0]):
    raise UserError(f"{data.root} has no training image of {title}: {mend}")
  # A figure is comparable only where both halves are whole: one trains, the other is searched.
  train, test = (dataclasses.replace(half, partial=partial) for half in halves)
  return train, test


def read_mat(path: Path, data: Any, key: str) -> np.ndarray:
  """One variable of a MATLAB file; UserError where the file is missing or damaged, or lacks it."""
  from scipy.io import loadmat
  from scipy.io.matlab import MatReadError

  require_file(path, data)
  # scipy raises NotImplementedError for the HDF5 layout of MATLAB 7.3.
  unreadable = (OSError, ValueError, TypeError, NotImplementedError, IndexError, KeyError)
  try:
    content = loadmat(path, appendmat=False, variable_names=[key])
  except (*unreadable, EOFError, MemoryError, struct.error, zlib.error, MatReadError) as error:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path} cannot be read as a MATLAB file ({reason}): fetch it again") from error
  if key not in content:
    raise UserError(f"{path} has no '{key}': it is not a file of this data set")
  return content[key]
