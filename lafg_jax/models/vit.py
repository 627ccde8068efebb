"""Vision transformer (Dosovitskiy et al., ICLR 2021) in Flax linen.

Pre-norm blocks, a class token or mean pooling, and an optional convolutional stem (Xiao et al.,
NeurIPS 2021, "Early Convolutions Help Transformers See Better") for training from scratch at small
image sizes, where a single large-stride patch embedding learns slowly. What the families of
pretrained weights have beyond that is in `Options`, whose defaults are the plain ViT.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lafg_jax.models import explained
from lafg_jax.models.attention import attend, with_weights
from lafg_jax.models.layers import Linear, gelu
from lafg_jax.models.options import Options
from lafg_jax.models.pooling import gem
from lafg_jax.models.remat import rematerialised

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  # The exact (erf) GELU: what most published checkpoints were trained with.
  "gelu": gelu,
  "gelu_tanh": functools.partial(nn.gelu, approximate=True),
  "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
  "silu": nn.silu,
}


def normalised(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
  """uint8 images [B, S, S, 3] as a backbone takes them: (x / 255 - mean) / std, float32.

  On the device and not on the host, since uint8 is a quarter of the transfer.
  """
  x = images.astype(jnp.float32) / 255.0
  return (x - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


class PatchEmbedding(nn.Module):
  """Images [B, H, W, 3] to patch tokens [B, H/p, W/p, width]."""

  width: int
  patch_size: int
  conv_stem: bool = False
  use_bias: bool = True
  layer_norm_eps: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if not self.conv_stem:
      patch = (self.patch_size, self.patch_size)
      return nn.Conv(
        self.width, patch, strides=patch, padding="VALID", use_bias=self.use_bias,
        dtype=self.dtype, name="patch",
      )(x)  # fmt: skip
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


def rotary(rows: int, columns: int, head_dim: int, base: float) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and sines [rows * columns, head_dim] of DINOv3's axial rotary embedding.

  A patch's centre (y, x), in [-1, 1], gives the angles 2 pi y / base^(4 j / head_dim) for
  j < head_dim / 4, then those of x, then both again for the other half of the channels (Simeoni et
  al. 2025, arXiv 2508.10104).
  """
  y, x = ((2 * (np.arange(n) + 0.5) / n - 1).astype(np.float32) for n in (rows, columns))
  place = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2, 1)
  frequency = (1 / base ** np.arange(0, 1, 4 / head_dim)).astype(np.float32)
  angles = np.tile((2 * np.pi * place * frequency).reshape(rows * columns, -1), 2)
  return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: jax.Array, cos: np.ndarray, sin: np.ndarray) -> jax.Array:
  """Rotates the patches of [B, T, heads, head_dim]: channel c with channel c + head_dim / 2.

  Tokens before the patches (class token, registers) have no position and are not rotated.
  """
  first = x.shape[1] - len(cos)
  patches = x[:, first:].astype(jnp.float32)
  a, b = jnp.split(patches, 2, axis=-1)
  turned = patches * cos[:, None] + jnp.concatenate([-b, a], axis=-1) * sin[:, None]
  return jnp.concatenate([x[:, :first], turned.astype(x.dtype)], axis=1)


