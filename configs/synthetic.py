"""The embedded default: rendered finches, 40 seen and 60 unseen classes; nothing is downloaded.

  python -m lafg_jax.main --config configs/synthetic.py

A small ViT with a convolutional stem is trained from scratch; a few minutes on two CPU cores.
"""

from configs import default


def get_config():
  """A tiny model and the shipped text encoder; see configs/default.py for every key."""
  config = default.get_config()
  default.small_from_scratch(config, image_size=48, patch_size=8)
  config.data.name = "synthetic"
  config.data.crop_scale = (0.5, 1.0)
  config.language.describer = "synthetic"
  config.language.encoder = "tiny_clip"
  config.language.query = "descriptions"
  config.language.num_attributes = 64
  config.language.top_k = 8
  config.train.steps = 500
  config.train.checkpoint_every = 100
  return config
