"""Pretrained backbones: the tensors of a source, renamed into our parameter tree (family.py)."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from flax import traverse_util

from lafg_jax.models.weights import family as families
from lafg_jax.models.weights import files as weight_files
from lafg_jax.models.weights import resample, resolve, wrappers
from lafg_jax.models.weights.family import Family, Place
from lafg_jax.models.weights.files import Tensor
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
    config = resolve.source_config(source)
    family = resolve.detect(source, config, files)
    names = wrappers.unwrapped(source, family, files)
    patch = traverse_util.flatten_dict(template, sep="/").get("patch_embedding/patch/kernel")
    own = resolve.source_grid(config, np.shape(patch)[0]) if patch is not None else None
    tensors = {name: files[theirs] for name, theirs in names.of.items()}
    filled = fill(family, tensors, template, own, grid)
    spare = [name for name in tensors if name not in filled.used]
    problems = filled.problems + [
      f"left over {name}"
      for name in spare
      # A model without registers may keep an empty tensor of them.
      if not (name in names.beside or re.search(family.unused, name) or 0 in tensors[name].shape)
    ]
  refuse_problems(
    source, problems, "check model.size, model.patch_size, model.pool and data.image_size"
  )
  logging.info("backbone: %d tensors of %s from %s", len(filled.used), family.name, source)
  if spare:
    shown = ", ".join(sorted(spare)[:SHOWN]) + (", ..." if len(spare) > SHOWN else "")
    logging.info("backbone: left out: %s: %s", counted(len(spare), "other tensor"), shown)
  return filled.params


class Filled(NamedTuple):
  """Parameters in the form of a template, the tensors they are of, and what does not fit."""

  params: dict[str, Any]
  used: set[str]
  problems: list[str]


def fill(
  family: Family,
  tensors: Mapping[str, Tensor],
  template: dict[str, Any],
  own: tuple[int, int] | None = None,
  grid: tuple[int, int] | None = None,
) -> Filled:
  """The parameters that `template` has, float32, from tensors under the names of a family.

  Args:
    family: whose table of names is read.
    tensors: by the names that the family's files have.
    template: only names and shapes are used.
    own: rows and columns of patches of the tensors' position embeddings, where known.
    grid: those that the template's positions stand for; None is a square.
  """
  flat = traverse_util.flatten_dict(template, sep="/")
  problems, loaded, used = [], {}, set()
  for path, like in flat.items():
    where = families.place(family, path)
    if where is None or where.name not in tensors:
      problems.append(f"missing {where.name if where else path}")
      continue
    used.add(where.name)
    x = _floats(where.name, tensors[where.name].read(), problems)
    if family.names:
      x = _ours(path, x, where, np.shape(like))
    if path == "position_embedding":
      x = _resampled(x, np.shape(like), int("class_token" in flat), own, grid, family)
    if x.shape != np.shape(like):
      of_patches = path == "position_embedding" and bool(family.kernel)
      problems.append(_misfit(where.name, x.shape, np.shape(like), of_patches))
    loaded[path] = x
  params = jax.device_put(traverse_util.unflatten_dict(loaded, sep="/"))
  return Filled(params, used, problems)


def refuse_problems(source: str, problems: list[str], hint: str) -> None:
  """Raises UserError, which `hint` ends, where there are problems; the log has all of them."""
  if not problems:
    return
  for problem in problems:
    logging.error("%s: %s", source, problem)
  shown = "; ".join(problems[:SHOWN]) + ("; ... as logged" if len(problems) > SHOWN else "")
  raise UserError(
    f"--config.model.pretrained={source} does not fit the model, "
    f"{counted(len(problems), 'problem')} ({shown}): {hint}"
  )


def image_projection(source: str, width: int) -> np.ndarray:
  """[width, d] float32: the matrix from features of a CLIP's image tower to the space of its texts.

  Of SigLIP, whose image features are in that space, it is the identity.

  Raises:
    UserError: as `load_backbone`, or the source has no space of texts.
  """
  with weight_files.opened(source) as files:
    family = resolve.detect(source, resolve.source_config(source), files)
    names = wrappers.unwrapped(source, family, files).of
    if family.projection in names:
      return np.asarray(files[names[family.projection]].read(), np.float32).T
    if family.projection == families.IDENTITY:
      return np.eye(width, dtype=np.float32)
  raise UserError(
    "--config.loss.projector_init=pretrained: it takes a model.pretrained with a projection to "
    f"texts (a whole CLIP, SigLIP), and {source} has none; pass random"
  )


def _by(shape: tuple[int, ...]) -> str:
  return " x ".join(map(str, shape))


def _misfit(name: str, shape: tuple[int, ...], wanted: tuple[int, ...], of_patches: bool) -> str:
  why = f"{name} is {_by(shape)}, not {_by(wanted)}"
  if of_patches and len(shape) == 3 and shape[2] == wanted[2]:
    # A square grid would have been resampled.
    why += ": rows and columns of a grid that is not square stand in a config.json with image_size"
  return why


def _ours(path: str, x: np.ndarray, where: Place, shape: tuple[int, ...]) -> np.ndarray:
  """Our parameter from a tensor of theirs: its part, transposed if it is a kernel."""
  if where.parts > 1 and x.ndim and len(x) % where.parts == 0:
    rows = len(x) // where.parts
    x = x[(where.part - 1) * rows : where.part * rows]
  if path.endswith("kernel"):
    # Convolutions are [out, in, h, w] there and [h, w, in, out] here.
    if x.ndim == 4:
      x = x.transpose(2, 3, 1, 0)
    elif not where.turned:
      x = x.T
    if len(shape) == 4 and x.ndim == 2 and x.size == np.prod(shape):
      # NaFlex's patches are rows of h, w and colours, and a matrix multiplies them.
      return x.reshape(shape)
  if "/attention/" in path:
    # Attention splits the width into heads: the same numbers, one axis more.
    return x.reshape(shape) if x.size == np.prod(shape) else x
  # CLIP and SigLIP keep tokens and positions without the leading axis of length 1.
  return x.reshape((1,) * (len(shape) - x.ndim) + x.shape) if len(shape) == 3 else x


def _floats(name: str, x: np.ndarray, problems: list[str]) -> np.ndarray:
  """The tensor in float32; one of whole numbers, as in quantised weights, is a problem."""
  if not jax.dtypes.issubdtype(x.dtype, np.floating):
    problems.append(f"{name} is {x.dtype}, no floats: quantised weights cannot be read")
  return np.asarray(x, np.float32)


def _resampled(
  x: np.ndarray,
  shape: tuple[int, ...],
  prefix: int,
  own: tuple[int, int] | None,
  grid: tuple[int, int] | None,
  family: Family,
) -> np.ndarray:
  """Positions [1, prefix + h * w, W] for another grid; those of another form stay as they are.

  `own` is the grid that the source's config tells, `grid` the wanted one, and None a square.
  """
  if x.ndim != 3:
    return x
  bare = x.shape[1] if family.bare_class else x.shape[1] - prefix
  if own is None or math.prod(own) not in (bare, x.shape[1] - prefix):
    own = _square(bare) or _square(x.shape[1] - prefix)
  new = grid or _square(shape[1] - prefix)
  if own is None or new is None or not family.kernel or math.prod(new) != shape[1] - prefix:
    return x
  if prefix and math.prod(own) == bare == x.shape[1]:
    x = np.concatenate([np.zeros_like(x[:, :1]), x], axis=1)
  if new == own:
    return x
  logging.info("backbone: positions of %d x %d patches resampled to %d x %d", *own, *new)
  patches = resample.resample(x[0, prefix:].reshape(*own, -1), new, family.kernel)
  return np.concatenate([x[:, :prefix], patches.reshape(1, -1, x.shape[2])], axis=1)


def _square(count: int) -> tuple[int, int] | None:
  side = round(max(count, 0) ** 0.5)
  return (side, side) if side**2 == count else None
