"""Writes small timm models of random weights, as the hub has them, with images and features.

  python save_models.py FOLDER

For each model a folder with model.safetensors and config.json, written by timm, and expected.npz:
`images_<h>x<w>` [B, h, w, 3] and `features_<h>x<w>` [B, width], timm's own for that size.
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from timm.models import save_for_hf

VIT = {"depth": 2, "embed_dim": 48, "num_heads": 4, "patch_size": 8, "img_size": 32}
MODELS = {
  "vit": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", VIT, [(32, 32), (48, 40), (24, 24)]),
  "vit_in21k": ("vit_small_patch16_224.augreg_in21k", VIT, [(32, 32), (64, 64)]),
  "dinov2": ("vit_small_patch14_dinov2", VIT | {"init_values": 0.5}, [(32, 32), (56, 24)]),
  "wide": ("vit_tiny_patch16_224", VIT | {"img_size": (24, 40)}, [(24, 40), (32, 32), (48, 80)]),
  "registers": ("vit_small_patch14_reg4_dinov2", VIT | {"init_values": 0.5}, [(32, 32), (40, 48)]),
  "resnet": (
    "resnet50.a1_in1k",
    {"layers": (1, 2, 1, 1), "channels": (4, 6, 8, 10)},
    [(64, 64), (75, 51)],
  ),
}


def randomise(model: torch.nn.Module) -> None:
  """Fresh biases are 0 and norms 1: a mix-up of them would not show."""
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
    for module in model.modules():
      if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.normal_(0.0, 0.5)
        module.running_var.uniform_(0.5, 2.0)


def main(folder: Path) -> None:
  """Writes every model of MODELS below `folder`."""
  torch.set_num_threads(1)
  rng = np.random.default_rng(0)
  for name, (architecture, options, sizes) in MODELS.items():
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=5, **options).eval()
    randomise(model)
    save_for_hf(model, folder / name, safe_serialization=True)
    expected = {}
    for size in sizes:
      if hasattr(model, "set_input_size"):
        # From the native size each time: resampling twice is not resampling once.
        model = timm.create_model(architecture, pretrained=False, num_classes=5, **options).eval()
        model.load_state_dict(safetensors(folder / name))
        model.set_input_size(size)
      images = rng.standard_normal((2, *size, 3)).astype(np.float32)
      with torch.no_grad():
        x = model.forward_features(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        features = model.forward_head(x, pre_logits=True).numpy()
      key = "{}x{}".format(*size)
      expected |= {f"images_{key}": images, f"features_{key}": features}
    np.savez(folder / name / "expected.npz", **expected)


def safetensors(folder: Path) -> dict[str, torch.Tensor]:
  """The tensors that timm saved in `folder`."""
  from safetensors.torch import load_file

  return load_file(folder / "model.safetensors")


if __name__ == "__main__":
  main(Path(sys.argv[1]))
