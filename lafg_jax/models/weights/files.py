"""Where pretrained weights lie: a folder, a file, a hub id, or a URL that fsspec reads (gs://)."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.models.weights import from_vit_jax
from lafg_jax.utils import places
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint

# The image tower of the shipped text encoder, of 48 px.
SHIPPED = "tiny_clip"
_WEIGHTS = "model.safetensors"
# What a CLIP of both towers may be called: transformers' name, then open_clip's.
WHOLE = (_WEIGHTS, "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def find(source: str, names: tuple[str, ...] = (_WEIGHTS,)) -> list[str]:
  """Local paths of the weights: one file, or the shards that an index names.

  Args:
    source: a .safetensors or .npz file, a folder or hub id with model.safetensors or
      model.safetensors.index.json, a URL of either, or 'tiny_clip' (shipped).
    names: that a folder's weights may have; the first that is there is taken.

  Raises:
    UserError: nothing is there, a shard is missing, or the hub or the URL cannot be reached.
  """
  folder, name = _split(source)
  for file in (name,) if name else names:
    path = fetch(source, file)
    if path:
      return [path]
    index = None if name else read_json(source, f"{file}.index.json")
    if index is not None:
      return _shards(source, f"{file}.index.json", index)
  if name:
    raise fault(source, "no such file")
  kind = "the folder" if os.path.isdir(folder) or places.is_url(folder) else "it"
  raise fault(
    source,
    f"{kind} has no {' or '.join(names)}; weights in other formats are saved again by "
    "transformers' save_pretrained",
  )


def _shards(source: str, name: str, index: dict[str, Any]) -> list[str]:
  """Local paths of the files that an index names."""
  shards = index.get("weight_map")
  if not isinstance(shards, dict) or not shards:
    raise fault(source, f"{name} has no weight_map")
  paths = {shard: fetch(source, shard) for shard in sorted(set(map(str, shards.values())))}
  missing = [shard for shard, found in paths.items() if not found]
  if missing:
    raise fault(source, f"{len(missing)} shards are missing, first {missing[0]}")
  return [found for found in paths.values() if found]


def read_json(source: str, name: str) -> dict[str, Any] | None:
  """The JSON object `name` beside the weights; None where the source has none.

  Raises:
    UserError: it is not a JSON object, or the hub or the URL cannot be reached.
  """
  path = fetch(source, name)
  if path is None:
    return None
  try:
    with open(path, encoding="utf-8") as file:
      value = json.load(file)
  except (ValueError, OSError) as error:
    raise fault(source, f"{name} cannot be read: {error}") from error
  if not isinstance(value, dict):
    raise fault(source, f"{name} is no JSON object")
  return value


class Tensor(NamedTuple):
  """One tensor of a file, not read yet."""

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


@contextlib.contextmanager
def opened(source: str, names: tuple[str, ...] = (_WEIGHTS,)) -> Iterator[dict[str, Tensor]]:
  """{name: Tensor} of a source; a tensor is read when its `read` is called. `names`: as in `find`.

  Raises:
    UserError: as `find`, or a file is not in the safetensors format.
  """
  from safetensors import SafetensorError, safe_open

  paths = find(source, names)
  if paths[0].endswith(".npz"):
    arrays = from_vit_jax.read(paths[0])[0]
    yield {name: Tensor(x.shape, functools.partial(np.asarray, x)) for name, x in arrays.items()}
    return
  with contextlib.ExitStack() as stack:
    tensors: dict[str, Tensor] = {}
    for path in paths:
      try:
        file = stack.enter_context(safe_open(path, "np"))
      except (SafetensorError, OSError) as error:
        raise UserError(f"--config.model.pretrained: {path} cannot be read: {error}") from error
      for name in file.keys():
        shape = tuple(file.get_slice(name).get_shape())
        tensors[name] = Tensor(shape, functools.partial(_read, file, name, path))
    yield tensors


def _read(file: Any, name: str, path: str) -> np.ndarray:
  try:
    return file.get_tensor(name)
  except (AttributeError, TypeError) as error:
    # float8 and its like, which NumPy has no type for.
    kind = file.get_slice(name).get_dtype()
    hint = "save the weights as float32, float16 or bfloat16"
    raise UserError(f"--config.model.pretrained: {path}: {name} is {kind}; {hint}") from error


def fetch(source: str, name: str) -> str | None:
  """The local path of the source's file `name`, downloaded if needed; None: it has no such file."""
  folder, file = _split(source)
  if places.is_url(folder):
    return places.download(f"{folder}/{name}", "--config.model.pretrained=")
  if file or os.path.isdir(folder):
    path = os.path.join(folder, name)
    return path if os.path.isfile(path) else None
  problem = fault(
    source,
    f"no such file or folder, and the hub did not give it ({{}}); pass a folder with {_WEIGHTS}, "
    "or train from scratch with --config.model.pretrained=",
  )
  return places.hub_file(source, name, str(problem))


def local(source: str) -> str | None:
  """The path of a source that lies on this machine; None for '', a hub id or a URL."""
  path = os.path.join(*_split(source)) if source else ""
  return path if path and os.path.exists(path) else None


def content_hash(source: str, names: tuple[str, ...] = (_WEIGHTS,)) -> str | None:
  """Hash of the files of a source, as `find` has them; None for '', a hub id or a URL."""
  return fingerprint([Path(path) for path in find(source, names)]) if local(source) else None


def _split(source: str) -> tuple[str, str]:
  """Folder (or hub id) and, where the source is one file, its name."""
  if source == SHIPPED:
    return str(Path(__file__).parents[2] / "finches" / SHIPPED), ""
  if os.path.isdir(source):
    return source, ""
  if os.path.isfile(source) or source.endswith((".safetensors", ".npz")):
    folder, _, name = source.rpartition("/")
    return folder, name
  return source.rstrip("/"), ""


def fault(source: str, what: str) -> UserError:
  """The error of a source that cannot be used, in one line."""
  return UserError(f"--config.model.pretrained={source}: {what}")
