"""FGVC-Aircraft, 50 / 50 variants: LaFG's recipe on a ViT-B/16 pretrained on ImageNet-21k, 224 px.

  python -m lafg_jax.main --config configs/aircraft.py \
      --config.data.root=/data/fgvc-aircraft-2013b --config.language.descriptions=FILE

LaFG's values: resize 256 and random crop 224, SGD 1e-5 with momentum 0.9 and weight decay 1e-4, for
200 epochs. The batch is half of LaFG's: there are 50 training classes, x 9. FILE describes the
variants, {"707-320": [...], ...}. The banner with the copyright is cut off every photograph;
--config.data.box_crop=True shows the aircraft's box alone. LaFG publishes no figure for it.
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = ("lafg",)


def get_config(variant: str = "lafg"):
  """LaFG's recipe is the default; here only what FGVC-Aircraft fixes."""
  default.check_variant("configs/aircraft.py", variant, VARIANTS)
  config = default.get_config()
  config.data.name = "aircraft"
  default.all_classes(config, 50, 9)
  config.language.prompt = "a photo of a {}, a type of aircraft"
  # 200 epochs of 5,000 // 450 steps.
  config.train.steps = 2200
  return config