class Attention(nn.Module):
  """Multi-head attention of tokens [B, T, width] over `memory` [B, S, width] or over themselves.

  causal: a token reads those before it and itself.
  """

  num_heads: int
  unbiased: tuple[str, ...] = ()
  dtype: Any = jnp.float32
  causal: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    memory: jax.Array | None = None,
    places: tuple[np.ndarray, np.ndarray] | None = None,
  ) -> jax.Array:
    width = x.shape[-1]
    memory = x if memory is None else memory

    query, key, value = (
      Linear(
        (self.num_heads, width // self.num_heads),
        use_bias=name not in self.unbiased,
        dtype=self.dtype,
        name=name,
      )(inputs)
      for name, inputs in (("query", x), ("key", memory), ("value", memory))
    )
    if places is not None:
      query, key = rotate(query, *places), rotate(key, *places)
    if explained.asked(self):
      x, weights = with_weights(query, key, value, self.causal)
      explained.keep(self, "weights", weights)
    else:
      x = attend(query, key, value, self.causal)
    use_bias = "out" not in self.unbiased
    return Linear(width, num_axes=2, use_bias=use_bias, dtype=self.dtype, name="out")(x)


def _mlp(x: jax.Array, mlp_dim: int, options: Options, dtype: Any) -> jax.Array:
  """A block's MLP over [B, T, width]; its layers belong to the module that calls this."""
  dense = functools.partial(Linear, use_bias="mlp" not in options.unbiased, dtype=dtype)
  activation = ACTIVATIONS[options.activation]
  if options.gated_mlp:
    y = activation(dense(mlp_dim, name="mlp_gate")(x)) * dense(mlp_dim, name="mlp_up")(x)
    return dense(x.shape[-1], name="mlp_down")(y)
  return dense(x.shape[-1], name="mlp_2")(activation(dense(mlp_dim, name="mlp_1")(x)))


class Block(nn.Module):
  """One pre-norm transformer block over tokens [B, T, width]."""

  num_heads: int
  mlp_dim: int
  layer_norm_eps: float = 1e-6
  options: Options = Options()
  dtype: Any = jnp.float32
  causal: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, places: tuple[np.ndarray, np.ndarray] | None = None
  ) -> jax.Array:
    y = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm_1")(x)
    attention = Attention(
      self.num_heads, self.options.unbiased, self.dtype, self.causal, name="attention"
    )
    x = x + self._scaled("scale_1", attention(y, places=places))
    y = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm_2")(x)
    return x + self._scaled("scale_2", _mlp(y, self.mlp_dim, self.options, self.dtype))

  def _scaled(self, name: str, y: jax.Array) -> jax.Array:
    if not self.options.layer_scale:
      return y
    return y * self.param(name, nn.initializers.ones, (y.shape[-1],)).astype(y.dtype)


class MapHead(nn.Module):
  """Attention pooling (Zhai et al., CVPR 2022): a learned query over tokens [B, T, width]."""

  num_heads: int
  mlp_dim: int
  layer_norm_eps: float = 1e-6
  options: Options = Options()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]))
    probe = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1])).astype(x.dtype)
    x = Attention(self.num_heads, dtype=self.dtype, name="attention")(probe, x)
    y = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm")(x)
    return (x + _mlp(y, self.mlp_dim, self.options, self.dtype))[:, 0]


def with_prompts(x: jax.Array, prompts: jax.Array, at: int, replace: bool) -> jax.Array:
  """Tokens [B, T, width] with prompts [P, width] after the first `at`, or in place of P tokens."""
  rows = jnp.broadcast_to(prompts.astype(x.dtype), (x.shape[0], *prompts.shape))
  rest = at + len(prompts) if replace else at
  return jnp.concatenate([x[:, :at], rows, x[:, rest:]], axis=1)


