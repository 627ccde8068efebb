"""A `Clip` as JSON, so that a trained model is built again without the files it came from."""

from typing import Any

import jax.numpy as jnp

from lafg_jax.models.clip import Clip, ImageTower, Tokens
from lafg_jax.models.options import options_text, parse_options
from lafg_jax.models.text import TextTower

_IMAGE = ("sizes", "patch_size", "dim", "pool", "layer_norm_eps", "projected")
_TEXT = ("sizes", "vocabulary", "context", "dim", "activation", "layer_norm_eps", "causal", "pool",
         "projection_bias")  # fmt: skip
_CLIP = ("dim", "image_size", "mean", "std", "family")
# What JSON has as lists.
_TUPLES = ("sizes", "mean", "std")


def of(clip: Clip) -> dict[str, Any]:
  """The facts of a Clip as JSON; arithmetic and the place of prompts are those of a config."""
  image = {name: getattr(clip.image, name) for name in _IMAGE}
  image["options"] = options_text(clip.image.options)
  return {
    **{name: getattr(clip, name) for name in _CLIP},
    "image": image,
    "text": {name: getattr(clip.text, name) for name in _TEXT},
    "tokens": clip.tokens.context,
  }


def build(record: dict[str, Any], dtype: Any = jnp.float32, remat: str = "none") -> Clip:
  """The Clip of a record; its tokenizer's folder is ''.

  Raises ValueError, KeyError or TypeError for what `of` did not write.
  """
  record = {name: _tuples(x) for name, x in _tuples(record).items()}
  image, text = ({name: record[side][name] for name in names} for side, names in
                 (("image", _IMAGE), ("text", _TEXT)))  # fmt: skip
  options = parse_options(record["image"]["options"])
  return Clip(
    image=ImageTower(**image, options=options, dtype=dtype, remat=remat),
    text=TextTower(**text, dtype=dtype, remat=remat),
    tokens=Tokens("", record["tokens"]),
    **{name: record[name] for name in _CLIP},
  )


def _tuples(found: Any) -> Any:
  if not isinstance(found, dict):
    return found
  return {name: tuple(x) if name in _TUPLES else x for name, x in found.items()}
