"""Pictures as CLIP and SigLIP take them: resized and cropped as a model's folder says, by Pillow.

The pixels are those of transformers' image processors where torchvision is not installed.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lafg_jax.language.encoders import layout

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# What transformers' classes do unless a file says otherwise.
_DEFAULTS: dict[str, dict[str, Any]] = {
  "CLIP": {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
  },
  "Siglip": {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
  },
}
_BICUBIC, _FILTERS = 3, (0, 1, 2, 3, 4, 5)
_OPEN_CLIP = "open_clip_config.json"


class Preprocess(NamedTuple):
  """How an image becomes uint8 pixels of the model's size."""

  resize: int | tuple[int, int]  # of the shorter edge, or height and width
  crop: tuple[int, int] | None  # height and width, from the centre
  resample: int  # Pillow's number of a filter
  mean: tuple[float, ...]  # for images in [0, 1]
  std: tuple[float, ...]

  def pixels(self, image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of an RGB image."""
    height, width = image.height, image.width
    if isinstance(self.resize, int):
      long = int(self.resize * max(height, width) / min(height, width))
      target = (long, self.resize) if width <= height else (self.resize, long)
    else:
      target = self.resize
    found = np.asarray(image.resize((target[1], target[0]), Image.Resampling(self.resample)))
    return found if self.crop is None else _cropped(found, *self.crop)


def _cropped(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """The centre of an image [H, W, 3], with black around where the image is smaller."""
  for axis, size in enumerate((height, width)):
    have = image.shape[axis]
    if have < size:
      before = math.ceil((size - have) / 2)
      around = [(0, 0)] * 3
      around[axis] = (before, size - have - before)
      image = np.pad(image, around)
    first = max((have - size) // 2, 0)
    image = image.take(range(first, first + size), axis)
  return image


def read(folder: Path) -> Preprocess:
  """What preprocessor_config.json (or processor_config.json, open_clip_config.json) says.

  Raises ValueError for steps that are not known here, and where there is no such file.
  """
  found = layout.read_object(folder / "preprocessor_config.json")
  if not found:
    found = layout.read_object(folder / "processor_config.json").get("image_processor") or {}
  if not found and not (folder / "config.json").is_file():
    return _of_open_clip(layout.read_object(folder / _OPEN_CLIP))
  if not found:
    raise ValueError("it has no preprocessor_config.json, which says how images are resized")
  kind = str(found.get("image_processor_type") or found.get("feature_extractor_type") or "")
  kind = kind.removesuffix("Fast").removesuffix("Pil")
  name = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
  # Without a name it is that of the model.
  name = name or {"clip": "CLIP", "siglip": "Siglip"}.get(_model_type(folder), "")
  if name not in _DEFAULTS:
    raise ValueError(f"its images are prepared by {kind or 'an unnamed processor'}")
  return _of_settings(_DEFAULTS[name] | {key: x for key, x in found.items() if x is not None})


def _of_settings(found: dict[str, Any]) -> Preprocess:
  steps = ("do_resize", "do_rescale", "do_normalize")
  off = [name for name in steps if not found.get(name, True)]
  if off or abs(255 * float(found.get("rescale_factor", 1 / 255)) - 1) > 1e-6:
    raise ValueError(f"its images are prepared with {off[0] if off else 'another rescale_factor'}")
  crop = _pair(found["crop_size"]) if found["do_center_crop"] else None
  size = found["size"]
  if isinstance(size, dict) and set(size) == {"shortest_edge"}:
    size = size["shortest_edge"]
  resize = size if isinstance(size, int) and crop is not None else _pair(size)
  resample = found.get("resample", _BICUBIC)
  if resample not in _FILTERS:
    raise ValueError(f"its images are resized by {resample!r}, which is no filter of Pillow")
  mean, std = (tuple(map(float, found[key])) for key in ("image_mean", "image_std"))
  return Preprocess(resize, crop, resample, mean, std)


def _of_open_clip(config: dict[str, Any]) -> Preprocess:
  """open_clip's own layout; its defaults are those of CLIP."""
  found = config.get("preprocess_cfg") or {}
  size = ((config.get("model_cfg") or {}).get("vision_cfg") or {}).get("image_size", 224)
  square = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
  mode, resample = found.get("resize_mode", "shortest"), found.get("interpolation", "bicubic")
  filters = {"bicubic": _BICUBIC, "bilinear": 2}
  if mode not in ("shortest", "squash") or resample not in filters:
    raise ValueError(f"its images are resized by {resample} to {mode}, which is not known")
  mean, std = found.get("mean") or _CLIP_MEAN, found.get("std") or _CLIP_STD
  colours = (tuple(map(float, mean)), tuple(map(float, std)))
  if mode == "squash" or square[0] != square[1]:
    return Preprocess(square, None, filters[resample], *colours)
  return Preprocess(square[0], square, filters[resample], *colours)


def _pair(size: Any) -> tuple[int, int]:
  """Height and width of a size in a file: one number, or an object with both."""
  if isinstance(size, int):
    return size, size
  if isinstance(size, dict) and set(size) == {"height", "width"}:
    return int(size["height"]), int(size["width"])
  raise ValueError(f"its images are resized to {size!r}, which is not known")


def _model_type(folder: Path) -> str:
  return str(layout.read_object(folder / "config.json").get("model_type", ""))
