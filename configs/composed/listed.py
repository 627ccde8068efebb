"""Composed queries of one's own: a JSONL of reference, text and targets, and a folder of images.

  python -m lafg_jax.main --config configs/composed/listed.py \\
      --config.composed.file=queries.jsonl --config.composed.images=/data/photographs \\
      --config.mapping.source=phi_best_large_openai.pt

A line is {"id": "1", "reference": "a.jpg", "text": "the same, but red", "targets": ["b.jpg"]};
`kinds` and `edited` are read too. The gallery is all images of the folder, or those that
--config.composed.gallery_file names. Without a trained Phi, --config.mapping.texts=FILE trains one
on a text a line. Captioner and editor are one value each, and left out by default: the query is
then q_f and q_v, half and half. Weights are ours; choose them on queries of your own. Variants:
vit_l, vit_b32, vit_g, with LinCIR's training of Phi; vit_l_searle, vit_l_pic2word, ... have that of
SEARLE or Pic2Word.
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.composed_retrieval import default

VARIANTS = default.VARIANTS


def get_config(variant: str = "vit_l"):
  """Queries of a file, on a published CLIP; `variant`: which."""
  check_variant("configs/composed/listed.py", variant, VARIANTS)
  config = default.published("listed", variant)
  config.query.update(alpha=0.4, beta=0.3)
  return config
