"""Vision transformer (Dosovitskiy et al., ICLR 2021) in Flax linen.

Pre-norm blocks, a class token or mean pooling, and an optional convolutional stem (Xiao et al.,
NeurIPS 2021, "Early Convolutions Help Transformers See Better") for training from scratch at small
image sizes, where a single large-stride patch embedding learns slowly.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PatchEmbedding(nn.Module):
  """Images [B, H, W, 3] to patch tokens [B, H/p, W/p, width]."""

  width: int
  patch_size: int
  conv_stem: bool = False
  layer_norm_eps: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if not self.conv_stem:
      patch = (self.patch_size, self.patch_size)
      return nn.Conv(
        self.width, patch, strides=patch, padding="VALID", dtype=self.dtype, name="patch"
      )(x)
    num_halvings = self.patch_size.bit_length() - 1
    for i in range(num_halvings):
      channels = max(self.width // 2 ** (num_halvings - 1 - i), 16)
      x = nn.Conv(
        channels, (3, 3), strides=(2, 2), use_bias=False, dtype=self.dtype, name=f"conv_{i}"
      )(x)
      # LayerNorm over channels: batch statistics would tie the result to the device count.
      x = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name=f"norm_{i}")(x)
      x = nn.gelu(x)
    return nn.Conv(self.width, (1, 1), dtype=self.dtype, name="patch")(x)


class Block(nn.Module):
  """One pre-norm transformer block over tokens [B, T, width]."""

  num_heads: int
  mlp_dim: int
  layer_norm_eps: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    y = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm_1")(x)
    y = nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype, name="attention")(y)
    x = x + y
    y = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm_2")(x)
    y = nn.Dense(self.mlp_dim, dtype=self.dtype, name="mlp_1")(y)
    # The exact (erf) GELU: what the published checkpoints were trained with.
    y = nn.gelu(y, approximate=False)
    y = nn.Dense(width, dtype=self.dtype, name="mlp_2")(y)
    return x + y


def with_prompts(x: jax.Array, prompts: jax.Array, at: int, replace: bool) -> jax.Array:
  """Tokens [B, T, width] with prompts [P, width] after the first `at`, or in place of P there."""
  rows = jnp.broadcast_to(prompts.astype(x.dtype), (x.shape[0], *prompts.shape))
  rest = at + len(prompts) if replace else at
  return jnp.concatenate([x[:, :at], rows, x[:, rest:]], axis=1)


def pool_tokens(tokens: jax.Array, pool: str, gem_p: jax.Array | float) -> jax.Array:
  """Tokens [B, T, width] to [B, width]: the first ('token'), their 'mean', or 'gem'."""
  if pool == "token":
    return tokens[:, 0]
  return tokens.mean(axis=1) if pool == "mean" else generalised_mean(tokens, gem_p)


def generalised_mean(tokens: jax.Array, p: jax.Array | float) -> jax.Array:
  """GeM (Radenovic et al., TPAMI 2019): (mean_t max(x_t, 1e-6)^p)^(1/p), [B, T, D] to [B, D].

  p = 1 is the mean and p -> infinity the maximum, of the positive part: the formula is made for
  rectified features, and a ViT's negative ones count as 0. In logarithms, as a large p overflows.
  """
  logs = jnp.log(jnp.maximum(tokens.astype(jnp.float32), 1e-6))
  mean = jax.nn.logsumexp(p * logs, axis=1) - jnp.log(tokens.shape[1])
  return jnp.exp(mean / p)


class ViT(nn.Module):
  """Images [B, H, W, 3], normalised, to one feature vector an image [B, width] float32.

  The final LayerNorm comes before pooling, over every token. Prompts [L, P, width] (Jia et al.,
  ECCV 2022) stand behind the class token and are dropped before both: L = 1 inserts them before
  the first block ('shallow'), L = depth gives each block its own in their place ('deep').
  """

  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  patch_size: int
  pool: str = "token"  # 'token' | 'mean' | 'gem'
  conv_stem: bool = False
  layer_norm_eps: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: jax.Array, prompts: jax.Array | None = None, gem_p: jax.Array | float = 3.0
  ) -> jax.Array:
    x = PatchEmbedding(
      width=self.width,
      patch_size=self.patch_size,
      conv_stem=self.conv_stem,
      layer_norm_eps=self.layer_norm_eps,
      dtype=self.dtype,
      name="patch_embedding",
    )(images.astype(self.dtype))
    x = x.reshape(x.shape[0], -1, self.width)  # [B, T, width]
    if self.pool == "token":
      token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
      token = jnp.broadcast_to(token, (x.shape[0], 1, self.width)).astype(x.dtype)
      x = jnp.concatenate([token, x], axis=1)
    position = self.param(
      "position_embedding", nn.initializers.normal(0.02), (1, x.shape[1], self.width)
    )
    x = x + position.astype(x.dtype)
    num_special = 1 if self.pool == "token" else 0
    for i in range(self.depth):
      if prompts is not None and i < len(prompts):
        x = with_prompts(x, prompts[i], num_special, replace=i > 0)
      x = Block(self.num_heads, self.mlp_dim, self.layer_norm_eps, self.dtype, name=f"block_{i}")(x)
    if prompts is not None:
      x = jnp.concatenate([x[:, :num_special], x[:, num_special + prompts.shape[1] :]], axis=1)
    x = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm")(x)
    return pool_tokens(x, self.pool, gem_p).astype(jnp.float32)
