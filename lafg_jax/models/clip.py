"""CLIP and SigLIP whole: both towers in Flax, their loading, and their embeddings as functions."""

import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from lafg_jax.models.options import Options
from lafg_jax.models.text import TextTower
from lafg_jax.models.vit import ViT, normalised
from lafg_jax.models.weights import files, from_clip
from lafg_jax.models.weights import load as weights
from lafg_jax.models.weights.family import Whole
from lafg_jax.models.weights.files import Tensor
from lafg_jax.utils import places
from lafg_jax.utils.errors import UserError

_KEY = "--config.model.pretrained"
# Beside the weights: what a tokenizer is read from.
_TOKENIZER = (
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
  "spiece.model", "config.json", "open_clip_config.json",
)  # fmt: skip
# Tensors of a CLIP's file that hold nothing learned.
_UNUSED = r"(^|\.)(position_ids|attn_mask)$|^(input_resolution|context_length|vocab_size)$"


class ImageTower(nn.Module):
  """Images [B, S, S, 3] float32, normalised, to [B, dim] float32, not normalised.

  A ViT, and CLIP's projection of its feature; without one (`projected`), SigLIP's features are
  those of its head. Prompts [J, k, width] stand beside the patches and have no position: prompts[i]
  enters before block i, in place of prompts[i - 1], and after J blocks they flow on. Where
  `prompts_at` is 'before_norm', those of block 0 go through CLIP's ln_pre (MaPLe, Khattak et al.,
  CVPR 2023); where it is 'after_norm' they do not (VPT, Jia et al., ECCV 2022).

  sizes: width, depth, heads and MLP width. dtype: of the ViT; the projection is float32.
  """

  sizes: tuple[int, int, int, int]
  patch_size: int
  dim: int
  pool: str = "token"
  layer_norm_eps: float = 1e-5
  options: Options = Options(pre_norm=True, unbiased=("patch",))
  projected: bool = True
  prompts_at: str = "before_norm"
  dtype: Any = jnp.float32
  remat: str = "none"

  @nn.compact
  def __call__(self, images: jax.Array, prompts: jax.Array | None = None) -> jax.Array:
    vit = ViT(
      *self.sizes,
      patch_size=self.patch_size,
      pool=self.pool,
      layer_norm_eps=self.layer_norm_eps,
      options=self.options,
      dtype=self.dtype,
      remat=self.remat,
      prompts_at=self.prompts_at,
      name="vit",
    )
    x = vit(images, prompts)
    return nn.Dense(self.dim, use_bias=False, name="projection")(x) if self.projected else x


class Tokens(NamedTuple):
  """Where a CLIP's tokenizer lies, for language/encoders/tokens.py, and how long a text may be."""

  folder: str
  context: int


class Clip(NamedTuple):
  """Both towers, and how images and texts come to them.

  image_size: pixels of a side. mean, std: for images in [0, 1]. family: 'clip', 'siglip' or
  'siglip2'.
  """

  image: ImageTower
  text: TextTower
  dim: int
  image_size: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  family: str
  tokens: Tokens


def load(
  source: str,
  image_size: int = 0,
  dtype: Any = jnp.float32,
  remat: str = "none",
  key: str = _KEY,
) -> tuple[Clip, dict[str, Any]]:
  """A published CLIP or SigLIP, of transformers or in open_clip's layout.

  Args:
    source: a folder, a .safetensors file beside its config, a hub id, a URL, or 'tiny_clip'.
    image_size: pixels of a side; position embeddings are resampled as the origin library does. 0 is
      the source's own size.
    dtype: of both towers; parameters stay float32.
    remat: as `models.remat` takes it.
    key: of the config, which errors name.

  Returns:
    The towers, and {'image', 'text', 'logit_scale' (its logarithm), 'logit_bias' (0 where the
    source has none)}, float32.

  Raises:
    UserError: nothing is there, it is another model, or tensors are missing or of another shape.
  """
  with _named(key), files.opened(source, files.WHOLE) as tensors:
    whole, by_name = from_clip.read(source, tensors)
    side, patch = image_size or whole.image_size, whole.image.patch_size
    if side % patch:
      raise files.fault(
        source, f"images of {side} pixels are no multiple of its patches of {patch}"
      )
    clip = _build(source, whole, side, jnp.dtype(dtype), remat)
    return clip, _fill(source, whole, clip, by_name)


def init(clip: Clip, key: jax.Array) -> dict[str, Any]:
  """Random parameters of the form that `load` gives; logit_scale is CLIP's start, log(1 / 0.07)."""
  image, text = jax.random.split(key)
  images = jnp.zeros((1, clip.image_size, clip.image_size, 3))
  ids, ends = jnp.zeros((1, clip.text.context), jnp.int32), jnp.zeros(1, jnp.int32)
  return {
    "image": dict(clip.image.init(image, images)["params"]),
    "text": dict(clip.text.init(text, ids, ends, method=_from_ids)["params"]),
    "logit_scale": jnp.asarray(np.log(1 / 0.07), jnp.float32),
    "logit_bias": jnp.zeros((), jnp.float32),
  }


