"""Position embeddings for another grid of patches, with each origin library's own kernel.

Every kernel is separable and linear: a small matrix of weights for each axis. The numbers are those
of torch.nn.functional.interpolate and scipy.ndimage.zoom, which are not needed at run time.
"""

from collections.abc import Callable

import numpy as np

KERNELS = {
  # interpolate(mode="bicubic"): ViT, DINO, DINOv2, CLIP and SigLIP of transformers.
  "bicubic": lambda n, m: _bicubic(n, m),
  # interpolate(mode="bicubic", antialias=True): timm, and DINOv2 with registers of transformers.
  "bicubic_antialias": lambda n, m: _antialias(n, m, lambda x: _cubic(x, -0.5), 2.0),
  # interpolate(mode="bilinear", antialias=True): SigLIP 2 of variable resolution (NaFlex).
  "bilinear_antialias": lambda n, m: _antialias(n, m, lambda x: np.maximum(1 - abs(x), 0), 1.0),
  # scipy.ndimage.zoom(order=1), which aligns the corners: vit_jax. For a few sizes, such as 16 to
  # 30, zoom rounds past the last row and writes zeros there; this kernel does not.
  "bilinear_corners": lambda n, m: _bilinear_corners(n, m),
}


def resample(grid: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
  """`grid` [h, w, W] as [h2, w2, W] float32, where `size` is (h2, w2) and `kernel` of KERNELS."""
  if grid.shape[:2] == tuple(size):
    return np.asarray(grid, np.float32)
  weights = KERNELS[kernel]
  rows, columns = weights(grid.shape[0], size[0]), weights(grid.shape[1], size[1])
  x = np.einsum("ph,hwc->pwc", rows, np.asarray(grid, np.float64))
  return np.einsum("qw,pwc->pqc", columns, x).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' cubic convolution kernel (IEEE TASSP 1981), which is 0 from |x| = 2 on."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _bicubic(n: int, m: int) -> np.ndarray:
  """[m, n]: four taps around the sample, a = -0.75; taps past an edge fall on the edge."""
  position = (np.arange(m) + 0.5) * n / m - 0.5
  weights = np.zeros((m, n))
  for tap in range(-1, 3):
    at = np.floor(position) + tap
    inside = np.clip(at, 0, n - 1).astype(int)
    np.add.at(weights, (np.arange(m), inside), _cubic(position - at, -0.75))
  return weights


def _antialias(
  n: int, m: int, kernel: Callable[[np.ndarray], np.ndarray], radius: float
) -> np.ndarray:
  """[m, n]: a kernel widened where the grid shrinks; taps past an edge are left out."""
  scale = n / m
  widen = max(scale, 1.0)
  centre = scale * (np.arange(m) + 0.5)[:, None]
  cell = np.arange(n) + 0.5
  weights = kernel((cell - centre) / widen)
  # torch counts whole cells only, and leaves out one that the kernel barely touches.
  first = np.maximum(np.trunc(centre - radius * widen + 0.5), 0)
  last = np.minimum(np.trunc(centre + radius * widen + 0.5), n)
  weights = np.where((cell > first) & (cell < last), weights, 0.0)
  return weights / weights.sum(axis=1, keepdims=True)


def _bilinear_corners(n: int, m: int) -> np.ndarray:
  """[m, n]: linear between neighbours; the first and last samples are the first and last cells."""
  position = np.linspace(0, n - 1, m)
  return np.maximum(1 - np.abs(position[:, None] - np.arange(n)), 0)
