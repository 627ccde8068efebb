"""The trained model: a backbone and an embedding head.

What else is trained beside them, such as a task's projectors, is plain matrices in the same
parameter tree.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lafg_jax.models import heads, lora
from lafg_jax.models.options import GIVEN, RESNET, parse_options, sizes_of
from lafg_jax.models.resnet import ResNet
from lafg_jax.models.vit import ViT, normalised, prompt_init
from lafg_jax.models.weights import load
from lafg_jax.utils.errors import UserError

# Parameters that embed an image; only training needs the others.
INFERENCE = ("backbone", "embedding", "gem_p", "prompts", "centre")


class Given(nn.Module):
  """No backbone: vectors [B, width] of data.name=features, as float32."""

  width: int
  pool: str = GIVEN

  def __call__(self, vectors: jax.Array) -> jax.Array:
    return vectors.astype(jnp.float32)


class Embedder(nn.Module):
  """uint8 images [B, S, S, 3] to embeddings V [B, D] float32, before L2 normalisation.

  Where the backbone is `Given`, vectors [B, width] stand in for the images.

  `features` gives the backbone's pooled features [B, width]. `head` turns them into V: a LayerNorm
  without parameters where embedding_norm is 'layer' (as in ProxyNCA++, Teh et al., ECCV 2020;
  Hyp-ViT and Proxy-Anchor have none), then a linear layer unless embedding_dim is 0. Prompts and
  GeM's exponent are parameters of this module, so that the backbone has those of its origin alone.
  lora_alpha is for `lora.merge`, which is called before.
  """

  backbone: ViT | ResNet | Given
  embedding_dim: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  embedding_norm: str = ""
  gem_initial_p: float = 3.0
  gem_learned: bool = False
  num_prompts: int = 0
  prompts_depth: str = "shallow"
  lora_alpha: float = 0.0

  def setup(self) -> None:
    if self.embedding_dim:
      self.embedding = nn.Dense(self.embedding_dim)
    self.norm = nn.LayerNorm(epsilon=1e-5, use_bias=False, use_scale=False)
    self.gem_p: Any = self.gem_initial_p
    if self.backbone.pool == "gem" and self.gem_learned:
      self.gem_p = self.param("gem_p", nn.initializers.constant(self.gem_initial_p), ())
    self.prompts: Any = None
    if self.num_prompts:
      layers = self.backbone.depth if self.prompts_depth == "deep" else 1
      shape = (layers, self.num_prompts, self.backbone.width)
      self.prompts = self.param("prompts", prompt_init, shape, self.backbone.patch_size)

  def __call__(self, images: jax.Array) -> jax.Array:
    return self.head(self.features(images))

  def features(self, images: jax.Array) -> jax.Array:
    """uint8 images [B, S, S, 3] to the backbone's pooled features [B, width] float32."""
    if isinstance(self.backbone, Given):
      return self.backbone(images)
    prompted = {"prompts": self.prompts} if self.num_prompts else {}
    return self.backbone(normalised(images, self.mean, self.std), gem_p=self.gem_p, **prompted)

  def head(self, features: jax.Array) -> jax.Array:
    """Features [B, width] to embeddings [B, D], before L2 normalisation."""
    x = self.normed(features)
    return self.embedding(x) if self.embedding_dim else x

  def inputs(self, images: jax.Array) -> jax.Array:
    """uint8 images [B, S, S, 3] to what the linear layer gets, [B, width]."""
    return self.normed(self.features(images))

  def normed(self, features: jax.Array) -> jax.Array:
    """Features [B, width] as the linear layer gets them."""
    normed: jax.Array = self.norm(features) if self.embedding_norm == "layer" else features
    return normed


def build(model: ConfigDict) -> Embedder:
  """The Embedder that the resolved `model` section of a config describes (weights.resolve)."""
  return Embedder(
    backbone=_backbone(model),
    embedding_dim=model.embedding_dim,
    mean=tuple(model.mean),
    std=tuple(model.std),
    embedding_norm=model.embedding_norm,
    gem_initial_p=model.gem_p,
    gem_learned=model.gem_learned,
    num_prompts=model.num_prompts,
    prompts_depth=model.prompts_depth,
    lora_alpha=model.lora_alpha,
  )


def _backbone(model: ConfigDict) -> ViT | ResNet | Given:
  if "auto" in (model.size, model.pool, model.options):
    raise ValueError("a config with 'auto' in its model section: backbones.resolve it first")
  if model.size == GIVEN:
    return Given(model.width)
  dtype = jnp.dtype(model.dtype)
  if model.size == RESNET:
    if model.num_prompts:
      raise UserError("--config.model.num_prompts: a ResNet has no tokens to stand among; pass 0")
    return ResNet(pool=model.pool, dtype=dtype, remat=model.remat)
  return ViT(
    *sizes_of(model),
    patch_size=model.patch_size,
    pool=model.pool,
    conv_stem=model.conv_stem,
    layer_norm_eps=model.layer_norm_eps,
    options=parse_options(model.options),
    dtype=dtype,
    remat=model.remat,
  )


def init_params(embedder: Embedder, image_size: int, key: jax.Array) -> dict[str, Any]:
  """Random parameters of the embedder for square images of `image_size` pixels."""
  one = input_of(embedder, image_size)
  images = jnp.zeros((1, *one.shape), one.dtype)
  # Without a head there is nothing to learn in features that are given.
  return dict(_init(embedder)(key, images).get("params", {}))


def input_of(embedder: Embedder, image_size: int) -> jax.ShapeDtypeStruct:
  """One row of what the embedder takes: an image uint8 [S, S, 3], or a vector float32 [width]."""
  if isinstance(embedder.backbone, Given):
    return jax.ShapeDtypeStruct((embedder.backbone.width,), jnp.float32)
  return jax.ShapeDtypeStruct((image_size, image_size, 3), jnp.uint8)


@functools.lru_cache(maxsize=8)
def _init(embedder: Embedder) -> Any:
  """One compiled function per architecture, for all seeds."""
  return jax.jit(embedder.init)


def init_model(config: ConfigDict) -> tuple[Embedder, dict[str, Any]]:
  """The embedder and its parameters before training: {'backbone', 'embedding', ...}.

  A pure function of the resolved config. The backbone is pretrained where `model.pretrained` names
  a source; there is a 'lora' subtree where `model.lora_rank` is above 0. A head that starts from
  training images (`heads.LEARNED`) is random here: whoever has the images replaces it.
  """
  embedder = build(config.model)
  params = init_params(embedder, config.data.image_size, seeds(config)[0])
  if config.model.pretrained:
    params["backbone"] = load.load_backbone(config.model.pretrained, params["backbone"])
  if config.model.head_init == "identity" and config.model.embedding_dim:
    params["embedding"] = heads.identity(embedder.backbone.width)
  if config.model.lora_rank:
    # A key of its own: the head's numbers are the same with and without LoRA.
    key, model = jax.random.fold_in(seeds(config)[0], 0x10A), config.model
    params["lora"] = lora.init(key, params["backbone"], model.lora_rank, model.lora_targets)
  return embedder, params


def seeds(config: ConfigDict) -> tuple[jax.Array, jax.Array]:
  """The keys of the model and of the projectors; the numbers of each do not depend on the other."""
  model, projectors = jax.random.split(jax.random.key(config.seed))
  return model, projectors
