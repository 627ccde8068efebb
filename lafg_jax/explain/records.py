"""What an explanation says: the records that a retriever gives, and pages and demos show."""

from typing import NamedTuple

import numpy as np


class Named(NamedTuple):
  """An attribute that an image shows.

  row: of the vocabulary. name: in a few words. cosine: of the projected image with the entry, in
  [-1, 1]; of a pair's shared attribute the lower of both. floor: what the cosine is above: that of
  an untrained model.
  """

  row: int
  name: str
  cosine: float
  floor: float


class Explanation(NamedTuple):
  """Why two images match, or what one shows.

  score: cosine of the embeddings of a and b, or of a and the text; None of one image alone.
  attributes: of each image, best first; those above their floors alone.
  shared: what both images show; [] of one image.
  differ: what a alone shows, and what b alone does; two lists.
  heat: of each image [h, w] float32 in [0, 1] over its patches, or None where there is none or none
    that was above its baselines. shown: what it is: 'occlusion', 'rollout', 'occlusion of crimson
    crown' (an attribute that both images show); '' without heat.
  note: what is missing, and why, in one line; '' where nothing is.
  """

  score: float | None
  attributes: list[list[Named]]
  shared: list[Named]
  differ: tuple[list[Named], list[Named]]
  heat: list[np.ndarray | None]
  shown: str = ""
  note: str = ""


def named(cosines: np.ndarray, floors: np.ndarray, names: list[str], most: int) -> list[Named]:
  """The entries of one image above their floors, best first, each name once.

  Args:
    cosines, floors: [N].
    names: [N]; of entries of one name the best is taken.
    most: how many at most.
  """
  found: dict[str, Named] = {}
  for row in np.argsort(-cosines, kind="stable"):
    if cosines[row] > floors[row]:
      one = Named(int(row), names[row], float(cosines[row]), float(floors[row]))
      found.setdefault(one.name, one)
  return list(found.values())[:most]


def compared(
  cosines: np.ndarray, floors: np.ndarray, names: list[str], most: int
) -> tuple[list[Named], tuple[list[Named], list[Named]]]:
  """(shared, (of a alone, of b alone)) of the entries [2, N] of two images, as `named` lists them.

  An entry is shared where both are above its floor. Else it is of the one that is above it, the
  further above the other the earlier.
  """
  lower = named(cosines.min(axis=0), floors.max(axis=0), names, len(names))
  taken = {one.name for one in lower}
  sides = []
  for one, other in ((0, 1), (1, 0)):
    alone = [x for x in named(cosines[one], floors[one], names, len(names)) if x.name not in taken]
    order = np.argsort([cosines[other][x.row] - x.cosine for x in alone], kind="stable")
    sides.append([alone[i] for i in order[:most]])
  return lower[:most], (sides[0], sides[1])
