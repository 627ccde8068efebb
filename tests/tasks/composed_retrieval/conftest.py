"""A part of a few images that tests of protocols and submissions share."""

import numpy as np
import pytest

from lafg_jax.data.composed import Composed, Query


@pytest.fixture
def part_of():
  """part_of(queries, number of images, ...): a Composed whose images are '0', '1', ..."""

  def make(queries, number, protocol="targets", drop=True, name="x", outside=0, **changes):
    made = Composed(
      name=name,
      split="val",
      queries=tuple(queries),
      ids=tuple(str(k) for k in range(number + outside)),
      images=None,
      gallery=np.arange(number, dtype=np.int32),
      about="all",
      drop_reference=drop,
      protocol=protocol,
      content="",
    )
    return made._replace(**changes)

  return make


@pytest.fixture
def query():
  """query(id, reference, targets): numbers in place of names."""

  def make(name, reference, targets=(), members=(), kinds=()):
    return Query(
      str(name),
      str(reference),
      "red",
      tuple(map(str, targets)),
      tuple(map(str, members)),
      tuple(kinds),
    )

  return make
