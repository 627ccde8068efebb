"""Composed queries: the section `composed` of a config in, `Composed` parts out.

A query is a reference image with a text; its answer is a ranking of a gallery. No image is opened
here. Each source has a module in `composed_readers`. All functions raise a UserError of one line.
"""

import importlib
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.utils import ground as grounds


class Query(NamedTuple):
  """One composed query.

  id: its name in the part, as the benchmark's submissions have it (CIRR's pairid, CIRCO's id).
  reference: id of the reference image. text: the modification. targets: ids of the right answers,
  the main one first; () where they are secret. members: CIRR's subset, the reference included.
  kinds: what it asks (CIRCO's aspects, kinds of sentences on finches, the column of a table).
  edited: a true description of a right answer, where it is known ('' elsewhere).
  """

  id: str
  reference: str
  text: str
  targets: tuple[str, ...] = ()
  members: tuple[str, ...] = ()
  kinds: tuple[str, ...] = ()
  edited: str = ""


class Composed(NamedTuple):
  """The queries of one part (a category of FashionIQ, or all), and the images they are about."""

  name: str  # 'dress', 'cirr', 'circo', 'finches'
  split: str
  queries: tuple[Query, ...]
  ids: tuple[str, ...]  # [n] of all images: the gallery, and references outside of it
  images: Any  # [n] as `Dataset.images`
  gallery: np.ndarray  # [G] int32, which of them are the gallery, in its order
  about: str  # of the gallery, for people: 'original split, 3,817 images'
  drop_reference: bool  # resolved composed.drop_reference
  protocol: str  # 'fashioniq' | 'cirr' | 'circo' | 'targets'
  content: str  # changes when queries, gallery or sizes of images do
  missing: tuple[str, ...] = ()  # ids that are listed and not there; the result is partial
  ground: tuple[int, int, int] = grounds.rgb(grounds.DEFAULT)
  # Counts are not the published ones, also where what is missing has no names.
  incomplete: bool = False

  @property
  def partial(self) -> bool:
    """Whether images or queries of the benchmark are missing, so that figures are its no more."""
    return self.incomplete or bool(self.missing)

  @property
  def secret(self) -> bool:
    """Whether the right answers are not known: there is a submission, and no figure.

    Raises ValueError where they are known for some queries alone.
    """
    known = {bool(query.targets) for query in self.queries}
    if len(known) > 1:
      raise ValueError(f"{self.name}: some queries have targets and others have none")
    return known == {False}


class Training(NamedTuple):
  """What a source has to train Phi on: images, their ids, and texts that may be of other images."""

  images: Any  # [n] as `Dataset.images`
  texts: tuple[str, ...]  # () where the source has none
  ids: tuple[str, ...] = ()  # [n]
  ground: tuple[int, int, int] = grounds.rgb(grounds.DEFAULT)


def load(config: Any) -> list[Composed]:
  """The parts of `composed.source` and `composed.split`.

  Raises UserError: a file is missing or damaged, or images are missing under composed.missing.
  """
  found: list[Composed] = _reader(config).read(config)
  return found


def training(config: Any) -> Training:
  """The training images and texts of `composed.source`.

  Raises UserError: the source has none, so that mapping.texts or mapping.images must name some; or
  its files are missing or damaged.
  """
  found: Training = _reader(config).training(config)
  return found


class Looks(NamedTuple):
  """names: of the attributes that tell a right answer. of: {image id: a value for each}."""

  names: tuple[str, ...]
  of: dict[str, tuple[str, ...]]


def looks(config: Any) -> Looks | None:
  """How the images of `load` look, where the source knows it (finches, tables); else None."""
  known = getattr(_reader(config), "looks", None)
  return None if known is None else Looks(*known(config))


def _reader(config: Any) -> Any:
  return importlib.import_module(f"lafg_jax.data.composed_readers.{config.composed.source}")
