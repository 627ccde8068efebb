"""Images a second of embedding a gallery, beside timm's ViT in PyTorch.

  python benchmarks/embed.py [--size small] [--batch 32] [--rounds 5] [--dtype float32]

Both sides turn uint8 images of 224 px into unit vectors of a ViT of patches of 16 px.
"""

import numpy as np
import side_by_side
import torch

from lafg_jax.evaluate.embed import make_embed
from lafg_jax.models import embedder as embedders


def ours(size: str, batch: int, dtype: str, images: np.ndarray):
  config = side_by_side.vit_config(size, dtype)
  config.model.embedding_dim = 0
  embed = make_embed(*embedders.init_model(config))
  return lambda: embed(images)


def theirs(size: str, batch: int, dtype: str, images: np.ndarray, compiled: bool):
  device = "cuda" if torch.cuda.is_available() else "cpu"
  timm = side_by_side.timm()
  model = timm.create_model(f"vit_{size}_patch16_224", num_classes=0).to(device).eval()
  model = torch.compile(model) if compiled else model

  def run() -> np.ndarray:
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=dtype != "float32"):
      pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
      found = model((pixels / 255 - 0.5) / 0.5).float()
      return torch.nn.functional.normalize(found, dim=1).cpu().numpy()

  return run


if __name__ == "__main__":
  side_by_side.beside_timm(__doc__, ours, theirs)
