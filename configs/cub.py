"""CUB-200-2011, 100 / 100 classes: LaFG on a ViT-B/16 pretrained on ImageNet-21k, 224 px.

  python -m lafg_jax.main --config configs/cub.py --config.data.root=/data/CUB_200_2011

The descriptions are those shipped with the package; --config.language.descriptions=FILE has others.
Training stays near what the backbone knows: no embedding layer, class targets of weight 0.1, and
weights three quarters of the way to the trained ones (docs/study/photographs.md says what that
gained, on a small model).

  --config configs/cub.py:lafg

is the paper's recipe without that: an embedding of 512 numbers, the trained weights, and beta 1,
which the paper leaves open. LaFG's values: resize 256 and random crop 224, SGD 1e-5 with momentum
0.9 and weight decay 1e-4, batches of 900 (all 100 classes x 9) for 200 epochs. Published with them:
R@1 87.2, R@2 92.4, R@4 95.2 (Wang et al., CVPR 2026); its L_aux alone 82.6.

  --config configs/cub.py:hyp_vit

is Hyp-ViT's recipe without words (ViT-S/16, AdamW 3e-5, random-resized-crop), in sphere mode.
Published for Hyp-ViT, which is hyperbolic: R@1 85.6, R@2 91.4, R@4 94.8.

  --config configs/cub.py:small

fine-tunes a whole ViT-S/14 at 112 px with words, for two CPU cores and a quarter of an hour
(docs/guide/training.md has the command and what goes with it).
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = ("pretrained", "lafg", "hyp_vit", "small")


def get_config(variant: str = "pretrained"):
  """LaFG's recipe near its start; CUB fixes the rest. `variant`: as above."""
  default.check_variant("configs/cub.py", variant, VARIANTS)
  config = default.get_config()
  config.data.name = "cub"
  default.all_classes(config, 100, 9)
  config.language.describer = "shipped"
  # 200 epochs of 5,864 // 900 steps.
  config.train.steps = 1200
  if variant == "pretrained":
    default.near_start(config)
  if variant == "hyp_vit":
    default.hyp_vit(config)
  if variant == "small":
    default.small_machine(config)
  return config
