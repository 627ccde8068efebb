"""Stanford Online Products, 11,318 / 11,316 classes: LaFG's recipe on a ViT-B/16, 224 px.

  python -m lafg_jax.main --config configs/sop.py --config.data.root=/data/Stanford_Online_Products

LaFG's values: resize 256 and random crop 224, SGD 1e-5, batches of 900 for 200 epochs; two images a
class, as Hyp-ViT has it. Published: R@1 87.1 (LaFG), 85.9 (SEE).

Items have no names: a class's query is the prompt of what it is ('a photo of a bicycle') plus the
mean image feature of its training images, and the shipped descriptions are of the super-classes.
This reading is ours; the paper leaves it open. Without words: --config.loss.alignment=none.

  --config configs/sop.py:hyp_vit

is Hyp-ViT's recipe without words (ViT-S/16, AdamW 3e-5, random-resized-crop), in sphere mode.
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = ("lafg", "hyp_vit")


def get_config(variant: str = "lafg"):
  """LaFG's recipe is the default; here only what SOP fixes. `variant`: lafg, hyp_vit."""
  default.check_variant("configs/sop.py", variant, VARIANTS)
  config = default.get_config()
  config.data.update(name="sop", classes_per_batch=450, images_per_class=2)
  config.language.update(describer="shipped", query="image", prompt="a photo of a {}")
  config.evaluate.ks = (1, 10, 100, 1000)
  # 200 epochs of 59,551 // 900 steps.
  config.train.steps = 13_200
  if variant == "hyp_vit":
    default.hyp_vit(config)
  return config
