"""Pretrained backbones: the tensors of a source, renamed into our parameter tree (family.py)."""

import math
import re
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import traverse_util

from lafg_jax.models.weights import family as families
from lafg_jax.models.weights import files as weight_files
from lafg_jax.models.weights import resample, resolve
from lafg_jax.models.weights.family import Family, Place
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# How many problems an error lists; the log has them all.
SHOWN = 6


def load_backbone(
  source: str, template: dict[str, Any], grid: tuple[int, int] | None = None
) -> dict[str, Any]:
  """The `backbone` parameters from published weights, in the shapes of `template`, float32.

  Args:
    source: as `files.find` takes it.
    template: parameters of the backbone that the config describes; only names and shapes are used.
    grid: rows and columns of patches that position embeddings are resampled to, for a `ViT` of
      images that are not square; None is square, as the images of every config are.

  Raises:
    UserError: nothing there, no network, or tensors missing, left over or of another shape.
  """
  with weight_files.opened(source) as files:
    family = resolve.detect(source, resolve.source_config(source), files)
    flat = traverse_util.flatten_dict(template, sep="/")
    tensors = {name.removeprefix(family.prefix): tensor for name, tensor in files.items()}
    problems, loaded, used = [], {}, set()
    for path, like in flat.items():
      where = families.place(family, path)
      if where is None or where.name not in tensors:
        problems.append(f"missing {where.name if where else path}")
        continue
      used.add(where.name)
      x = np.asarray(tensors[where.name].read(), np.float32)
      if family.names:
        x = _ours(path, x, where, np.shape(like))
      if path == "position_embedding":
        x = _resampled(x, np.shape(like), int("class_token" in flat), grid, family)
      if x.shape != np.shape(like):
        problems.append(f"{where.name} is {_by(x.shape)}, not {_by(np.shape(like))}")
      loaded[path] = x
    unused = re.compile(family.unused)
    problems += [
      f"left over {name}"
      for name, tensor in tensors.items()
      # A model without registers may keep an empty tensor of them.
      if name not in used and not unused.search(name) and 0 not in tensor.shape
    ]
  if problems:
    for problem in problems:
      logging.error("%s: %s", source, problem)
    shown = "; ".join(problems[:SHOWN]) + ("; ... as logged" if len(problems) > SHOWN else "")
    raise UserError(
      f"--config.model.pretrained={source} does not fit the model, "
      f"{counted(len(problems), 'problem')} ({shown}): check model.size, "
      "model.patch_size, model.pool and data.image_size"
    )
  logging.info("backbone: %d tensors of %s from %s", len(used), family.name, source)
  return traverse_util.unflatten_dict({p: jax.numpy.asarray(x) for p, x in loaded.items()}, sep="/")


def image_projection(source: str, width: int) -> np.ndarray:
  """[width, d] float32: the matrix from features of a CLIP's image tower to the space of its texts.

  Of SigLIP, whose image features are in that space, it is the identity.

  Raises:
    UserError: as `load_backbone`, or the source has no space of texts.
  """
  with weight_files.opened(source) as files:
    family = resolve.detect(source, resolve.source_config(source), files)
    if family.projection in files:
      return np.asarray(files[family.projection].read(), np.float32).T
    if family.projection == families.IDENTITY:
      return np.eye(width, dtype=np.float32)
  raise UserError(
    "--config.loss.projector_init=pretrained: it takes a model.pretrained with a projection to "
    f"texts (a whole CLIP, SigLIP), and {source} has none; pass random"
  )


def _by(shape: tuple[int, ...]) -> str:
  return " x ".join(map(str, shape))


def _ours(path: str, x: np.ndarray, where: Place, shape: tuple[int, ...]) -> np.ndarray:
  """Our parameter from a tensor of theirs: its part, transposed if it is a kernel."""
  if where.parts > 1 and x.ndim and len(x) % where.parts == 0:
    rows = len(x) // where.parts
    x = x[(where.part - 1) * rows : where.part * rows]
  if path.endswith("kernel"):
    # Convolutions are [out, in, h, w] there and [h, w, in, out] here.
    x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
  if "/attention/" in path:
    # Attention splits the width into heads: the same numbers, one axis more.
    return x.reshape(shape) if x.size == np.prod(shape) else x
  # CLIP and SigLIP keep tokens and positions without the leading axis of length 1.
  return x.reshape((1,) * (len(shape) - x.ndim) + x.shape) if len(shape) == 3 else x


def _resampled(
  x: np.ndarray, shape: tuple[int, ...], prefix: int, grid: tuple[int, int] | None, family: Family
) -> np.ndarray:
  """Positions [1, prefix + h * h, W] for another grid; those of another form stay as they are."""
  if prefix and round(x.shape[1] ** 0.5) ** 2 == x.shape[1]:
    # timm's ViTs with registers give the class token no position.
    x = np.concatenate([np.zeros_like(x[:, :1]), x], axis=1)
  side, count = (round(max(n - prefix, 0) ** 0.5) for n in (x.shape[1], shape[1]))
  new = grid or (count, count)
  fits = side**2 == x.shape[1] - prefix and math.prod(new) == shape[1] - prefix
  if not fits or not family.kernel or new == (side, side):
    return x
  logging.info("backbone: positions of %d x %d patches resampled to %d x %d", side, side, *new)
  patches = resample.resample(x[0, prefix:].reshape(side, side, -1), new, family.kernel)
  return np.concatenate([x[:, :prefix], patches.reshape(1, -1, x.shape[2])], axis=1)
