"""Regions of a finch's parts, against pictures with one part in another colour."""

import numpy as np
import pytest

from lafg_jax.finches import classes, regions
from lafg_jax.finches.drawing import scene
from lafg_jax.utils.errors import UserError

SOME = [(finch.name, j) for j, finch in enumerate(classes.SEEN[::8] + classes.UNSEEN[::12])]


@pytest.mark.parametrize("part", regions.PARTS)
def test_recolouring_a_part_changes_only_pixels_of_its_region(part):
  for name, j in SOME:
    mask = regions.region(name, j, part)
    assert mask.shape == (48, 48) and mask.dtype == np.float32
    assert 0 <= mask.min() and mask.max() <= 1
    plain = scene(*classes.drawn_from(name, j))
    other = dict.fromkeys(regions.PARTS[part], (0, 255, 1))
    changed = (scene(*classes.drawn_from(name, j), 48, other) != plain).any(axis=-1)
    assert not (changed & (mask == 0)).any()
    # Where the pixel shows nothing else, the colour itself is there.
    whole = scene(*classes.drawn_from(name, j), 48, other)[mask == 1]
    assert (whole == (0, 255, 1)).all()


def test_parts_lie_where_they_belong():
  inside, apart, areas = [], [], {part: [] for part in (*regions.PARTS, "bird")}
  for name, j in SOME:
    found = {part: regions.region(name, j, part) for part in areas}
    inside += [(found["bird"] - mask).min() for mask in found.values()]
    # A pixel of an edge shares itself among parts, all of one sum.
    apart.append(sum(found[x] for x in ("body", "crown", "wing", "bill", "tail")).max())
    for part, mask in found.items():
      areas[part].append(mask.mean())
  assert min(inside) > -0.01 and max(apart) < 1.01
  mean = {part: np.mean(values) for part, values in areas.items()}
  assert 0.1 < mean["bird"] < 0.6
  assert mean["ring"] < mean["crown"] < mean["body"] < mean["bird"]
  assert mean["pattern"] < mean["wing"]


def test_what_is_unknown_is_refused():
  with pytest.raises(UserError, match="no part 'beak'"):
    regions.region(classes.SEEN[0].name, 0, "beak")
  with pytest.raises(UserError, match="is not a synthetic finch"):
    regions.region("Dodo", 0, "crown")
