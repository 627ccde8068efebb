"""The trained model: a backbone and an embedding head; beside it, the two projectors.

The forward pass of an image needs only the backbone and the head. The projectors P_v and P_t of the
alignment are plain matrices in the same parameter tree, so that losses.py stays a set of pure
functions over arrays.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.models import pretrained
from lafg_jax.models.options import RESNET, SIZES, parse_options
from lafg_jax.models.resnet import ResNet
from lafg_jax.models.vit import ViT


class Embedder(nn.Module):
  """uint8 images [B, S, S, 3] to embeddings V [B, D] float32, before L2 normalisation.

  With embedding_dim = 0 there is no head and V is the backbone's pooled feature.
  """

  backbone: ViT | ResNet
  embedding_dim: int
  mean: tuple[float, ...]
  std: tuple[float, ...]

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    # Normalised here and not on the host: uint8 is a quarter of the transfer.
    x = images.astype(jnp.float32) / 255.0
    x = (x - jnp.asarray(self.mean)) / jnp.asarray(self.std)
    x = self.backbone(x)
    if self.embedding_dim:
      x = nn.Dense(self.embedding_dim, name="embedding")(x)
    return x


def build(model: ConfigDict) -> Embedder:
  """The Embedder that the `model` section of a config describes, resolved (backbones.resolve)."""
  return Embedder(
    backbone=_backbone(model),
    embedding_dim=model.embedding_dim,
    mean=tuple(model.mean),
    std=tuple(model.std),
  )


def _backbone(model: ConfigDict) -> ViT | ResNet:
  # Checkpoints from before there were options are of plain ViTs.
  options = model.get("options", "")
  if "auto" in (model.size, model.pool, options):
    raise ValueError("a config with 'auto' in its model section: backbones.resolve it first")
  dtype = jnp.dtype(model.dtype)
  if model.size == RESNET:
    return ResNet(pool=model.pool, dtype=dtype)
  numbers = (model.width, model.depth, model.num_heads, model.mlp_dim)
  width, depth, num_heads, mlp_dim = SIZES.get(model.size, numbers)
  return ViT(
    width=width,
    depth=depth,
    num_heads=num_heads,
    mlp_dim=mlp_dim,
    patch_size=model.patch_size,
    pool=model.pool,
    conv_stem=model.conv_stem,
    layer_norm_eps=model.layer_norm_eps,
    options=parse_options(options),
    dtype=dtype,
  )


def init_params(embedder: Embedder, image_size: int, key: jax.Array) -> dict[str, Any]:
  """Random {'backbone', 'embedding'} parameters for square images of `image_size` pixels."""
  images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
  return dict(jax.jit(embedder.init)(key, images)["params"])


def init_model(config: ConfigDict) -> tuple[Embedder, dict[str, Any]]:
  """The embedder and its {'backbone', 'embedding'} parameters before training.

  A pure function of the config, resolved (backbones.resolve); the backbone is pretrained where
  `model.pretrained` says so.
  """
  embedder = build(config.model)
  params = init_params(embedder, config.data.image_size, seeds(config)[0])
  if config.model.pretrained:
    params["backbone"] = pretrained.load_backbone(config.model.pretrained, params["backbone"])
  return embedder, params


def seeds(config: ConfigDict) -> tuple[jax.Array, jax.Array]:
  """The keys of the model and of the projectors: neither choice disturbs the other's numbers."""
  key_model, key_projectors = jax.random.split(jax.random.key(config.seed))
  return key_model, key_projectors


def init_projectors(
  key: jax.Array, embedding_dim: int, text_dim: int | None, width: int
) -> dict[str, jax.Array]:
  """P_v [D, W] and P_t [d, W]: inputs of unit variance give outputs of unit variance.

  Without words (text_dim None) there is no P_t, and P_v starts as it would with them.
  """
  key_image, key_text = jax.random.split(key)
  projectors = {
    "image": jax.random.normal(key_image, (embedding_dim, width)) / np.sqrt(embedding_dim)
  }
  if text_dim is not None:
    projectors["text"] = jax.random.normal(key_text, (text_dim, width)) / np.sqrt(text_dim)
  return projectors


def class_vectors(kind: str, num_classes: int, width: int, seed: int) -> np.ndarray:
  """[C, W] float32 word-free class targets: the controls `orthogonal` and `onehot`.

  `orthogonal` are rows of a random orthonormal basis; where C > W no such basis exists, and its
  columns are orthonormal instead (a tight frame, rows scaled to unit length). `onehot` starts as
  random unit vectors, and is learned.
  """
  rng = np.random.default_rng([seed, 0xC1A55])
  x = rng.standard_normal((num_classes, width))
  if kind == "orthogonal":
    x = np.linalg.qr(x.T)[0].T if num_classes <= width else np.linalg.qr(x)[0]
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
