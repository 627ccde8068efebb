"""ResNet with bottlenecks (He et al., CVPR 2016), v1.5: the stride is in the 3x3 convolution.

The network of torchvision, timm and Hugging Face, padding included. Batch normalisation always uses
the running statistics that came with the weights, as is usual in deep metric learning: a batch of N
classes x m images does not sample the data evenly, and statistics of one device's images would
change with the number of devices. Scale and bias are learned; `train.freeze` can stop them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lafg_jax.models import explained
from lafg_jax.models.pooling import gem
from lafg_jax.models.remat import rematerialised

# A bottleneck's inner convolutions have a quarter of its channels.
REDUCTION = 4


class FrozenBatchNorm(nn.Module):
  """(x - mean) / sqrt(var + 1e-5) * scale + bias over the channels of [B, H, W, C].

  `mean` and `var` are parameters, so that checkpoints hold them. Their gradient is 0, and weight
  decay does not apply to them.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = (x.shape[-1],)
    mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, channels))
    var = jax.lax.stop_gradient(self.param("var", nn.initializers.ones, channels))
    scale = self.param("scale", nn.initializers.ones, channels) * jax.lax.rsqrt(var + 1e-5)
    bias = self.param("bias", nn.initializers.zeros, channels) - mean * scale
    return x * scale.astype(self.dtype) + bias.astype(self.dtype)


class ConvNorm(nn.Module):
  """A square convolution without bias, padded as torch's padding = kernel // 2, and its norm."""

  channels: int
  kernel: int
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    # 'SAME' pads less before than after where the stride is 2; torch pads both sides alike.
    pad = (self.kernel // 2, self.kernel // 2)
    x = nn.Conv(
      self.channels,
      (self.kernel, self.kernel),
      strides=(self.stride, self.stride),
      padding=(pad, pad),
      use_bias=False,
      kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
      dtype=self.dtype,
      name="conv",
    )(x)
    return FrozenBatchNorm(self.dtype, name="norm")(x)


class Bottleneck(nn.Module):
  """1x1, 3x3 (with the stride), 1x1, and a shortcut, projected where the shape changes."""

  channels: int
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inner = self.channels // REDUCTION
    y = nn.relu(ConvNorm(inner, 1, 1, self.dtype, name="conv_1")(x))
    y = nn.relu(ConvNorm(inner, 3, self.stride, self.dtype, name="conv_2")(y))
    y = ConvNorm(self.channels, 1, 1, self.dtype, name="conv_3")(y)
    if self.stride != 1 or x.shape[-1] != self.channels:
      x = ConvNorm(self.channels, 1, self.stride, self.dtype, name="shortcut")(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Images [B, H, W, 3], normalised, to one feature vector per image: [B, width] float32.

  The defaults are ResNet-50. `channels` are the outputs of the stages; `pool` is 'mean' or 'gem'
  (models/pooling.py), over the last map.
  """

  depths: tuple[int, ...] = (3, 4, 6, 3)
  channels: tuple[int, ...] = (256, 512, 1024, 2048)
  stem_channels: int = 64
  pool: str = "mean"
  dtype: Any = jnp.float32
  remat: str = "none"

  @property
  def width(self) -> int:
    """Length of the feature vector."""
    return self.channels[-1]

  @nn.compact
  def __call__(self, images: jax.Array, gem_p: jax.Array | float = 3.0) -> jax.Array:
    x = images.astype(self.dtype)
    x = nn.relu(ConvNorm(self.stem_channels, 7, 2, self.dtype, name="stem")(x))
    # Flax pads a maximum with -inf, as torch does.
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    block = rematerialised(Bottleneck, self.remat)
    for i, (depth, channels) in enumerate(zip(self.depths, self.channels, strict=True)):
      for j in range(depth):
        stride = 2 if i > 0 and j == 0 else 1
        x = block(channels, stride, self.dtype, name=f"stage_{i}_block_{j}")(x)
    grid = x.shape[1:3]
    x = x.reshape(x.shape[0], -1, self.width).astype(jnp.float32)
    if explained.asked(self):
      alone = x.reshape(-1, 1, self.width)
      found = gem(alone, gem_p) if self.pool == "gem" else alone
      explained.keep(self, "patches", found.reshape(-1, *grid, self.width))
    return gem(x, gem_p) if self.pool == "gem" else x.mean(axis=1)
