"""CLIP and SigLIP in open_clip's own layout: open_clip_config.json and its names of tensors."""

from collections.abc import Mapping

from lafg_jax.models.weights.family import Family, Whole
from lafg_jax.models.weights.files import Tensor

IMAGES: tuple[Family, ...] = ()


def read(source: str, family: Family, tensors: Mapping[str, Tensor]) -> Whole:
  raise NotImplementedError
