"""Heat by occlusion: how much a score falls where a place of the image is covered.

It asks nothing of the network (Zeiler and Fergus, ECCV 2014, section 4.2), so that it works for
all, and costs an embedding for each place. One pass serves any number of scores.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

# At most so many places a side: a finer grid costs more and covers less at once.
MOST = 8
# A window reaches over its place by this part of the place's side, on each edge.
_REACH = 0.5
# Of the image's side: the blur that covers.
_BLUR = 8


def blurred(image: np.ndarray) -> np.ndarray:
  """[S, S, 3] uint8 without what is smaller than an eighth of its side."""
  radius = len(image) / _BLUR
  return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def covered(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """[rows * columns, S, S, 3] uint8: the image with each place of a grid covered by its blur."""
  ground = blurred(image)
  pictures = np.repeat(image[None], rows * columns, axis=0)
  for at, picture in enumerate(pictures):
    edges = []
    for place, count, side in zip(divmod(at, columns), (rows, columns), image.shape, strict=False):
      cell = side / count
      low, high = (place - _REACH) * cell, (place + 1 + _REACH) * cell
      edges.append(slice(max(round(low), 0), min(round(high), side)))
    window = tuple(edges)
    picture[window] = ground[window]
  return pictures


def falls(
  score: Callable[[np.ndarray], np.ndarray], whole: np.ndarray, of_covered: np.ndarray
) -> np.ndarray:
  """How much a score falls with each place covered, [...] as `of_covered` [..., D] has places.

  Args:
    score: embeddings [n, D] to scores [n].
    whole: [D], the embedding of the image.
    of_covered: [rows, columns, D], those of `covered`.
  """
  found = score(of_covered.reshape(-1, of_covered.shape[-1]))
  return score(whole[None])[0] - found.reshape(of_covered.shape[:-1])
