"""The embedded default: rendered finches, 40 seen and 60 unseen classes; nothing is downloaded.

  python -m lafg_jax.main --config configs/synthetic.py

A small ViT with a convolutional stem is trained from scratch, in a few minutes on two CPU cores.
Beside the contrastive loss, images are aligned with LaFG's prototypes, which are made of words, and
recoloured images with the frozen encoder's teacher features of them.

  --config configs/synthetic.py:fixed_vectors

has fixed class vectors without words in place of the prototypes: the best beside L_aux that
docs/study found.

  --config configs/synthetic.py:prototypes

has the prototypes alone, as LaFG has.

  --config configs/synthetic.py:pretrained

has the prototypes alone and starts from the image tower of the shipped encoder, in the space that
its images and words share. That tower has seen finches, and trained weights lose against it: 150
steps, and weights a quarter of the way to the trained ones, chosen on held-out training classes. On
unseen ones they are level with the tower (docs/study/finches_clip.md).

  --config configs/synthetic.py:self_supervised

trains a tower on the finches of the 40 classes without labels or words. Export it, and other runs
start from it by --config.model.pretrained=FOLDER.
"""

from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils import config_keys

VARIANTS = ("default", "fixed_vectors", "prototypes", "pretrained", "self_supervised")


def get_config(variant: str = "default"):
  """A tiny model and the shipped encoder; `variant`: as above."""
  default.check_variant("configs/synthetic.py", variant, VARIANTS)
  config = default.get_config()
  default.small_from_scratch(config, image_size=48, patch_size=8)
  config.data.update(name="synthetic", crop_scale=(0.5, 1.0))
  config.language.update(describer="synthetic", encoder="tiny_clip", query="descriptions")
  config.language.update(num_attributes=64, top_k=8, tau_profile=0.02)
  config.train.update(steps=500, checkpoint_every=100)
  if variant in ("default", "fixed_vectors"):
    config.update_from_flattened_dict(default.TEACHER)
    # The better of 1e-3 and 2e-3 on held-out training classes, for prototypes and fixed vectors.
    config.train.learning_rate = 2e-3
  if variant == "fixed_vectors":
    config.loss.alignment = "orthogonal"
  if variant == "pretrained":
    config.update_from_flattened_dict(default.TINY_CLIP)
    config.train.update(steps=150, learning_rate=1e-4)
    default.near_start(config, beta=1.0, alpha=0.25)
    # Other weights have no projection into the space of the encoder's texts.
    towers = ("model.pretrained", "language.encoder")
    config_keys.follow(config, "loss.projector_init", _projector_init, *towers)
  if variant == "self_supervised":
    default.self_supervised(config)
    # Little jitter: finches differ in their colours.
    config.data.update(classes_per_batch=64, color_jitter=0.2)
    config.train.steps = 800
  return config


def _projector_init(value: str, pretrained: str, encoder: str) -> str:
  return value if pretrained == encoder else "random"
