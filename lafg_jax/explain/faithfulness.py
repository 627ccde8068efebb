"""Whether heat lies where it should: its share inside a region, and deletion and insertion curves.

Deletion takes the pixels of an image away, hottest first, and follows a score; insertion brings
them back onto a blurred image (Petsiuk et al., BMVC 2018). Faithful heat has a small area under the
first and a large one under the second. All of it is compared with `centre` and `scattered` heat,
which know nothing of the model.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from lafg_jax.utils import random_streams


def upsampled(heat: np.ndarray, size: int) -> np.ndarray:
  """Heat [h, w] over the pixels [size, size] of a square image, bilinear, float32."""
  picture = Image.fromarray(np.asarray(heat, np.float32))
  return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


def share_inside(heat: np.ndarray, region: np.ndarray) -> float:
  """The share of heat [S, S] inside a region [S, S] in [0, 1]: 1 where all of it is.

  Negative heat counts as 0. Without any heat it is the region's share of the picture.
  """
  heat = np.maximum(np.asarray(heat, np.float64), 0)
  total = heat.sum()
  return float((heat * region).sum() / total) if total > 0 else float(np.mean(region))


def centre(size: int, spread: float = 0.25) -> np.ndarray:
  """A bell [size, size] in the middle of the picture, its deviation a share of the side."""
  x = (np.arange(size) - (size - 1) / 2) / (spread * size)
  line = np.exp(-0.5 * x * x)
  return np.outer(line, line).astype(np.float32)


def scattered(grid: tuple[int, int], number: int) -> np.ndarray:
  """Random heat [h, w] in [0, 1), a pure function of `number`."""
  return random_streams.random_heat(number).random(grid).astype(np.float32)


def curves(
  score: Callable[[np.ndarray], np.ndarray],
  image: np.ndarray,
  heat: np.ndarray,
  steps: int,
  ground: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """(deletion, insertion), [steps + 1] each: the score with 0, 1 / steps, ... 1 of all patches
  gone, or there.

  Args:
    score: pictures [n, S, S, 3] uint8 to scores [n].
    image: [S, S, 3] uint8.
    heat: [h, w]. Equal patches go in the order of their rows.
    steps: how many parts, at most the number of patches.
    ground: [S, S, 3] uint8, what is seen where a patch is gone.

  Raises:
    ValueError: there are more steps than patches, or more patches a side than pixels.
  """
  rows, columns = heat.shape
  count = rows * columns
  if not (1 <= steps <= count and rows <= image.shape[0] and columns <= image.shape[1]):
    raise ValueError(f"{steps} steps of heat {heat.shape} over an image of {image.shape}")
  place = np.empty(count, int)
  place[np.argsort(-heat.ravel(), kind="stable")] = np.arange(count)
  y, x = (np.arange(side) * n // side for side, n in zip(image.shape, heat.shape, strict=False))
  place = place.reshape(rows, columns)[np.ix_(y, x)]
  gone = [(place < round(count * k / steps))[..., None] for k in range(steps + 1)]
  pictures = [np.where(x, ground, image) for x in gone] + [np.where(x, image, ground) for x in gone]
  found = score(np.stack(pictures).astype(np.uint8))
  return found[: steps + 1], found[steps + 1 :]


def area(curve: np.ndarray) -> float:
  """The area under a curve over [0, 1], by trapezia."""
  return float(np.mean((curve[1:] + curve[:-1]) / 2))


def interval(
  values: np.ndarray, seed: int = 0, resamples: int = 2000
) -> tuple[float, float, float]:
  """(mean, low, high) of values [n]: a 95 % interval by the bootstrap over them."""
  values = np.asarray(values, np.float64)
  rows = random_streams.of_seed(seed).integers(0, len(values), (resamples, len(values)))
  low, high = np.quantile(values[rows].mean(axis=1), (0.025, 0.975))
  return float(values.mean()), float(low), float(high)
