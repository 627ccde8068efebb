"""What people hand to a retriever: images in any form, vectors and texts, by plain rules.

One image is a path (str, Path, file://, ~), the bytes of a file, an open file, a Pillow image, or
an array [H, W] or [H, W, C] with C = 1, 3 or 4. Several are a list, an iterator or an array of
these, an array [B, H, W, C], or a folder. Arrays are of NumPy, JAX, torch or whatever has
`__array__`.

Vectors are floats on one or two axes, [D] or [n, D], also in a list. Only searching and reading
attributes take them; embedding takes such an array as a grey image.
"""

import itertools
import numbers
import os
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jax import dtypes
from PIL import Image

from lafg_jax.data import images as image_files
from lafg_jax.data import listing
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise

TAKEN = (
  "embed takes a path, the bytes or an open file of an image, a Pillow image, an array [H, W], "
  "[H, W, C] or [B, H, W, C] with C = 1, 3 or 4 (uint8, or float in [0, 1]), a list or an iterator "
  "of these, or a folder"
)
_TEXTS = "embed_text takes a sentence, or a list, an array or an iterator of sentences"
_CHANNELS = (1, 3, 4)
# Closer to 1 than this, the length of a float32 vector is that of a unit vector.
_UNIT = 1e-5


def list_images(root: str | os.PathLike) -> list[str]:
  """Paths of the images at any depth of a folder, sorted: the order in which `embed` takes them.

  Files are told by their endings, those of all formats that Pillow decodes. Hidden files and
  folders are left out.

  Raises:
    UserError: it is no folder, cannot be listed, or holds no image.
  """
  path = _path(root)
  if not os.path.isdir(path):
    raise UserError(f"{path} is not a folder")
  found, _ = listing.images_below(path)
  if not found:
    raise UserError(f"{path} holds no image, at any depth")
  return [os.path.join(path, name) for name in found]


def each(given: Any) -> Iterator[Any]:
  """Every image of what was given, in order and one at a time, as `images.open_any` takes it.

  Raises:
    UserError: at the first that is no image; the message lists what is taken.
  """
  given = _plain(given)
  if isinstance(given, str | os.PathLike) and os.path.isdir(_path(given)):
    yield from list_images(given)
  elif isinstance(given, np.ndarray):
    yield from _of_array(given, "the array")
  elif is_one(given):
    yield _file(given, "the image")
  elif _has_order(given):
    for row, item in enumerate(given):
      yield from _of_item(_plain(item), f"image {row}")
  else:
    raise _refused(given, "the input")


def is_one(given: Any) -> bool:
  """Whether it is one image and no list, batch or folder."""
  if isinstance(given, str | os.PathLike):
    return not os.path.isdir(_path(given))
  if isinstance(given, bytes | bytearray | memoryview | Image.Image):
    return True
  if hasattr(given, "__array__") and not isinstance(given, str):
    return np.ndim(given) in (2, 3)
  return hasattr(given, "read")


def _has_order(given: Any) -> bool:
  sequence = hasattr(given, "__len__") and hasattr(given, "__getitem__")
  return (isinstance(given, Iterable) or sequence) and not isinstance(given, Mapping | Set)


def texts(given: Any) -> list[str]:
  """Sentences of what was given: one, or a list, an array or an iterator of them.

  Raises:
    UserError: at the first that is no text, says nothing, or has half a character.
  """
  if isinstance(given, str):
    given = [given]
  if isinstance(given, bytes | bytearray) or hasattr(given, "read") or not _has_order(given):
    raise UserError(f"the input is a {_type(given)}; {_TEXTS}")
  found = []
  for row, item in enumerate(given):
    if not isinstance(item, str):
      raise UserError(f"text {row} is a {_type(item)}; {_TEXTS}")
    if not item.strip():
      raise UserError(f"text {row} is empty; {_TEXTS}")
    try:
      item.encode()
    except UnicodeEncodeError as error:
      raise UserError(f"text {row} has half a character, a lone surrogate: {error}") from error
    # A plain str: NumPy has its own.
    found.append(str(item))
  return found


