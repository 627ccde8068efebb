"""Heat over the patches of an image: where in it a score comes from.

Two readings of one forward pass. *Similarity*: what the model's pooling and head make of each patch
alone, compared with a direction of the embedding space. With mean pooling and a linear head, the
mean of these products over the patches is the product of the whole image, so that they are its
parts (class activation maps: Zhou et al., CVPR 2016). *Rollout*: how attention carries patches to
what is pooled, whatever the score (Abnar and Zuidema, ACL 2020, section 3).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


class Seen(NamedTuple):
  """What a model sees in B images.

  embedding: [B, D] of unit norm. patches: [B, h, w, D], of each patch alone, not normalised.
  rollout: [B, h, w], of which each image's sum is at most 1; None of a network without attention.
  """

  embedding: Any
  patches: Any
  rollout: Any = None


def read(
  network: Any, kept: dict[str, Any], num_prompts: int = 0, prompts_depth: int = 1
) -> tuple[jax.Array, jax.Array | None]:
  """Features of patches [B, h, w, width] and rollout [B, h, w] of what a backbone kept.

  Args:
    network: a ViT or ResNet.
    kept: its own subtree of the collection `explained.COLLECTION`.
    num_prompts: P, tokens before the patches that show no part of the image.
    prompts_depth: how many blocks get prompts of their own.
  """
  flat = traverse_util.flatten_dict(kept, sep="/")
  patches = flat["patches"]
  blocks = [flat.get(f"block_{i}/attention/weights") for i in range(getattr(network, "depth", 0))]
  if not blocks:
    return patches, None
  head = flat.get("map_head/attention/weights")
  prompts = (num_prompts, prompts_depth)
  found = rollout(blocks, network.num_prefix, network.pool, head, prompts)
  return patches, found.reshape(patches.shape[:3])


def rollout(
  weights: Sequence[jax.Array],
  prefix: int,
  pool: str,
  head: jax.Array | None = None,
  prompts: tuple[int, int] = (0, 1),
) -> jax.Array:
  """[B, n]: the share of each of n patches in what is pooled.

  Of block l with weights A_l [B, heads, T, T], (mean over heads of A_l + I) / 2 carries what the
  tokens hold of the patches one block on.

  Args:
    weights: of the blocks, first to last; rows sum to 1.
    prefix: tokens before prompts and patches: class token and registers.
    pool: 'token' reads the class token; 'map' by the weights `head` [B, heads, 1, n]; others read
      the mean of the patches.
    prompts: P tokens after the prefix hold nothing of the image, and how many blocks, from the
      first on, replace them.
  """
  count, replaced = prompts
  at = prefix + count
  batch, _, tokens, _ = weights[0].shape
  flow = jnp.eye(tokens)[:, at:]
  flow = jnp.broadcast_to(flow, (batch, *flow.shape))
  for i, layer in enumerate(weights):
    if count and 0 < i < replaced:
      flow = flow.at[:, prefix:at].set(0.0)
    flow = (jnp.einsum("bts,bsn->btn", layer.mean(axis=1), flow) + flow) / 2
  if pool == "token":
    return flow[:, 0]
  if head is not None:
    return jnp.einsum("bs,bsn->bn", head.mean(axis=1)[:, 0], flow[:, at:])
  return flow[:, at:].mean(axis=1)


def similarity(patches: np.ndarray, direction: np.ndarray) -> np.ndarray:
  """Products [..., h, w] of patches [..., h, w, D] with a direction [D] or [..., D]."""
  return np.einsum("...hwd,...d->...hw", patches, direction)


def matches(patches: np.ndarray, others: np.ndarray) -> np.ndarray:
  """[h, w]: of each patch [h, w, D] its highest cosine with a patch [k, l, D] of another image."""
  a, b = (
    x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (patches, others)
  )
  return np.einsum("hwd,kld->hwkl", a, b).max(axis=(2, 3))


def unit_range(heat: np.ndarray) -> np.ndarray:
  """[h, w] float32 in [0, 1]: least 0, most 1; zeros where all are equal."""
  heat = np.asarray(heat, np.float64)
  low, high = heat.min(), heat.max()
  if not high - low > 1e-12 * max(abs(low), abs(high)):
    return np.zeros(heat.shape, np.float32)
  return ((heat - low) / (high - low)).astype(np.float32)
