"""In-Shop Clothes Retrieval, 3,997 / 3,985 items, queries against a gallery: LaFG's recipe, 224 px.

  python -m lafg_jax.main --config configs/inshop.py --config.data.root=/data/inshop \
      --config.language.descriptions=FILE

LaFG's values: ViT-B/16, resize 256 and random crop 224, SGD 1e-5, batches of 900 for 200 epochs.
Two images an item is ours. LaFG publishes no In-Shop figure in the sources we follow.

Items have no names: an item's query is the prompt of what it is ('a photo of a women dresses') plus
the mean image feature of its training images, and FILE describes what there is, {"women dresses":
[...], ...}. Without words: --config.loss.alignment=none. --config.data.box_crop=True shows each
image's box alone (Anno/list_bbox_inshop.txt, made for the images of img.zip).
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = ("lafg",)


def get_config(variant: str = "lafg"):
  """LaFG's recipe is the default; here only what In-Shop fixes."""
  default.check_variant("configs/inshop.py", variant, VARIANTS)
  config = default.get_config()
  config.data.update(name="inshop", classes_per_batch=450, images_per_class=2)
  config.language.update(query="image", prompt="a photo of a {}")
  config.evaluate.ks = (1, 10, 20, 30)
  # 200 epochs of 25,882 // 900 steps.
  config.train.steps = 5600
  return config
