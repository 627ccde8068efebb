"""Stands in for torchvision, of which there is no CPU build to match, where timm is imported.

timm names torchvision's classes when it is imported; its ViT and ResNet call none of them. On the
PYTHONPATH of the process that runs save_models.py, and of no other.
"""

import enum
import sys
import types

import torch

SUBMODULES = (
  "datasets",
  "models",
  "models.feature_extraction",
  "ops",
  "ops.misc",
  "transforms",
  "transforms.functional",
)


class StandIn(types.ModuleType):
  """A module in which every public name is an empty class."""

  def __getattr__(self, name: str) -> type:
    if name.startswith("__"):
      raise AttributeError(name)
    return type(name, (torch.nn.Module,), {})


for submodule in SUBMODULES:
  sys.modules[f"torchvision.{submodule}"] = StandIn(f"torchvision.{submodule}")
  parent, _, child = f"torchvision.{submodule}".rpartition(".")
  setattr(sys.modules[parent], child, sys.modules[f"torchvision.{submodule}"])

sys.modules["torchvision.transforms.functional"].InterpolationMode = enum.Enum(
  "InterpolationMode", "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS"
)
