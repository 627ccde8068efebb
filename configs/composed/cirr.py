"""CVSI on CIRR: a photograph and a sentence find another photograph; CLIP ViT-L/14, 224 px.

  python -m lafg_jax.main --config configs/composed/cirr.py \\
      --config.composed.root=/data/cirr --config.mapping.source=phi_best_large_openai.pt \\
      --config.captioner.kind=transformers \\
      --config.captioner.model=Salesforce/blip2-opt-6.7b-coco \\
      --config.editor.kind=openai --config.editor.llm=gpt-3.5-turbo

The root has captions/ and image_splits/ (branch cirr_dataset of the repository); images are found
by name below it, or below --config.composed.images. --config.composed.split=test writes the two
files of a submission, checked; val is scored here, and its figures are 1 to 3 points from those of
the test, which papers report. Without captioner, editor or Phi their terms are left out and the
others' weights are scaled up; a baseline is --config.query.method=searle. Variants: vit_l, vit_b32,
vit_g, with LinCIR's training of Phi; vit_l_searle, vit_l_pic2word, ... have that of SEARLE or
Pic2Word.

Weights, prompts and protocol are those of CVSI's code: alpha 0.6, beta 0.4, gamma 0.2; the
reference is left out. CVSI's own figures could not be found. Published by others (test, R@1 / R@5 /
R@10):

  method     ViT-B/32                ViT-L/14                ViT-G/14
  image       6.89 / 22.99 / 33.68    7.13 / 23.04
  text       21.81 / 45.22 / 57.42   20.55 / 44.17
  sum        11.71 / 35.06 / 48.94   12.27 / 35.81
  Pic2Word                           23.90 / 51.70 / 65.30
  SEARLE     24.00 / 53.42 / 66.82   24.24 / 52.48 / 66.29   34.80 / 64.07 / 75.11
  LinCIR                             25.04 / 53.25 / 66.68   35.25 / 64.72 / 76.05
  CIReVL     23.94 / 52.51 / 66.00   24.55 / 52.31 / 64.92   34.65 / 64.29 / 75.06
  LDRE       25.69 / 55.13 / 69.04   26.53 / 55.57 / 67.54   36.15 / 66.39 / 77.25
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.composed_retrieval import default

VARIANTS = default.VARIANTS


def get_config(variant: str = "vit_l"):
  """CVSI's weights and protocol for CIRR; `variant`: the CLIP."""
  check_variant("configs/composed/cirr.py", variant, VARIANTS)
  return default.published("cirr", variant)
