"""Cars-196, 98 / 98 classes: LaFG's recipe on a ViT-B/16 pretrained on ImageNet-21k, at 224 px.

  python -m lafg_jax.main --config configs/cars.py \
      --config.data.root=/data/stanford_cars --config.language.descriptions=cars.json

The folder is the native layout (devkit/, cars_train/, cars_test/), with both splits' annotations.
LaFG publishes no Cars-196 figure in the sources we follow; 200 epochs of 9 batches of 98 x 9.
"""

from configs import default


def get_config():
  """LaFG's recipe is the default; here only what Cars-196 fixes."""
  config = default.get_config()
  config.data.name = "cars"
  config.data.classes_per_batch = 98
  config.data.images_per_class = 9
  config.train.steps = 1800
  return config
