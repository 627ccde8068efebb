"""Composed queries on the drawn finches; a picture is drawn when it is first asked for."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from lafg_jax.data.composed import Composed, Query, Training
from lafg_jax.data.composed_readers import common
from lafg_jax.finches import composed as finch_queries
from lafg_jax.finches.composed import Asked
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.utils import ground as grounds
from lafg_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pictures:
  """Picture `row` is that of bird `row` of a part."""

  part: str
  number: int

  def __len__(self) -> int:
    return self.number

  def __getitem__(self, row: int) -> np.ndarray:
    return finch_queries.image(self.part, range(self.number)[row])


def read(config: Any) -> list[Composed]:
  """One part, 'finches': the queries of composed.split, and all birds of it as their gallery."""
  wanted = config.composed
  if wanted.split not in finch_queries.PARTS:
    raise UserError(
      f"--config.composed.split={wanted.split}: the finches have val and test; birds of training "
      "are in no query"
    )
  asked = finch_queries.queries(wanted.split, wanted.num_queries, wanted.wordings)
  if len(asked) < wanted.num_queries:
    raise UserError(
      f"--config.composed.num_queries={wanted.num_queries}: the finches have {len(asked):,} queries"
    )
  birds = finch_queries.birds(wanted.split)
  ids = tuple(bird_id(wanted.split, number) for number in range(len(birds)))
  queries = tuple(_query(wanted.split, number, one) for number, one in enumerate(asked))
  kinds = len(set(birds))
  return [
    Composed(
      name="finches",
      split=wanted.split,
      queries=queries,
      ids=ids,
      images=Pictures(wanted.split, len(ids)),
      gallery=np.arange(len(ids), dtype=np.int32),
      about=f"finches, {len(ids):,} images of {kinds:,} looks, {wanted.wordings} wordings",
      drop_reference=common.drops(config, True),
      protocol="targets",
      content=hashlib.sha256(repr((birds, queries)).encode()).hexdigest()[:16],
      ground=grounds.of(config.data),
    )
  ]


def training(config: Any) -> Training:
  """Birds that no query and no gallery shows, and a true caption of each."""
  number = finch_queries.NUM_TRAINING
  return Training(
    images=Pictures("train", number),
    texts=tuple(map(finch_queries.training_caption, range(number))),
    ids=tuple(bird_id("train", row) for row in range(number)),
    ground=grounds.of(config.data),
  )


def looks(config: Any) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
  """The attributes' names, and {image id: values} of the birds of composed.split."""
  part = config.composed.split
  birds = finch_queries.birds(part)
  return tuple(ATTRIBUTES), {bird_id(part, row): tuple(bird) for row, bird in enumerate(birds)}


def bird_id(part: str, number: int) -> str:
  """The id of an image."""
  return f"finches/{part}/{number:04d}"


def _query(part: str, number: int, asked: Asked) -> Query:
  kinds = [change.kind for change in asked.changes]
  size = "one change" if len(kinds) == 1 else "two changes"
  return Query(
    id=f"{part}-{number:04d}",
    reference=bird_id(part, asked.reference),
    text=asked.text,
    targets=tuple(bird_id(part, target) for target in asked.targets),
    kinds=(size, *sorted(set(kinds))),
    edited=asked.edited,
  )