def embed_images(
  clip: Clip, params: dict[str, Any], images: jax.Array, prompts: jax.Array | None = None
) -> jax.Array:
  """uint8 images [B, S, S, 3] to embeddings [B, dim] float32, L2-normalised.

  prompts: [J, k, width], as `ImageTower` takes them.
  """
  x = normalised(images, clip.mean, clip.std)
  return _normalised(clip.image.apply({"params": params["image"]}, x, prompts))


def embed_texts(
  clip: Clip,
  params: dict[str, Any],
  tokens: jax.Array,
  ends: jax.Array,
  prompts: jax.Array | None = None,
  at: int = 1,
) -> jax.Array:
  """Embedded tokens [B, L, width] to embeddings [B, dim] float32, L2-normalised.

  The arguments are those of `TextTower`; `token_embeddings` gives tokens.
  """
  return _normalised(clip.text.apply({"params": params["text"]}, tokens, ends, prompts, at))


def token_embeddings(clip: Clip, params: dict[str, Any], ids: jax.Array) -> jax.Array:
  """Token ids [B, L] to their embeddings [B, L, width] float32, without positions."""
  embedded: Any = clip.text.apply({"params": params["text"]}, ids, method="embed")
  return embedded


def _from_ids(tower: TextTower, ids: jax.Array, ends: jax.Array) -> jax.Array:
  return tower(tower.embed(ids), ends)


def _normalised(x: Any) -> jax.Array:
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _build(source: str, whole: Whole, image_size: int, dtype: Any, remat: str) -> Clip:
  image, (mean, std) = whole.image, whole.mean_std
  width, depth, num_heads, mlp_dim = whole.text.sizes
  tower = ImageTower(
    image[:4],
    image.patch_size,
    whole.text.dim,
    image.pool,
    image.layer_norm_eps,
    image.options,
    whole.projected,
    dtype=dtype,
    remat=remat,
  )
  text = TextTower(**whole.text._asdict(), dtype=dtype, remat=remat)
  tokens = Tokens(_tokenizer_folder(source), whole.text.context)
  return Clip(tower, text, whole.text.dim, image_size, mean, std, whole.kind, tokens)


def _fill(source: str, whole: Whole, clip: Clip, tensors: dict[str, Tensor]) -> dict[str, Any]:
  """The parameters of both towers; UserError, in one line, for all that does not fit."""
  like = jax.eval_shape(functools.partial(init, clip), jax.random.key(0))
  grid = whole.image_size // whole.image.patch_size
  towers = {
    "vit": weights.fill(whole.image_family, tensors, like["image"]["vit"], (grid, grid)),
    "text": weights.fill(whole.text_family, tensors, like["text"]),
  }
  if whole.projected:
    head = {"projection": like["image"]["projection"]}
    towers["projection"] = weights.fill(whole.image_family, tensors, head)
  problems = [problem for tower in towers.values() for problem in tower.problems]
  used = set().union({"logit_scale", "logit_bias"}, *(tower.used for tower in towers.values()))
  spare = sorted(name for name in set(tensors) - used if not re.search(_UNUSED, name))
  problems += [f"left over {name}" for name in spare]
  if "logit_scale" not in tensors:
    problems.append("missing logit_scale")
  weights.refuse_problems(source, problems, "check its config and that its file is whole")
  image = {"vit": towers["vit"].params}
  if whole.projected:
    image |= towers["projection"].params
  logging.info("%s: %s, %d tensors", source, whole.kind, len(used))
  return {
    "image": image,
    "text": towers["text"].params,
    "logit_scale": _scalar(tensors, "logit_scale"),
    "logit_bias": _scalar(tensors, "logit_bias"),
  }


def _scalar(tensors: dict[str, Tensor], name: str) -> jax.Array:
  x = np.asarray(tensors[name].read(), np.float32).reshape(-1) if name in tensors else [0.0]
  return jnp.asarray(x[0], jnp.float32)


def _tokenizer_folder(source: str) -> str:
  """The folder of a source's tokenizer; '' where it has none."""
  found = [path for name in _TOKENIZER if (path := files.fetch(source, name))]
  if not found:
    return ""
  if not places.is_url(source):
    return os.path.dirname(found[0])
  # Files of a URL are downloaded each into a folder of its own.
  folder = _tokenizers().name
  folder = os.path.join(folder, re.sub(r"\W", "_", source))
  os.makedirs(folder, exist_ok=True)
  for path in found:
    shutil.copy(path, folder)
  return folder


@functools.cache
def _tokenizers() -> tempfile.TemporaryDirectory:
  return tempfile.TemporaryDirectory(prefix="lafg_jax-")


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
  """Errors name the config's `key` in place of model.pretrained."""
  try:
    yield
  except UserError as error:
    raise UserError(str(error).replace(_KEY, key, 1)) from error
