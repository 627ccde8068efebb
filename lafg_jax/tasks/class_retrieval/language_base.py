"""Reads prototypes.npz for training, without the code that made it."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from absl import logging

from lafg_jax.utils import random_streams
from lafg_jax.utils.class_names import class_order
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import read_npz
from lafg_jax.utils.vectors import mean_pairwise_cosine

# The array of prototypes.npz for each value of language.prototype.
KINDS = {
  "attention": "prototypes",
  "profile": "attribute_profiles",
  "query": "queries",
  "descriptions": "description_means",
}


@dataclasses.dataclass(frozen=True)
class LoadedPrototypes:
  """The language base in the order of the training classes; all arrays are float32."""

  # [C, d] T_c, or what language.prototype names ([C, N] of 'profile'), with `mean` subtracted.
  prototypes: np.ndarray
  queries: np.ndarray  # [C, d] t_c, unit norm, never centred
  vocabulary: np.ndarray  # [N, d] a_n, unit norm
  mean: np.ndarray  # [d] or [N], what was subtracted: zeros without centring
  encoder: str
  # [N] the descriptions nearest to each entry of the vocabulary, for people.
  sentences: tuple[tuple[str, ...], ...] = ()
  # What L_img compares each training image with (`teacher_features.load`); {} without it.
  teacher_features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @property
  def teacher_dim(self) -> int | None:
    """d, the width of the teacher features; None without them."""
    spaces = [self.teacher_features.get(x) for x in ("directions", "image_feature")]
    return next((space.shape[1] for space in spaces if space is not None), None)


def load(
  path: str | os.PathLike,
  class_names: Sequence[str],
  *,
  centre: bool,
  shuffle: bool,
  seed: int,
  kind: str = "attention",
) -> LoadedPrototypes:
  """Loads `prototypes.npz` for exactly the given training classes.

  Args:
    class_names: the training classes without the validation classes, in the order of the labels.
    centre: subtract the mean prototype of these classes (T' of method.md).
    shuffle: a control: each class has the prototype and query of another one, in a random cycle.
    seed: of the shuffle.
    kind: what stands for the class: 'attention' (T_c), 'profile' (the roots of its shares in the
      attributes), 'query' (t_c) or 'descriptions' (the mean of its descriptions).

  Raises:
    UserError: the file is missing or damaged, lacks a class, or holds any other class, whose words
      would leak into training.
  """
  keys = ("class_names", "prototypes", "queries", "vocabulary", "encoder", KINDS[kind])
  arrays = read_npz(path, keys, stage="prototypes", optional=("nearest_sentences",))
  order = class_order(path, arrays["class_names"], class_names, stage="prototypes")
  arrays["prototypes"] = arrays[KINDS[kind]]
  _check_shapes(path, arrays, kind == "profile")
  if shuffle:
    order = order[other_classes(len(order), seed)]
  prototypes = arrays["prototypes"][order].astype(np.float32)
  mean = np.zeros(prototypes.shape[1], np.float32)
  if centre:
    mean = prototypes.mean(axis=0, dtype=np.float64).astype(np.float32)
    cosines = (mean_pairwise_cosine(x) for x in (prototypes, prototypes - prototypes.mean(axis=0)))
    text = "mean pairwise cosine between prototypes: %.3f, %.3f after centring"
    logging.info(text, *cosines)
  return LoadedPrototypes(
    prototypes=prototypes - mean,
    queries=arrays["queries"][order].astype(np.float32),
    vocabulary=arrays["vocabulary"].astype(np.float32),
    mean=mean,
    encoder=str(arrays["encoder"]),
    sentences=tuple(tuple(map(str, row)) for row in arrays.get("nearest_sentences", ())),
  )


def _check_shapes(path, arrays, profile: bool) -> None:
  count, space = len(arrays["class_names"]), arrays["vocabulary"].shape
  prototypes, queries = ((count, *x) for x in (space[:1] if profile else space[-1:], space[-1:]))
  wanted = {"prototypes": prototypes, "queries": queries, "vocabulary": space}
  for key, shape in wanted.items():
    array = arrays[key]
    if (
      array.ndim != 2
      or array.shape != shape
      or array.dtype.kind != "f"
      or not np.all(np.isfinite(array))
    ):
      raise UserError(
        f"{path}: {key} {array.shape} {array.dtype} is not a finite float array that fits "
        f"{count} classes: run --stage=prototypes again"
      )


def other_classes(count: int, seed: int) -> np.ndarray:
  """A permutation [count] of one single cycle, so no element stays in place."""
  if count < 2:
    raise UserError("language.shuffle needs at least two training classes")
  cycle = random_streams.of_seed(seed).permutation(count)
  permutation = np.empty(count, np.int64)
  permutation[cycle] = np.roll(cycle, 1)
  return permutation
