"""Heat drawn over an image, in colours that all eyes can order.

The scale runs from dark blue over grey to yellow, and is as light as it is hot, so that it is read
without colours too (after Nunez, Anderton and Renslow, PLoS ONE 2018). Where heat is low, the image
shows through.
"""

import numpy as np
from PIL import Image

from lafg_jax.utils.errors import UserError

# From 0 to 1 in even steps.
_SCALE = np.array(
  [(0, 32, 77), (49, 68, 107), (102, 105, 112), (151, 145, 119), (203, 186, 105), (255, 234, 70)],
  np.float32,
)
# How much of the picture the hottest and the coldest place cover.
_MOST, _LEAST = 0.65, 0.25


def coloured(heat: np.ndarray) -> np.ndarray:
  """Heat [h, w] in [0, 1] as colours [h, w, 3] uint8."""
  at = np.clip(np.asarray(heat, np.float32), 0, 1) * (len(_SCALE) - 1)
  low = np.minimum(at.astype(int), len(_SCALE) - 2)
  part = (at - low)[..., None]
  return np.rint(_SCALE[low] * (1 - part) + _SCALE[low + 1] * part).astype(np.uint8)


def over(image: np.ndarray, heat: np.ndarray) -> Image.Image:
  """The image with its heat drawn over it, of the image's size.

  Args:
    image: [H, W, 3] uint8, the square that the model saw.
    heat: [h, w] in [0, 1]; drawn smoothly up to the image's size.

  Raises:
    UserError: the heat is no finite matrix, or the image no picture.
  """
  image, heat = np.asarray(image), np.asarray(heat)
  if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
    raise UserError(f"an image is uint8 [H, W, 3], and this is {image.dtype} {image.shape}")
  if heat.ndim != 2 or not heat.size or not np.isfinite(heat).all():
    raise UserError(f"heat is a finite [h, w], and this is {heat.dtype} {heat.shape}")
  picture = Image.fromarray(np.clip(heat, 0, 1).astype(np.float32))
  smooth = picture.resize((image.shape[1], image.shape[0]), Image.Resampling.BICUBIC)
  hot = np.clip(np.asarray(smooth), 0, 1)
  covers = (_LEAST + (_MOST - _LEAST) * hot)[..., None]
  # Grey below: the colours of the scale are not to be mistaken for the image's own.
  grey = image.astype(np.float32).mean(axis=-1, keepdims=True)
  below = image * hot[..., None] + (0.5 * image + 0.5 * grey) * (1 - hot[..., None])
  return Image.fromarray(np.rint(below * (1 - covers) + coloured(hot) * covers).astype(np.uint8))
