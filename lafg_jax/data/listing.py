"""What is in a folder of images, by kind; nothing is opened.

Links that lead nowhere, pipes, sockets, devices and folders that may not be read are told apart
from images and folders, so that no reader waits for one or goes round in a circle.
"""

import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# Pillow knows these formats, but decodes them only with other software, such as Ghostscript.
NO_DECODER = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
# What operating systems, network storage and notebooks leave in folders, in lower case. Names that
# begin with a dot are ignored too.
_IGNORED = (
  *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__"),
  *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"),
  *("$recycle.bin", "recycler", "system volume information", "found.000", "lost+found"),
)
NO_IMAGE = "a file that is no image"
_FOREIGN = "a picture of a format that is not read (make a JPEG or PNG of it)"
# Of phones, cameras and drawing programs.
_FOREIGN_ENDINGS = frozenset(
  ".heic .heif .hif .cr2 .cr3 .crw .nef .nrw .arw .dng .orf .rw2 .raf .pef .srw .raw .jxl .svg "
  ".xcf .exr .hdr .eps .ai .wmf .emf".split()
)


class Listing(NamedTuple):
  """The content of a folder; each kind sorted by name."""

  folders: list[str]
  images: list[str]  # files with the ending of a format that Pillow decodes, and links to some
  others: dict[str, str]  # name -> what it is, such as NO_IMAGE or 'a link that leads nowhere'


def of(folder: str | os.PathLike[str], leave_out: bool = False) -> Listing:
  """The content of a folder, without what systems leave there.

  leave_out: count names that are not UTF-8 among the others, as '\\udc..' spells their bytes.
  Raises UserError where it cannot be listed, or, without `leave_out`, where a name is not UTF-8.
  """
  try:
    with os.scandir(os.fspath(folder)) as entries:
      found = sorted((e for e in entries if not _ignored(e.name)), key=lambda entry: entry.name)
  except OSError as error:
    raise UserError(f"{folder} cannot be listed: {error.strerror}") from error
  listing = Listing([], [], {})
  for entry in found:
    if not _is_utf8(entry.name):
      if not leave_out:
        raise UserError(f"{folder} holds a name that is not UTF-8, {entry.name!a}: rename it")
      spelled = entry.name.encode("utf-8", "backslashreplace").decode()
      listing.others[spelled] = "a name that is not UTF-8"
      continue
    kind = _kind(entry)
    if kind == "folder":
      listing.folders.append(entry.name)
    elif kind == "image":
      listing.images.append(entry.name)
    else:
      listing.others[entry.name] = kind
  return listing


def files_in(folder: str | os.PathLike[str]) -> list[str]:
  """The names of the files of a folder, and of links to files; [] where it cannot be listed."""
  try:
    with os.scandir(os.fspath(folder)) as entries:
      return [entry.name for entry in entries if _is(entry.is_file)]
  except OSError:
    return []


def images_below(
  folder: str | os.PathLike[str], leave_out: bool = False
) -> tuple[list[str], dict[str, str]]:
  """The images at any depth below a folder, and what is left out, as `Listing.others` has it.

  Paths are relative to the folder, sorted. Links to folders are followed, and each folder is
  listed once, however many links lead to it. `leave_out` and what is raised are as in `of`.
  """
  images: list[str] = []
  others: dict[str, str] = {}
  seen, waiting = {os.path.realpath(folder)}, [""]
  while waiting:
    below = waiting.pop()
    listing = of(os.path.join(folder, below) if below else folder, leave_out)
    images += (os.path.join(below, name) for name in listing.images)
    others |= {os.path.join(below, name): what for name, what in listing.others.items()}
    for path in (os.path.join(below, name) for name in listing.folders):
      real = os.path.realpath(os.path.join(folder, path))
      if real in seen:
        others[path] = "a second link to a folder"
      else:
        seen.add(real)
        waiting.append(path)
  return sorted(images), others


def said(others: Mapping[str, str]) -> list[str]:
  """What was left out, a line for each kind: how many, and one of them."""
  first: dict[str, str] = {}
  for path, what in others.items():
    first.setdefault(what, path)
  lines = []
  for what, count in Counter(others.values()).items():
    each = "each " if count > 1 else ""
    lines.append(f"{counted(count, 'entry')} left out, {each}{what}, such as {shown(first[what])}")
  return lines


def shown(name: str) -> str:
  """A name for a message of one line."""
  return name if name.isprintable() else ascii(name)


@functools.cache
def endings() -> frozenset[str]:
  """Of the image files that Pillow decodes by itself, in lower case."""
  from PIL import Image

  Image.init()
  known = Image.registered_extensions().items()
  return frozenset(x for x, kind in known if kind in Image.OPEN and kind not in NO_DECODER)


def has_ending(name: str) -> bool:
  """Whether a file has the ending of an image."""
  return os.path.splitext(name)[1].lower() in endings()


def _kind(entry: os.DirEntry) -> str:
  """'folder', 'image', or what else it is."""
  if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in entry.name):
    return "a name with a line break or another control character"
  # For links alone these calls read the disk again.
  if _is(entry.is_dir):
    if entry.is_symlink() and _is_above(entry.path):
      return "a link to a folder that it lies in"
    return "folder" if os.access(entry.path, os.R_OK | os.X_OK) else "a folder without permission"
  if _is(entry.is_file):
    if has_ending(entry.name):
      return "image"
    ending = os.path.splitext(entry.name)[1].lower()
    return _FOREIGN if ending in _FOREIGN_ENDINGS else NO_IMAGE
  if entry.is_symlink() and not os.path.exists(entry.path):
    return "a link that leads nowhere"
  return "a pipe, socket or device"


def _is(question: Callable[[], bool]) -> bool:
  """False where a link leads round in a circle, or through a folder without permission."""
  try:
    return question()
  except OSError:
    return False


def _is_utf8(name: str) -> bool:
  try:
    name.encode()
  except UnicodeEncodeError:
    return False
  return True


def _is_above(link: str) -> bool:
  here, target = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
  return target in (here, *map(str, Path(here).parents))


def _ignored(name: str) -> bool:
  return name.startswith(".") or name.lower() in _IGNORED
