"""How the linear layer behind the backbone starts, where it is not random: pure functions.

A random layer throws away part of what a pretrained backbone knows. These keep it: at the start,
embeddings have the cosines of the features, or of their leading components.
"""

import numpy as np

from lafg_jax.utils.errors import UserError

# Values of model.head_init whose numbers come from features of training images.
LEARNED = ("pca", "pca_whitened")
# Of the largest variance: a component with less is not scaled up further.
_FLOOR = 1e-6


def check(head_init: str, embedding_dim: int, width: int) -> None:
  """Raises UserError where a start of the linear layer [width, D] cannot be."""
  key = f"--config.model.head_init={head_init}"
  if head_init == "identity" and embedding_dim != width:
    raise UserError(
      f"{key}: the backbone's width is {width}; pass --config.model.embedding_dim=auto, or "
      "head_init=pca for a smaller one"
    )
  if head_init in LEARNED and embedding_dim > width:
    raise UserError(
      f"{key}: features of {width} numbers have as many components; pass "
      f"--config.model.embedding_dim={width} or less"
    )


def identity(width: int) -> dict[str, np.ndarray]:
  """'kernel' [width, width] and 'bias' [width]: the embedding is the feature."""
  return {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}


def pca(features: np.ndarray, dim: int, whiten: bool = False) -> dict[str, np.ndarray]:
  """'kernel' [width, dim] and 'bias' [dim] of the leading principal components.

  The embedding of x is (x - mean) C, with the components C in the order of their variances;
  whitened, each is divided by its standard deviation (of n - 1 degrees, floored at a thousandth of
  the largest). Signs: the number of a component that is largest by absolute value is positive.

  Args:
    features: [n, width], as the linear layer gets them.
    dim: components that are kept, at most width.

  Raises:
    UserError: there are too few features for so many components.
  """
  x = np.asarray(features, np.float64)
  if len(x) <= dim:
    raise UserError(
      f"--config.model.head_init=pca: {len(x)} training images have fewer than {dim} components; "
      f"pass --config.model.embedding_dim={max(len(x) - 1, 1)} or less"
    )
  mean = x.mean(axis=0)
  variances, vectors = np.linalg.eigh(np.cov(x - mean, rowvar=False))
  order = np.argsort(-variances, kind="stable")[:dim]
  kernel, variances = vectors[:, order], variances[order]
  largest = kernel[np.abs(kernel).argmax(axis=0), np.arange(dim)]
  kernel = kernel * np.where(largest < 0, -1.0, 1.0)
  if whiten:
    kernel = kernel / np.sqrt(np.maximum(variances, max(_FLOOR * variances[0], 1e-30)))
  return {"kernel": kernel.astype(np.float32), "bias": (-mean @ kernel).astype(np.float32)}
