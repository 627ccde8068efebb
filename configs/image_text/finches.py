"""Image-text retrieval, embedded: DCAR on the shipped tiny CLIP and rendered finches at 48 px.

  python -m lafg_jax.main --config configs/image_text/finches.py

Nothing is downloaded; minutes on two CPU cores. It trains on 8 seen classes and retrieves among the
birds of 8 unseen ones. A baseline is one value: --config.prompts.method=maple (or coop,
vpt_shallow, vpt_deep, ivlp, clip_adapter, finetune, finetune_distill, zero_shot).

  --config configs/image_text/finches.py:seen

retrieves among other birds of the 16 classes it trains on: every fifth of each class.

The batch, the rate and the steps are ours; a finch has one caption, which its renderer wrote.
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.image_text_retrieval import default

VARIANTS = ("unseen", "seen")


def get_config(variant: str = "unseen"):
  """The tiny CLIP, and the classes that are tested; `variant`: as above."""
  check_variant("configs/image_text/finches.py", variant, VARIANTS)
  config = default.get_config()
  config.model.pretrained = "tiny_clip"
  config.data.update(image_size=48, resize_size=48)
  config.captions.update(source="finches", batch_size=96)
  if variant == "seen":
    config.captions.split = "images"
  config.train.update(steps=100, checkpoint_every=100, log_every=20)
  config.train.update(optimizer="adamw", learning_rate=1e-3)
  return config
