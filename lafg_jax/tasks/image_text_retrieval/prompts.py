"""Learned prompts of both towers, how one side's come from the other's, and the adapters.

Parameters beside the towers, each only where the method has it:

  prompts/text [k, w], prompts/text_deep [J - 1, k, w]: text prompts v of the input, and those of
    the blocks after the first. w is the width of the text tower, W that of the image tower.
  prompts/image [k, W], prompts/image_deep [J - 1, k, W]: image prompts that are free.
  coupling: what makes image prompts of text prompts, a layer for each depth. 'linear' has kernel
    [J, w, W] and bias [J, W]; 'mlp' has down_kernel [J, w, h], up_kernel [J, h, W] and a free
    residual [J, k, W].
  caa: 'bottleneck' has down_kernel [d, d / 4] and up_kernel [d / 4, d]; 'linear' has kernel [d, d].
  adapter: CLIP-Adapter's down_kernel and up_kernel, of the same shapes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lafg_jax.losses.contrastive import unit
from lafg_jax.models.vit import prompt_init
from lafg_jax.tasks.image_text_retrieval import methods

Params = dict[str, Any]
# The part of an adapted feature in the sum (CLIP-Adapter, Gao et al., IJCV 2024); CAA's is ours.
RATIO = 0.2
_DEVIATION = 0.02
_REDUCTION = 4


def init(config: ConfigDict, clip: Any, words: jax.Array | None, key: jax.Array) -> Params:
  """What the method of a resolved config learns beside the towers, before training.

  Args:
    clip: the towers (`models.clip.Clip`).
    words: [n, w], the embeddings of prompts.words without start and end token, for
      prompts.init=words.
    key: of the random numbers.
  """
  method, found = methods.of(config), {}
  names = ("text", "image", "coupling", "caa", "adapter")
  keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
  if method.text or method.image:
    found["prompts"] = _init_prompts(config, method, clip, words, keys)
  if method.coupling != "none":
    found["coupling"] = _init_coupling(config, method, clip, keys["coupling"])
  if methods.has_categories(config) and (caa := config.category.caa) != "identity":
    found["caa"] = {"kernel": jnp.eye(clip.dim)} if caa == "linear" else _box(keys["caa"], clip.dim)
    if caa == "bottleneck":
      # Zero, so that CAA starts as the identity.
      found["caa"]["up_kernel"] = jnp.zeros_like(found["caa"]["up_kernel"])
  if methods.adapts(config):
    found["adapter"] = _box(keys["adapter"], clip.dim)
  return found


def depths(method: methods.Method, clip: Any) -> tuple[int, int]:
  """J of the text tower and of the image tower: at most as many as they have blocks."""
  return min(method.depth, clip.text.sizes[1]), min(method.depth, _image_depth(clip))


def _image_depth(clip: Any) -> int:
  return clip.image.sizes[1]


def _image_width(clip: Any) -> int:
  return clip.image.sizes[0]


def _init_prompts(config, method, clip, words, keys) -> Params:
  of_text, of_image = depths(method, clip)
  k, width, image_width = method.number, clip.text.sizes[0], _image_width(clip)
  found: Params = {}
  if method.text:
    # Coupled image prompts need a text prompt at each of their depths.
    count = max(of_text, of_image) if method.coupling != "none" else of_text
    drawn = _DEVIATION * jax.random.normal(keys["text"], (count, k, width))
    first = drawn[0]
    if method.init == "words":
      if words is None:
        raise ValueError("prompts.init=words takes the embeddings of the words")
      first = first.at[: len(words)].set(words[:k])
    found["text"] = first
    if count > 1:
      found["text_deep"] = drawn[1:]
  if method.image and method.coupling == "none":
    shape = (of_image, k, image_width)
    drawn = _DEVIATION * jax.random.normal(keys["image"], shape)
    if method.init == "uniform":
      drawn = prompt_init(keys["image"], shape, clip.image.patch_size)
    found["image"] = drawn[0]
    if of_image > 1:
      found["image_deep"] = drawn[1:]
  return found


def _init_coupling(config, method, clip, key) -> Params:
  """Linear layers as PyTorch starts them; those after the first are copies of one (MaPLe)."""
  width, image_width, count = clip.text.sizes[0], _image_width(clip), depths(method, clip)[1]
  if method.coupling == "linear":
    kernel, bias = _copied(key, (width, image_width), width, count, biased=True)
    return {"kernel": kernel, "bias": bias}
  down, up = jax.random.split(key)
  hidden = config.prompts.hidden
  return {
    "down_kernel": _copied(down, (width, hidden), width, count)[0],
    "up_kernel": _copied(up, (hidden, image_width), hidden, count)[0],
    "residual": jnp.zeros((count, method.number, image_width)),
  }


def _copied(key, shape, fan_in, count, biased=False) -> tuple[jax.Array, jax.Array | None]:
  """`count` kernels [count, *shape] and biases: the first by itself, the others alike."""
  limit = fan_in**-0.5
  firsts, others = jax.random.split(key)

  def both(number: int, size: tuple[int, ...]) -> jax.Array:
    one, rest = (
      jax.random.uniform(jax.random.fold_in(of, number), size, minval=-limit, maxval=limit)
      for of in (firsts, others)
    )
    return jnp.stack([one, *[rest] * (count - 1)])

  return both(0, shape), both(1, shape[-1:]) if biased else None


def _box(key: jax.Array, dim: int) -> Params:
  """The two layers of a bottleneck d -> d / 4 -> d, as PyTorch starts linear layers."""
  hidden = max(dim // _REDUCTION, 1)
  down, up = jax.random.split(key)

  def uniform(of: jax.Array, shape: tuple[int, int]) -> jax.Array:
    limit = shape[0] ** -0.5
    return jax.random.uniform(of, shape, minval=-limit, maxval=limit)

  return {"down_kernel": uniform(down, (dim, hidden)), "up_kernel": uniform(up, (hidden, dim))}


def of_image(config: ConfigDict, clip: Any, params: Params) -> jax.Array | None:
  """The prompts of the image tower [J, k, W], as `ImageTower` takes them; None without any."""
  method, own = methods.of(config), params.get("prompts", {})
  if not method.image:
    return None
  if method.coupling == "none":
    return _stacked(own, "image")
  text, coupling = _stacked(own, "text")[: depths(method, clip)[1]], params["coupling"]
  if method.coupling == "linear":
    return jnp.einsum("jkw,jwv->jkv", text, coupling["kernel"]) + coupling["bias"][:, None]
  hidden = jax.nn.gelu(jnp.einsum("jkw,jwh->jkh", text, coupling["down_kernel"]), approximate=False)
  return jnp.einsum("jkh,jhv->jkv", hidden, coupling["up_kernel"]) + coupling["residual"]


def of_text(
  config: ConfigDict, clip: Any, params: Params
) -> tuple[jax.Array | None, jax.Array | None]:
  """The prompts of the text tower: [k, w] of the input, and [J - 1, k, w] of later blocks."""
  method, own = methods.of(config), params.get("prompts", {})
  if not method.text:
    return None, None
  later = depths(method, clip)[0] - 1
  return own["text"], own["text_deep"][:later] if later else None


def _stacked(own: Params, side: str) -> jax.Array:
  first = own[side][None]
  deep = f"{side}_deep"
  return jnp.concatenate([first, own[deep]]) if deep in own else first


def inserted(
  embeddings: jax.Array, ends: jax.Array, prompts: jax.Array | None, at: int
) -> tuple[jax.Array, jax.Array]:
  """Embeddings [B, L, w] with k prompts [k, w] before place `at`, and where the texts end now."""
  if prompts is None:
    return embeddings, ends
  rows = jnp.broadcast_to(prompts, (embeddings.shape[0], *prompts.shape))
  joined = jnp.concatenate([embeddings[:, :at], rows, embeddings[:, at:]], axis=1)
  return joined, ends + len(prompts)


def cut(ids: list[int], length: int) -> list[int]:
  """The tokens of a caption in at most `length` places: the caption is cut, its end token never."""
  return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def caa(config: ConfigDict, params: Params, features: jax.Array) -> jax.Array:
  """CAA of text features [..., d], L2-normalised: f(u) = L2(u + 0.2 W2 relu(W1 u)), or L2(W u).

  What DCAR's CAA is, is open; the forms are ours.
  """
  box = params.get("caa")
  if box is None:
    return unit(features)
  if config.category.caa == "linear":
    return unit(features @ box["kernel"])
  hidden = jax.nn.relu(features @ box["down_kernel"])
  return unit(features + RATIO * hidden @ box["up_kernel"])


def adapted(params: Params, features: jax.Array) -> jax.Array:
  """Image features x [B, d] through CLIP-Adapter: 0.2 relu(W2 relu(W1 x)) + 0.8 x.

  As they are where the method has no adapter.
  """
  box = params.get("adapter")
  if box is None:
    return features
  hidden = jax.nn.relu(features @ box["down_kernel"])
  return RATIO * jax.nn.relu(hidden @ box["up_kernel"]) + (1 - RATIO) * features