def prompt_init(key: jax.Array, shape: tuple[int, ...], patch_size: int) -> jax.Array:
  """Uniform within Xavier's bound for a layer from a patch to a token (Jia et al., ECCV 2022)."""
  bound = np.sqrt(6.0 / (3 * patch_size**2 + shape[-1]))
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class ViT(nn.Module):
  """Images [B, H, W, 3], normalised, to one feature vector per image: [B, width] float32.

  pool: 'token' (the class token), 'mean' or 'gem' over the patch tokens, or 'map' (MapHead).

  The final LayerNorm comes before pooling, over every token. Prompts [L, P, width] (Jia et al.,
  ECCV 2022) stand before the patches, and are dropped before the final LayerNorm. L = 1 inserts
  them before the first block ('shallow'); each of the next L - 1 blocks gets the next ones in their
  place ('deep'); after that they flow on.

  prompts_at: where the first prompts enter, beside a pre_norm: 'after_norm', or 'before_norm' as in
  MaPLe (Khattak et al., CVPR 2023).
  """

  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  patch_size: int
  pool: str = "token"
  conv_stem: bool = False
  layer_norm_eps: float = 1e-6
  options: Options = Options()
  dtype: Any = jnp.float32
  remat: str = "none"
  prompts_at: str = "after_norm"

  @nn.compact
  def __call__(
    self, images: jax.Array, prompts: jax.Array | None = None, gem_p: jax.Array | float = 3.0
  ) -> jax.Array:
    options, eps, dtype = self.options, self.layer_norm_eps, self.dtype
    use_bias = "patch" not in options.unbiased
    x = PatchEmbedding(
      self.width, self.patch_size, self.conv_stem, use_bias, eps, dtype, name="patch_embedding"
    )(images.astype(dtype))
    places, grid = None, x.shape[1:3]
    if options.rotary_base:
      head_dim = self.width // self.num_heads
      places = rotary(grid[0], grid[1], head_dim, options.rotary_base)
    x = self._tokens(x.reshape(x.shape[0], -1, self.width))
    at, block = self.num_prefix, rematerialised(Block, self.remat)
    early = self.prompts_at == "before_norm"
    if prompts is not None and early:
      x = with_prompts(x, prompts[0], at, replace=False)
    if options.pre_norm:
      x = nn.LayerNorm(epsilon=eps, dtype=dtype, name="pre_norm")(x)
    for i in range(self.depth):
      if prompts is not None and early <= i < len(prompts):
        x = with_prompts(x, prompts[i], at, replace=i > 0)
      x = block(self.num_heads, self.mlp_dim, eps, options, dtype, name=f"block_{i}")(x, places)
    if prompts is not None:
      x = jnp.concatenate([x[:, :at], x[:, at + prompts.shape[1] :]], axis=1)
    x = nn.LayerNorm(epsilon=eps, dtype=dtype, name="norm")(x)
    return self._pooled(x, gem_p, grid).astype(jnp.float32)

  @property
  def num_prefix(self) -> int:
    """Tokens before the patches: class token and registers."""
    return (self.pool == "token" or self.options.class_token) + self.options.registers

  def _tokens(self, x: jax.Array) -> jax.Array:
    """Patches [B, T, width] with the tokens before them and the position embedding."""
    batch = x.shape[0]

    def learned(name: str, count: int) -> jax.Array:
      token = self.param(name, nn.initializers.zeros, (1, count, self.width))
      return jnp.broadcast_to(token, (batch, count, self.width)).astype(x.dtype)

    has_class = self.num_prefix > self.options.registers
    if has_class:
      x = jnp.concatenate([learned("class_token", 1), x], axis=1)
    if not self.options.rotary_base:
      shape = (1, x.shape[1], self.width)
      position = self.param("position_embedding", nn.initializers.normal(0.02), shape)
      x = x + position.astype(x.dtype)
    if self.options.registers:
      registers = learned("registers", self.options.registers)
      x = jnp.concatenate([x[:, :has_class], registers, x[:, has_class:]], axis=1)
    return x

  def _pooled(self, x: jax.Array, gem_p: jax.Array | float, grid: tuple[int, ...]) -> jax.Array:
    head = None
    if self.pool == "map":
      head = MapHead(
        self.num_heads, self.mlp_dim, self.layer_norm_eps, self.options, self.dtype, name="map_head"
      )
    patches = x[:, self.num_prefix :]
    if explained.asked(self):
      alone = patches.reshape(-1, 1, self.width)
      found = gem(alone, gem_p) if self.pool == "gem" else head(alone) if head else alone
      of_each = found.reshape(-1, *grid, self.width).astype(jnp.float32)
      explained.keep(self, "patches", of_each)
    if self.pool == "token":
      return x[:, 0]
    if self.pool == "gem":
      return gem(patches, gem_p)
    return head(patches) if head else patches.mean(axis=1)
