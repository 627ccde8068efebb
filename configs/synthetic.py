"""The embedded default: rendered finches, 40 seen and 60 unseen classes; nothing is downloaded.

  python -m lafg_jax.main --config configs/synthetic.py

A small ViT with a convolutional stem is trained from scratch; a few minutes on two CPU cores.
"""

from configs import default


def get_config():
  """A tiny model and the shipped text encoder; see configs/default.py for every key."""
  config = default.get_config()
  config.data.name = "synthetic"
  config.data.image_size = 48
  config.data.resize_size = 48
  config.data.train_crop = "random_resized"
  config.data.crop_scale = (0.5, 1.0)
  config.data.classes_per_batch = 20
  config.data.images_per_class = 4
  config.language.describer = "synthetic"
  config.language.encoder = "tiny_clip"
  config.language.query = "descriptions"
  config.language.num_attributes = 64
  config.language.top_k = 8
  config.model.size = "custom"
  config.model.width = 128
  config.model.depth = 4
  config.model.num_heads = 4
  config.model.mlp_dim = 256
  config.model.patch_size = 8
  config.model.pool = "mean"
  config.model.conv_stem = True
  config.model.layer_norm_eps = 1e-6
  config.model.embedding_dim = 128
  config.model.dtype = "float32"
  config.model.pretrained = ""
  config.loss.reduction = "mean"
  config.loss.projector_width = 128
  config.train.optimizer = "adamw"
  config.train.learning_rate = 1e-3
  config.train.weight_decay = 1e-4
  config.train.warmup = 0.1
  config.train.steps = 500
  config.train.checkpoint_every = 100
  return config
