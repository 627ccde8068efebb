"""Images a second of a training step, beside timm's ViT in PyTorch, eager and compiled.

  python benchmarks/train_step.py [--size small] [--batch 32] [--rounds 5] [--dtype float32]

Both sides take uint8 images of 224 px, normalise them, and train a ViT of patches of 16 px with a
linear head on the pairwise contrastive loss, by AdamW: forward, backward and update. torch.compile
is left out, with a line, where no C++ compiler is. On a GPU pass --dtype bfloat16.
"""

import jax
import numpy as np
import side_by_side
import torch

from lafg_jax.models.options import SIZES
from lafg_jax.runtime import devices
from lafg_jax.tasks.class_retrieval import objective
from lafg_jax.training import step as training_step

CLASSES = 8


def our_program(size: str, batch: int, dtype: str, images: np.ndarray):
  """The compiled step, and a job that runs it."""
  config = side_by_side.vit_config(size, dtype)
  config.data.update(classes_per_batch=CLASSES, images_per_class=batch // CLASSES)
  config.loss.update(alignment="none", reduction="mean")
  config.train.update(optimizer="adamw", learning_rate=1e-6, clip_norm=0.0, rows_per_chunk=batch)
  made = objective.build(config, CLASSES)
  optimizer, state = training_step.init_state(made, config.train)
  step = training_step.make_step(made, optimizer, config.train, None)
  given = {"image": jax.device_put(images), "label": np.arange(batch, dtype=np.int32) % CLASSES}
  given["label"] = jax.device_put(given["label"])
  held, fixed = [jax.device_put(state)], (given, made.constants, np.uint32(0))
  # As the loop compiles it.
  compiled = devices.compiled(jax.jit(step, donate_argnums=0), held[0], *fixed)

  def run() -> None:
    held[0], metrics = compiled(held[0], *fixed)
    jax.block_until_ready((held[0], metrics))

  return compiled, run


def our_step(size: str, batch: int, dtype: str, images: np.ndarray):
  return our_program(size, batch, dtype, images)[1]


def contrastive(x: torch.Tensor, slots: int) -> torch.Tensor:
  """Each image against its classmate in the next slot, among the images of that slot."""
  x = torch.nn.functional.normalize(x, dim=1).view(slots, CLASSES, -1)
  total, target = 0.0, torch.arange(CLASSES, device=x.device)
  for k in range(slots):
    for j in range(slots):
      if j != k:
        total = total + torch.nn.functional.cross_entropy(x[k] @ x[j].T * 20, target)
  return total / (slots * (slots - 1))


def torch_step(size: str, batch: int, dtype: str, images: np.ndarray, compiled: bool):
  device = "cuda" if torch.cuda.is_available() else "cpu"
  timm = side_by_side.timm()
  backbone = timm.create_model(f"vit_{size}_patch16_224", num_classes=0)
  model = torch.nn.Sequential(backbone, torch.nn.Linear(SIZES[size][0], 512)).to(device)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda")
  pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
  lower = dtype == "bfloat16"

  def loss(pixels: torch.Tensor) -> torch.Tensor:
    with torch.autocast(device, torch.bfloat16, enabled=lower):
      found = model((pixels.float() / 255 - 0.5) / 0.5)
    return contrastive(found.float(), batch // CLASSES)

  loss_of = torch.compile(loss) if compiled else loss

  def run() -> None:
    optimizer.zero_grad(set_to_none=True)
    loss_of(pixels).backward()
    optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

  return run


if __name__ == "__main__":
  side_by_side.beside_timm(__doc__, our_step, torch_step)
