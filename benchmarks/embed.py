"""Images a second of embedding a gallery, beside timm's ViT in PyTorch.

  python benchmarks/embed.py [--size small] [--batch 32] [--rounds 5] [--dtype float32]

Both sides turn uint8 images of 224 px into unit vectors of a ViT of patches of 16 px.
"""

import argparse
import shutil

import jax
import numpy as np
import side_by_side
import torch

from lafg_jax.evaluate.embed import make_embed
from lafg_jax.models import embedder as embedders
from lafg_jax.models.options import SIZES
from lafg_jax.tasks.class_retrieval import default


def ours(size: str, dtype: str, images: np.ndarray):
  config = default.get_config()
  config.model.update(size=size, patch_size=16, pool="token", options="", pretrained="")
  config.model.update(mean=(0.5,) * 3, std=(0.5,) * 3, layer_norm_eps=1e-6, dtype=dtype)
  config.model.embedding_dim = 0
  embed = make_embed(*embedders.init_model(config))
  return lambda: embed(images)


def theirs(size: str, dtype: str, images: np.ndarray, compiled: bool):
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


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", default="small", choices=SIZES)
  parser.add_argument("--batch", type=int, default=32)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  args = parser.parse_args()
  images = np.random.default_rng(0).integers(0, 256, (args.batch, 224, 224, 3), np.uint8)
  print(side_by_side.machine("jax", "torch", "timm"))
  print(f"ViT of size {args.size}, batches of {args.batch}, {args.dtype}")
  jobs = {
    "timm, eager": theirs(args.size, args.dtype, images, False),
    "lafg_jax": ours(args.size, args.dtype, images),
  }
  if shutil.which("c++") or shutil.which("g++"):
    jobs["timm, torch.compile"] = theirs(args.size, args.dtype, images, True)
  else:
    print("torch.compile is left out: no C++ compiler here")
  seconds = side_by_side.turns(jobs, args.rounds)
  print("\n".join(side_by_side.table(seconds, args.batch, "images/s", "timm, eager")))
  print(f"{jax.default_backend()}, peak memory of the process: {side_by_side.peak_mib():.0f} MiB")


if __name__ == "__main__":
  main()
