"""The embedded default: rendered finches, 40 seen and 60 unseen classes; nothing is downloaded.

  python -m lafg_jax.main --config configs/synthetic.py

Trains a small ViT with a convolutional stem from scratch, in a few minutes on two CPU cores. Beside
the contrastive loss it has what docs/study found best: fixed class targets without words, and
recoloured images with the teacher features of the shipped encoder.

  --config configs/synthetic.py:prototypes

aligns with the classes' own words instead, LaFG's way.

  --config configs/synthetic.py:pretrained

does so from the image tower of the shipped encoder, which has one space for images and words.

  --config configs/synthetic.py:self_supervised

trains a tower on the finches of the 40 classes without labels or words. Export it, and other runs
start from it by --config.model.pretrained=FOLDER.
"""

from lafg_jax.tasks.class_retrieval import default


def get_config(variant: str = "recoloured"):
  """A tiny model and the shipped encoder; `variant`: as above."""
  if variant not in ("recoloured", "prototypes", "pretrained", "self_supervised"):
    known = "recoloured (the default), prototypes, pretrained and self_supervised"
    raise ValueError(f"configs/synthetic.py:{variant}: the variants are {known}")
  config = default.get_config()
  default.small_from_scratch(config, image_size=48, patch_size=8)
  config.data.update(name="synthetic", crop_scale=(0.5, 1.0))
  config.language.update(describer="synthetic", encoder="tiny_clip", query="descriptions")
  config.language.update(num_attributes=64, top_k=8, tau_profile=0.02)
  config.train.update(steps=500, checkpoint_every=100)
  if variant == "recoloured":
    config.update_from_flattened_dict(default.RECOLOURED)
    # The better of 1e-3 and 2e-3 there.
    config.train.learning_rate = 2e-3
  if variant == "pretrained":
    config.update_from_flattened_dict(default.TINY_CLIP)
  if variant == "self_supervised":
    default.self_supervised(config)
    # Little jitter: finches differ in their colours.
    config.data.update(classes_per_batch=64, color_jitter=0.2)
    config.train.steps = 800
  return config
