"""One forward pass of a model as `heat.Seen`: its embedding, its patches and attention rollout."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lafg_jax.explain import heat
from lafg_jax.explain.heat import Seen
from lafg_jax.losses.contrastive import unit
from lafg_jax.models import explained
from lafg_jax.models.embedder import Embedder
from lafg_jax.models.vit import ViT, normalised
from lafg_jax.runtime import jax_settings
from lafg_jax.utils import padding

# Images of one program: explanations are of a few.
CHUNK = 16


def of_embedder(embedder: Embedder, params: Any, images: jax.Array) -> Seen:
  """uint8 images [B, S, S, 3] as a model of class retrieval sees them; `params` are those that
  embed."""
  backbone = embedder.backbone.clone(remat="none")
  v, kept = _applied(embedder.clone(backbone=backbone), params, images)
  depth = backbone.depth if embedder.prompts_depth == "deep" and embedder.num_prompts else 1
  patches, flow = heat.read(backbone, kept["backbone"], embedder.num_prompts, depth)
  each: Any = embedder.apply({"params": params}, patches, method="head")
  return Seen(unit(v), each, flow)


def of_clip(
  clip: Any,
  params: Any,
  images: jax.Array,
  prompts: jax.Array | None = None,
  adapted: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Seen:
  """uint8 images [B, S, S, 3] as the image tower of a CLIP or SigLIP sees them.

  Args:
    clip: `models.clip.Clip`, and params its own tree.
    prompts: [J, k, width], as `clip.ImageTower` takes them.
    adapted: what a method makes of features [..., D].
  """
  tower, own = clip.image.clone(remat="none"), params["image"]
  x, kept = _applied(tower, own, normalised(images, clip.mean, clip.std), prompts)
  sizes: tuple[int, int, int, int] = tower.sizes
  like = ViT(*sizes, patch_size=tower.patch_size, pool=tower.pool, options=tower.options)
  depth, count = (1, 0) if prompts is None else prompts.shape[:2]
  patches, flow = heat.read(like, kept["vit"], count, depth)
  if tower.projected:
    patches = jnp.einsum("bhwc,cd->bhwd", patches, own["projection"]["kernel"])
  return Seen(unit(adapted(x)), adapted(patches), flow)


def _applied(network: Any, params: Any, *args: Any) -> tuple[Any, dict[str, Any]]:
  """A network's result, and what it kept on the way."""
  found, state = network.apply({"params": params}, *args, mutable=[explained.COLLECTION])
  return found, state[explained.COLLECTION]


def seeing(see: Callable[[Any, jax.Array], Seen], params: Any) -> Callable[[np.ndarray], Seen]:
  """`see(params, uint8 images [n, S, S, 3])`, compiled, chunk by chunk, as NumPy arrays.

  `see` is a pure function of at most `CHUNK` images; a power of 2 of them, so that few programs are
  compiled.
  """
  compiled = jax.jit(see)

  @functools.cache
  def held() -> Any:
    # At the first image: most retrievers never explain.
    return jax.device_put(params)

  @jax_settings.ours()
  def of_images(images: np.ndarray) -> Seen:
    if not len(images):
      raise ValueError("there is no image to see")
    parts = []
    for first in range(0, len(images), CHUNK):
      part = images[first : first + CHUNK]
      filled = np.resize(np.arange(len(part)), padding.few_sizes(len(part)))
      found = jax.tree.map(np.asarray, compiled(held(), part[filled]))
      parts.append(jax.tree.map(functools.partial(_first, len(part)), found))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)

  return of_images


def _first(count: int, x: np.ndarray) -> np.ndarray:
  return x[:count]