def vectors(given: Any, width: int, what: str) -> tuple[np.ndarray | None, Any]:
  """Vectors [n, width] of unit length, float32; or None, and the images that were given instead.

  Args:
    given: whatever was passed as queries, gallery or images; an iterator is read up to its first
      element, or to its end where that is a vector.
    width: D of the model.
    what: they are, for messages.

  Raises:
    UserError: vectors are of another width, not finite, of length 0, or mixed with images.
  """
  given = _plain(given)
  if isinstance(given, np.ndarray):
    return (_checked(given, width, what) if _is_vector(given) else None), given
  if not isinstance(given, list | tuple | Iterator) or hasattr(given, "read"):
    return None, given
  items = iter(given)
  first = list(itertools.islice(items, 1))
  if not first or not _is_vector(_numeric(first[0])):
    return None, itertools.chain(first, items) if isinstance(given, Iterator) else given
  rows = [_numeric(item) for item in itertools.chain(first, items)]
  if not all(map(_is_vector, rows)):
    raise UserError(f"{what}: images and vectors are mixed in one list; pass one kind")
  if not any(row.ndim for row in rows):
    return _checked(np.array(rows, np.float64), width, what), given
  widths = {row.shape[-1] if row.ndim else 1 for row in rows}
  if widths != {width}:
    raise _width(f"of {', '.join(map(str, sorted(widths)))} numbers", width, what)
  return _checked(np.concatenate([np.atleast_2d(row) for row in rows]), width, what), given


def whole(k: Any, of: str) -> int:
  """`k` as an int of 1 or more. Raises UserError, which says what it counts."""
  if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
    raise UserError(f"{of} is {k!r}; it takes a whole number of 1 or more")
  return int(k)


def _checked(x: np.ndarray, width: int, what: str) -> np.ndarray:
  x = np.atleast_2d(x) if x.shape != (0,) else x.reshape(0, width)
  if x.shape[1] != width:
    raise _width(str(x.shape), width, what)
  x = np.asarray(x, np.float32 if x.dtype.itemsize <= 4 else np.float64)
  if x.dtype == np.float32 and len(x):
    lengths = np.sqrt(np.einsum("nd,nd->n", x, x))
    # What `embed` gives passes through, with all its bits.
    if np.all(np.abs(lengths - 1) < _UNIT):
      return x
  return l2_normalise(x, what)


def _width(found: str, width: int, what: str) -> UserError:
  hint = "a grey image of floats goes in as [H, W, 1]"
  return UserError(f"{what}: vectors are {found}, and this model's are [n, {width}]; {hint}")


def _is_vector(x: Any) -> bool:
  return isinstance(x, np.ndarray) and x.ndim <= 2 and dtypes.issubdtype(x.dtype, np.floating)


def _numeric(item: Any) -> Any:
  """A number, or a list of numbers, as a float array; other things as `_plain` has them."""
  first = item[0] if isinstance(item, list | tuple) and item else item
  if isinstance(first, numbers.Real) and not isinstance(first, bool):
    try:
      return np.asarray(item, np.float64)
    except (TypeError, ValueError):
      return item
  return _plain(item)


def _plain(given: Any) -> Any:
  """Arrays of any library as NumPy's; the rest as it is."""
  # NumPy's own str and bytes have an `__array__` too.
  known = isinstance(given, np.ndarray | Image.Image | str | bytes)
  if known or not hasattr(given, "__array__"):
    return given
  try:
    return np.asarray(given)
  except Exception as error:
    # torch: a tensor on a GPU, or one that wants its gradient; jax: a traced array.
    why = " ".join(str(error).split())
    raise UserError(f"a {_type(given)} does not become a NumPy array: {why}") from error


def _of_item(item: Any, name: str) -> Iterator[Any]:
  """The image of an element of a list, or those of a batch."""
  if isinstance(item, np.ndarray):
    yield from _of_array(item, name)
  elif isinstance(item, str | os.PathLike) and os.path.isdir(_path(item)):
    raise UserError(f"{name} is a folder, {_path(item)}: pass it alone, or list_images(folder)")
  elif is_one(item):
    yield _file(item, name)
  else:
    raise _refused(item, name)


def _file(item: Any, name: str) -> Any:
  """One image that is no array: a path, bytes, or a Pillow image."""
  if isinstance(item, str | os.PathLike):
    path = _path(item)
    if not os.path.splitext(path)[1] and not os.path.lexists(path):
      hint = "words are no image (embed_text and search(text=...) take them)"
      raise UserError(f"{name}: there is no file {path}, and {hint}; {TAKEN}")
    return path
  if isinstance(item, Image.Image):
    return item
  if not hasattr(item, "read"):
    return bytes(item)
  try:
    if getattr(item, "seekable", lambda: False)():
      # As Pillow does: an image that was just written into a buffer is read from its start.
      item.seek(0)
    content = item.read()
  except (OSError, ValueError) as error:
    raise UserError(f"{name}: the open file cannot be read: {error}") from error
  if not isinstance(content, bytes):
    raise UserError(f"{name} is a file opened as text: open it with mode 'rb'")
  return content


