"""Cars-196, 98 / 98 classes: LaFG's recipe on a ViT-B/16 pretrained on ImageNet-21k, at 224 px.

  python -m lafg_jax.main --config configs/cars.py \
      --config.data.root=/data/stanford_cars --config.language.descriptions=cars.json

The folder is the native layout (devkit/, cars_train/, cars_test/), with both splits' annotations.
LaFG publishes no Cars-196 figure in the sources we follow; 200 epochs of 9 batches of 98 x 9.

  --config configs/cars.py:scratch

is a small model from random weights at 64 px instead, for two CPU cores and half an hour.
"""

from configs import default


def get_config(variant: str = "pretrained"):
  """LaFG's recipe is the default; here only what Cars-196 fixes. `variant`: pretrained, scratch."""
  if variant not in ("pretrained", "scratch"):
    raise ValueError(f"configs/cars.py:{variant}: the variants are pretrained and scratch")
  config = default.get_config()
  config.data.name = "cars"
  config.data.classes_per_batch = 98
  config.data.images_per_class = 9
  config.train.steps = 1800
  if variant == "scratch":
    scratch(config)
  return config


def scratch(config):
  """A tiny ViT with a convolutional stem; it forgives 64 px and 4,000 photographs."""
  config.data.image_size = 64
  config.data.resize_size = 64
  config.data.train_crop = "random_resized"
  config.data.crop_scale = (0.4, 1.0)
  config.data.classes_per_batch = 20
  config.data.images_per_class = 4
  config.language.encoder = "sentence-transformers/all-MiniLM-L6-v2"
  config.model.size = "custom"
  config.model.width = 128
  config.model.depth = 4
  config.model.num_heads = 4
  config.model.mlp_dim = 256
  config.model.patch_size = 16
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
  config.train.weight_decay = 0.05
  config.train.warmup = 0.1
  config.train.steps = 2500
  config.train.checkpoint_every = 500
