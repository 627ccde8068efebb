"""Photographs of products and what shops say of them, at 64 px, by a small CLIP trained on them.

  python experiments/small_clip.py --file=/data/fashion/metadata.csv --out=runs/small_clip

trains that CLIP from random weights: on the photographs of half of the types (34 of 68), by the
variant :seen below. Then

  python -m lafg_jax.main --config configs/image_text/fashion.py \\
      --config.captions.file=/data/fashion/metadata.csv \\
      --config.model.pretrained=runs/small_clip/clip

adapts it, frozen, to the 34 types it has not seen: four fifths of the photographs of each type
train, every fifth is tested. A baseline is one value: --config.prompts.method=maple (or coop,
vpt_shallow, vpt_deep, ivlp, clip_adapter, finetune, finetune_distill, zero_shot).

  --config configs/image_text/fashion.py:seen

trains both towers, on the other 34 types, split in the same way. It takes a model.pretrained too;
the script makes one of random weights.

metadata.csv has a row for each photograph: path, gender, category, subcategory, type, colour,
season, usage and name. A caption is the name of a product and what the columns say:

  Turtle Check Men Navy Blue Shirt, Casual Navy Blue Shirts for Men

Types are drawn by data.split_seed=1, the first seed whose halves have about as many photographs
each (4,091 and 4,268 of 8,359). No figure is comparable with a published one: the photographs are a
part of their data set and 120 x 160 px, the captions and the split are ours, and the CLIP is tiny
beside any published one.
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.image_text_retrieval import default

VARIANTS = ("unseen", "seen")
CAPTION = "{name}, {usage} {colour} {type} for {gender}"


def get_config(variant: str = "unseen"):
  """Prompts on a small CLIP for types it has not seen, or that CLIP's training; see above."""
  check_variant("configs/image_text/fashion.py", variant, VARIANTS)
  config = default.get_config()
  config.captions.update(source="table", template=CAPTION, class_column="type")
  config.captions.update(split="images", classes="test" if variant == "unseen" else "train")
  config.data.split_seed = 1
  # It is there when experiments/small_clip.py has trained it.
  config.model.pretrained = ""
  default.small_photographs(config, from_scratch=variant == "seen")
  return config
