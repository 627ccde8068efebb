"""A CLIP or SigLIP of both towers as transformers keeps it: config.json, preprocessor, tensors.

It is the way back of from_clip.py. Weights that came in open_clip's layout leave it in this one.
"""

from typing import Any

import numpy as np
from flax import traverse_util

from lafg_jax.models.options import Options
from lafg_jax.models.weights import family as families
from lafg_jax.models.weights import from_clip
from lafg_jax.models.weights.family import Family, Place

_HEAD = {"clip": "CLIP", "siglip": "Siglip"}
_ACTIVATIONS = {
  "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "silu": "silu",
}  # fmt: skip
_BICUBIC = 3
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def kind(clip: Any) -> str:
  """'clip' or 'siglip', the model of transformers that computes what a Clip does; '' for none.

  A SigLIP 2 of one size of images is a SigLIP there.
  """
  image, text = clip.image, clip.text
  found = "clip" if clip.family == "clip" else "siglip"
  of_clip = found == "clip"
  if of_clip:
    plain = Options(image.options.activation, pre_norm=True, unbiased=("patch",))
  else:
    plain = Options(image.options.activation)
  wanted = ("token", "end", True, False, True) if of_clip else ("map", "last", False, True, False)
  own = (image.pool, text.pool, text.causal, text.projection_bias, image.projected)
  return found if own == wanted and image.options == plain else ""


def config(clip: Any, special: dict[str, int]) -> dict[str, Any]:
  """config.json. `special` has 'bos_token_id', 'eos_token_id' and 'pad_token_id'."""
  name = kind(clip)
  image, text = clip.image, clip.text
  of_image = dict(zip(_SIZES, image.sizes, strict=True))
  of_image |= {"image_size": clip.image_size, "patch_size": image.patch_size}
  of_image |= {"hidden_act": _ACTIVATIONS[image.options.activation]}
  of_image |= {"layer_norm_eps": image.layer_norm_eps, "model_type": f"{name}_vision_model"}
  of_text = dict(zip(_SIZES, text.sizes, strict=True)) | special
  of_text |= {"vocab_size": text.vocabulary, "max_position_embeddings": text.context}
  of_text |= {"hidden_act": _ACTIVATIONS[text.activation], "layer_norm_eps": text.layer_norm_eps}
  of_text |= {"model_type": f"{name}_text_model"}
  if name == "clip":
    of_text["projection_dim"] = of_image["projection_dim"] = clip.dim
  else:
    of_text["projection_size"] = clip.dim
  found: dict[str, Any] = {"architectures": [f"{_HEAD[name]}Model"], "model_type": name}
  found |= {"dtype": "float32", "text_config": of_text, "vision_config": of_image}
  return found | ({"projection_dim": clip.dim} if name == "clip" else {})


def preprocessor(clip: Any, resize: int) -> dict[str, Any]:
  """preprocessor_config.json: the shorter side to `resize` pixels, and the centre of it."""
  side = clip.image_size
  return {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": resize},
    "resample": _BICUBIC,
    "do_center_crop": True,
    "crop_size": {"height": side, "width": side},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(clip.mean),
    "image_std": list(clip.std),
  }


def tensors(clip: Any, params: dict[str, Any]) -> dict[str, np.ndarray]:
  """The tensors of model.safetensors, float32, of the parameters that `models.clip.load` gives."""
  name = kind(clip)
  image, text = from_clip.families_of(name)
  found = {f"{image.prefix}{x}": y for x, y in _theirs(image, params["image"]["vit"]).items()}
  if clip.image.projected:
    found |= _theirs(image, {"projection": params["image"]["projection"]})
  found |= _theirs(text, params["text"])
  scalars = ("logit_scale",) if name == "clip" else ("logit_scale", "logit_bias")
  # SigLIP keeps both in one axis of length 1.
  shape: tuple[int, ...] = () if name == "clip" else (1,)
  found |= {x: np.reshape(np.asarray(params[x], np.float32), shape) for x in scalars}
  return {x: np.asarray(y, np.float32, order="C") for x, y in found.items()}


def _theirs(family: Family, params: dict[str, Any]) -> dict[str, np.ndarray]:
  """Our parameters under a family's names and in its shapes."""
  parts: dict[str, dict[int, np.ndarray]] = {}
  for path, x in traverse_util.flatten_dict(params, sep="/").items():
    where = families.place(family, path)
    if where is None:
      raise ValueError(f"{family.name} has no place for {path}")
    parts.setdefault(where.name, {})[where.part] = _turned(path, np.asarray(x), where)
  return {name: np.concatenate([x[i] for i in sorted(x)]) if len(x) > 1 else x[1]
          for name, x in parts.items()}  # fmt: skip


def _turned(path: str, x: np.ndarray, where: Place) -> np.ndarray:
  """The inverse of `load._ours` for whole tensors."""
  if "/attention/" in path:
    # Heads are part of the width there.
    last = path.endswith("out/kernel")
    if path.endswith("kernel"):
      x = x.reshape(-1, x.shape[-1]) if last else x.reshape(x.shape[0], -1)
    elif not path.endswith("out/bias"):
      x = x.reshape(-1)
  if path.endswith("kernel"):
    # Convolutions are [h, w, in, out] here and [out, in, h, w] there.
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x if where.turned else x.T
  if path == "class_token":
    return x.reshape(-1)
  return x[0] if path == "position_embedding" else x
