"""Photographs of cars with the captions of FDRD, at 64 px, by a small CLIP trained on some of them.

  python experiments/small_clip.py --of=cars --file=/data/fdrd/inter_car_train.json \\
      --root=/data/stanford_cars --out=runs/small_clip_cars

trains that CLIP from random weights: on the cars of half of the classes, by the variant :seen
below. Then

  python -m lafg_jax.main --config configs/image_text/cars.py \\
      --config.captions.file=/data/fdrd/inter_car_train.json \\
      --config.data.root=/data/stanford_cars --config.model.pretrained=runs/small_clip_cars/clip

adapts it, frozen. A baseline is one value: --config.prompts.method=maple. Variants:

  images   all classes; of each, every fifth photograph is the test (with the 6,094 of 147 classes
           that are named below: 4,935 train, 1,159 test)
  unseen   the same of the classes that the small CLIP has not seen
  classes  class-disjoint: trains on the classes it has seen, tests on the others
  seen     the training of the small CLIP: both towers, on the classes it sees

Photographs that one variant tests, no variant but `classes` trains on, and :classes trains on none
of the classes it tests. Classes are drawn by data.split_seed=0.

FDRD's own test captions of cars could not be had. These are 6,094 of its 8,144 training captions,
those of classes 1 to 147 of 196, over photographs that are cropped to the car, so that words about
the surroundings have no evidence. No figure is comparable with the published row of StanfordCars,
or with any published one.
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.image_text_retrieval import default

VARIANTS = ("images", "unseen", "classes", "seen")


def get_config(variant: str = "images"):
  """Prompts on a small CLIP, or that CLIP's training; `variant`: as above."""
  check_variant("configs/image_text/cars.py", variant, VARIANTS)
  config = default.get_config()
  config.captions.source = "fdrd"
  config.captions.split = "classes" if variant == "classes" else "images"
  if variant in ("seen", "unseen"):
    config.captions.classes = "test" if variant == "unseen" else "train"
  if variant != "images":
    config.data.split_seed = 0
  # It is there when experiments/small_clip.py has trained it.
  config.model.pretrained = ""
  default.small_photographs(config, from_scratch=variant == "seen")
  return config
