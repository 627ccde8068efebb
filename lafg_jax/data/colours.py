"""Random changes of an image's colours, as one affine map of RGB."""

import numpy as np

from lafg_jax.utils import random_streams

# RGB to YIQ, the colour space of NTSC: luma, and two axes of chroma, which a change of hue rotates.
_YIQ = np.array(
  [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
)
_RGB = np.linalg.inv(_YIQ)
# Fraction of the images that lose their colours, at any strength.
GREY = 0.2


def jittered(img: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
  """An image [H, W, 3] with its colours changed at random, uint8 as it is given.

  The draws are those of SimCLR (Chen et al., ICML 2020, appendix A) at `strength` s in [0, 1]:
  brightness, contrast and saturation are scaled by factors uniform in [1 - 0.8 s, 1 + 0.8 s], hue
  turns by up to 0.2 s of a circle, and one image in five loses its colours. Unlike in
  SimCLR the order is fixed, hue turns in YIQ rather than HSV, and values are clipped once, at the
  end.
  """
  brightness, contrast, saturation = rng.uniform(1 - 0.8 * strength, 1 + 0.8 * strength, 3)
  turn = rng.uniform(-0.2, 0.2) * strength
  if rng.random() < GREY:
    saturation = 0.0
  return changed(img, brightness, contrast, saturation, turn)


def recoloured(img: np.ndarray, row: int, version: int) -> np.ndarray:
  """An image [H, W, 3] in other colours, with the same shapes and patterns; it is of no class.

  A pure function of the image, its row in the data set and `version`. Hue turns by any angle, in
  half of the versions the channels change places as well, brightness is scaled by 0.7 to 1.3 and
  saturation by 0.5 to 1.5. Each pixel is mapped by itself, so that a crop of a recoloured image is,
  up to clipping, the recoloured crop.
  """
  rng = random_streams.recolouring(row, version)
  brightness, saturation = rng.uniform(0.7, 1.3), rng.uniform(0.5, 1.5)
  turned = changed(img, brightness, 1.0, saturation, rng.uniform(-0.5, 0.5))
  places = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
  return turned[..., places]


def changed(
  img: np.ndarray, brightness: float, contrast: float, saturation: float, turn: float
) -> np.ndarray:
  """An image [H, W, 3], uint8, with other colours.

  Args:
    img: uint8 RGB.
    brightness: factor of every value.
    contrast: factor of the distance to the image's mean luma.
    saturation: factor of the distance to a pixel's own luma; 0 is grey.
    turn: of hue, in parts of a circle.
  """
  cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
  chroma = saturation * np.array([[cos, -sin], [sin, cos]])
  in_yiq = np.block([[np.ones((1, 1)), np.zeros((1, 2))], [np.zeros((2, 1)), chroma]])
  colours = brightness * contrast * _RGB @ in_yiq @ _YIQ
  mean_luma = img.reshape(-1, 3).mean(axis=0) @ _YIQ[0]
  # Saturation and hue do not change a grey.
  grey = brightness * (1 - contrast) * mean_luma
  pixels = img.astype(np.float32) @ colours.T.astype(np.float32) + np.float32(grey)
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
