"""CVSI on FashionIQ: a garment and two phrases find another garment; CLIP ViT-L/14, 224 px.

  python -m lafg_jax.main --config configs/composed/fashioniq.py \\
      --config.composed.root=/data/fashion_iq --config.mapping.source=phi_best_large_openai.pt \\
      --config.captioner.kind=transformers \\
      --config.captioner.model=Salesforce/blip2-opt-6.7b-coco \\
      --config.editor.kind=openai --config.editor.llm=gpt-3.5-turbo

The root has captions/, image_splits/ and images/. Each category is searched in its original split;
reported is the mean of the three (val; the test's answers are secret). Without a trained Phi,
--config.mapping.texts=FILE trains one on a text a line. Without captioner and editor their terms
are left out and the others' weights are scaled up; a baseline is --config.query.method=searle.
Variants: vit_l, vit_b32, vit_g, with LinCIR's training of Phi; vit_l_searle, vit_l_pic2word, ...
have that of SEARLE or Pic2Word.

Weights, prompts and protocol are those of CVSI's code: alpha 0.2, beta 0.6, gamma 0.1, and t_c
normalised again. CVSI's own figures could not be found. Published by others (val, R@10 / R@50,
mean of the categories):

  method     ViT-B/32        ViT-L/14        ViT-G/14
  image       5.90 / 13.37
  text       18.70 / 36.84
  sum        14.78 / 29.60
  Pic2Word                   24.70 / 43.70   31.28 / 51.89
  SEARLE     22.89 / 42.53   25.56 / 46.23   34.81 / 55.71
  LinCIR                     26.28 / 46.49   45.11 / 65.69
  CIReVL     28.29 / 49.35   28.55 / 48.57   32.19 / 52.36
  LDRE       24.81 / 45.63   28.51 / 50.54   32.49 / 55.46

CIReVL's ViT-B/32 has OpenCLIP's weights; with OpenAI's, R@10 of dresses is 14.5 and not 25.3.
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.composed_retrieval import default

VARIANTS = default.VARIANTS


def get_config(variant: str = "vit_l"):
  """CVSI's weights and protocol for FashionIQ; `variant`: the CLIP."""
  check_variant("configs/composed/fashioniq.py", variant, VARIANTS)
  config = default.published("fashioniq", variant)
  config.query.update(alpha=0.2, beta=0.6, gamma=0.1, normalize_captions=True)
  return config
