"""Cars-196, 98 / 98 classes: LaFG on a ViT-B/16 pretrained on ImageNet-21k, at 224 px.

  python -m lafg_jax.main --config configs/cars.py \
      --config.data.root=/data/stanford_cars

The descriptions are those shipped with the package; --config.language.descriptions=FILE has others.
The folder is the native layout (devkit/, cars_train/, cars_test/, with both splits' annotations),
or that of a folder a class (train/CLASS/, test/CLASS/), or Hugging Face's Parquet copy.
Training stays near what the backbone knows: no embedding layer, class targets of weight 0.1, and
weights three quarters of the way to the trained ones (docs/study/photographs.md says what that
gained, on a small model).

  --config configs/cars.py:lafg

is the paper's recipe without that: an embedding of 512 numbers, the trained weights, and beta 1,
which the paper leaves open. LaFG publishes no Cars-196 figure in the sources we follow; 200 epochs
of 9 batches of 98 x 9.

  --config configs/cars.py:scratch

is a small model from random weights at 64 px instead, for two CPU cores and a quarter of an hour.

  --config configs/cars.py:self_supervised

trains the tower of that model on the same photographs without labels or words. Export it
(lafg_jax.export), and :scratch starts from it by --config.model.pretrained=FOLDER.

  --config configs/cars.py:hyp_vit

is Hyp-ViT's recipe without words (ViT-S/16, AdamW 3e-5, random-resized-crop), in sphere mode.

  --config configs/cars.py:small

fine-tunes a whole ViT-S/14 at 112 px with words, for two CPU cores and a quarter of an hour
(docs/guide/training.md has the command and what goes with it).
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = ("pretrained", "lafg", "scratch", "self_supervised", "hyp_vit", "small")


def get_config(variant: str = "pretrained"):
  """LaFG's recipe near its start; Cars-196 fixes the rest. `variant`: as above."""
  default.check_variant("configs/cars.py", variant, VARIANTS)
  config = default.get_config()
  config.data.name = "cars"
  default.all_classes(config, 98, 9)
  config.language.describer = "shipped"
  config.train.steps = 1800
  if variant == "pretrained":
    default.near_start(config)
  if variant in ("scratch", "self_supervised"):
    default.photographs_from_scratch(config)
    config.language.encoder = "sentence-transformers/all-MiniLM-L6-v2"
    config.train.update(steps=2500, checkpoint_every=500)
  if variant == "self_supervised":
    default.self_supervised(config)
  if variant == "hyp_vit":
    default.hyp_vit(config)
  if variant == "small":
    default.small_machine(config)
  return config