def _path(given: str | os.PathLike) -> str:
  """A path of this machine from a str, Path, file:// URL or one with '~'."""
  path = os.fsdecode(given)
  if path.startswith("file://"):
    return urllib.request.url2pathname(urllib.parse.urlsplit(path).path)
  if "://" in path and not os.path.exists(path):
    raise UserError(f"{path}: embed takes files of this machine; download it first")
  if not path:
    raise UserError(f"a path is empty; {TAKEN}")
  path = os.path.expanduser(path)
  if any(x in path for x in "*?") and not os.path.lexists(path):
    raise UserError(f"{path} does not exist, and patterns are not expanded: pass sorted(glob(...))")
  return path


def _of_array(x: np.ndarray, name: str) -> Iterator[Any]:
  """The images of one array, uint8 [H, W, 3] or Pillow images of other modes."""
  if x.ndim <= 1 and (x.dtype.kind in "SUO" or x.shape == (0,)):
    # Bytes of a fixed length are paths, as HDF5 keeps them.
    items = map(os.fsdecode, np.atleast_1d(x)) if x.dtype.kind == "S" else np.atleast_1d(x)
    for row, item in enumerate(items):
      yield from _of_item(_plain(item), f"image {row}")
    return
  batch = x.ndim == 4
  channels = x.shape[-1] if x.ndim > 2 else 1
  if x.ndim not in (2, 3, 4) or channels not in _CHANNELS or (0 in x.shape and not batch):
    raise _refused_array(x, name)
  for image in x if batch else [x]:
    if 0 in image.shape:
      raise _refused_array(x, name)
    image = _bytes(image, name)
    if channels == 1:
      image = image.reshape(image.shape[:2])
    # An array of three colours needs no conversion; others go the way of files of their mode.
    yield image if channels == 3 else Image.fromarray(image)


def _bytes(image: np.ndarray, name: str) -> np.ndarray:
  """uint8 of an array that is uint8, or float in [0, 1]."""
  if image.dtype == np.uint8:
    return np.ascontiguousarray(image)
  if not dtypes.issubdtype(image.dtype, np.floating):
    raise _refused_array(image, name)
  image = np.asarray(image, np.float32)
  low, high = float(image.min()), float(image.max())
  # Resizing leaves values a little outside; NaN compares as False.
  if not (low >= -1e-3 and high <= 1 + 1e-3):
    where = f"from {low:.4g} to {high:.4g}" if np.isfinite([low, high]).all() else "not finite"
    hint = "divide by 255, or undo a normalisation by mean and std"
    raise UserError(f"{name}: its floats are {where}, and an image's are in [0, 1]: {hint}")
  return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _refused_array(x: np.ndarray, name: str) -> UserError:
  hint = ""
  if x.ndim in (3, 4) and x.shape[-1] not in _CHANNELS:
    first = x.shape[-3] in _CHANNELS
    hint = "colours come last, " if first else "a batch of grey images is [B, H, W, 1], "
  return UserError(f"{name} is {x.dtype} {x.shape}: {hint}{TAKEN}")


def _refused(given: Any, name: str) -> UserError:
  return UserError(f"{name} is a {_type(given)}; {TAKEN}")


def _type(given: Any) -> str:
  return type(given).__name__


def opened(image: Any, box: Any, colour: tuple[int, int, int]) -> Any:
  """An image of `each`, as crops take it, cut to its box and on the ground `colour`.

  Raises UserError if it is unreadable.
  """
  try:
    return image_files.open_any(image, box, colour)
  except image_files.UnreadableImage as error:
    raise UserError(" ".join(str(error).split())) from error


def ahead(
  pool: ThreadPoolExecutor, crop: Callable[..., Any], shown: Iterator[Any], size: int
) -> Iterator[list[Any]]:
  """Crops, `size` at a time; the next files are decoded while those before are embedded."""

  def start(one: tuple[Any, Any]) -> Callable[[], Any]:
    if isinstance(one[0], str | bytes | os.PathLike):
      return pool.submit(crop, one).result
    # An iterator may give the same array or picture again, with other pixels.
    done = crop(one)
    return lambda: done

  waiting: deque[list[Callable[[], Any]]] = deque()
  while batch := [start(one) for one in itertools.islice(shown, size)]:
    waiting.append(batch)
    if len(waiting) > 1:
      yield [crops() for crops in waiting.popleft()]
  while waiting:
    yield [crops() for crops in waiting.popleft()]
