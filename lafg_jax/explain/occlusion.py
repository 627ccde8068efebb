"""Heat by occlusion: how much a score falls where a place of the image is covered.

It asks nothing of the network (Zeiler and Fergus, ECCV 2014, section 4.2), so that it works for
all, and costs an embedding for each place. One pass serves any number of scores.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

# Places a side, whatever the patches. In the regions of drawn finches of training classes lay 4 to
# 6 % more of the heat of 16 places a side, which cost 1.8 times as much, and 7 to 37 % less of 8.
PLACES = 12
# A window reaches over its place by this part of the place's side, on each edge.
_REACH = 0.25
# Heat of an attribute or a text is shown where covering its hottest place costs this part of the
# score. On finches of training classes, heat that costs less lay in the right part no better than
# the bird's silhouette does.
_DECIDES = 0.1
# The blur that covers, as a part of the image's side.
_BLUR = 0.25


def blurred(image: np.ndarray) -> np.ndarray:
  """[S, S, 3] uint8 of which little more than the mean colours of its regions is left."""
  radius = len(image) * _BLUR
  return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def covered(image: np.ndarray, places: int = PLACES) -> np.ndarray:
  """[places * places, S, S, 3] uint8: the image with each place of a grid covered by its blur."""
  ground = blurred(image)
  pictures = np.repeat(image[None], places * places, axis=0)
  for at, picture in enumerate(pictures):
    edges = []
    for place, side in zip(divmod(at, places), image.shape, strict=False):
      cell = side / places
      low, high = (place - _REACH) * cell, (place + 1 + _REACH) * cell
      edges.append(slice(max(round(low), 0), min(round(high), side)))
    window = tuple(edges)
    picture[window] = ground[window]
  return pictures


def falls(
  score: Callable[[np.ndarray], np.ndarray], whole: np.ndarray, of_covered: np.ndarray
) -> np.ndarray:
  """How much a score falls with each place covered: [places, places].

  Args:
    score: embeddings [n, D] to scores [n].
    whole: [D], the embedding of the image.
    of_covered: [places * places, D], those of `covered`.
  """
  side = round(len(of_covered) ** 0.5)
  return score(whole[None])[0] - score(of_covered).reshape(side, side)


def decides(found: np.ndarray, score: float) -> bool:
  """Whether any place decides a score: whether it `falls` by a tenth or more anywhere."""
  return bool(found.max() >= _DECIDES * abs(score))
