"""Captions of the drawn finches; an image is drawn when it is first asked for."""

import dataclasses
import re
from typing import Any

import numpy as np

from lafg_jax.data.caption_readers.listed import Listed
from lafg_jax.finches import captions as finch_captions
from lafg_jax.utils.errors import UserError

_HALVES = {"train": "seen", "test": "unseen"}


@dataclasses.dataclass(frozen=True)
class Pictures:
  """Picture `row` is that of bird number of a class, of (kind, class, number) in `birds`."""

  birds: tuple[tuple[str, str, int], ...]

  def __len__(self) -> int:
    return len(self.birds)

  def __getitem__(self, row: int) -> np.ndarray:
    return finch_captions.image(*self.birds[row])


def read(config: Any) -> Listed:
  """The seen classes for training, the unseen ones for the test."""
  kind, wanted = config.captions.finches, config.captions.images_per_class
  most = finch_captions.most_per_class(kind)
  if most is not None and wanted > most:
    raise UserError(
      f"--config.captions.images_per_class={wanted}: a class of finches has {most:,} plumages"
    )
  birds, splits = [], []
  for split, half in _HALVES.items():
    count = wanted or finch_captions.PER_CLASS[kind][half]
    ours = [
      (kind, name, j) for name in finch_captions.class_names(kind, half) for j in range(count)
    ]
    birds += ours
    splits += [split] * len(ours)
  told = [finch_captions.caption(*bird) for bird in birds]
  return Listed(
    where="the finches",
    paths=[_name(*bird) for bird in birds],
    captions=[text for text, _ in told],
    classes=[name for _, name, _ in birds],
    splits=splits,
    spans=[spans for _, spans in told],
    images=Pictures(tuple(birds)),
    rows=range(len(birds)),
    version=kind,
  )


def _name(kind: str, name: str, number: int) -> str:
  slug = re.sub(r"[^a-z]+", "-", name.lower().replace("'", ""))
  return f"finches/{kind}/{slug}/{number:03d}"
