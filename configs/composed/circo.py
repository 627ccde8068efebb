"""CVSI on CIRCO: a photograph and a sentence find several among 123,403; CLIP ViT-L/14, 224 px.

  python -m lafg_jax.main --config configs/composed/circo.py \\
      --config.composed.root=/data/CIRCO --config.mapping.source=phi_best_large_openai.pt \\
      --config.captioner.kind=file --config.captioner.file=captions.jsonl \\
      --config.editor.kind=file --config.editor.file=edits.jsonl

The root has annotations/ and COCO2017_unlabeled/. --config.composed.split=test writes a submission,
checked; val is scored here. Captions of the gallery are 1.85 million texts:
--config.captioner.gallery=False does without them (gamma is 0 then). Without captioner, editor or
Phi their terms are left out and the others' weights are scaled up; a baseline is
--config.query.method=searle. Variants: vit_l, vit_b32, vit_g, with LinCIR's training of Phi;
vit_l_searle, vit_l_pic2word, ... have that of SEARLE or Pic2Word.

Weights, prompts and protocol are those of CVSI's code: alpha 0.6, beta 0.4, gamma 0.2; the reference
stays in the gallery, and shared_concept is not read. CVSI's own figures could not be found.
Published by others (test, mAP@5 / @10 / @25 / @50):

  method     ViT-B/32                        ViT-L/14                        ViT-G/14
  image       1.34 /  1.60 /  2.12 /  2.41    2.79 /  3.18 /  3.75 /  4.12
  text        2.56 /  2.67 /  2.98 /  3.18    2.50 /  2.64 /  3.11 /  3.38
  sum         2.65 /  3.25 /  4.14 /  4.54    6.37 /  7.04 /  8.11 /  8.72
  Pic2Word                                    8.72 /  9.51 / 10.64 / 11.29
  SEARLE      9.35 /  9.94 / 11.13 / 11.84   11.68 / 12.73 / 14.33 / 15.12   13.20 / 13.85 / 15.32 / 16.04
  LinCIR                                     12.59 / 13.58 / 15.00 / 15.85   19.71 / 21.01 / 23.13 / 24.18
  CIReVL     14.94 / 15.42 / 17.00 / 17.82   18.57 / 19.01 / 20.89 / 21.80   26.77 / 27.59 / 29.96 / 31.03
  LDRE       17.96 / 18.32 / 20.21 / 21.11   23.35 / 24.03 / 26.44 / 27.50   31.12 / 32.24 / 34.95 / 36.03
"""  # noqa: E501

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.composed_retrieval import default

VARIANTS = default.VARIANTS


def get_config(variant: str = "vit_l"):
  """CVSI's weights and protocol for CIRCO; `variant`: the CLIP."""
  check_variant("configs/composed/circo.py", variant, VARIANTS)
  return default.published("circo", variant)
