"""Composed retrieval, embedded: CVSI on the shipped tiny CLIP and rendered finches at 48 px.

  python -m lafg_jax.main --config configs/composed/finches.py

Nothing is downloaded; minutes on two CPU cores. "This bird, but with a red crown and no wing bar":
the renderer knows all right answers, and the gallery has near misses. The captioner is the tiny
CLIP, which chooses a phrase for each attribute; the editor is a small grammar (no language model);
Phi is trained on captions of other birds. A baseline is one value: --config.query.method=lincir (or
image, text, sum, searle, pic2word, cirevl). A real captioner and language model are one value too:
--config.captioner.kind=openai, --config.editor.kind=openai.

  --config configs/composed/finches.py:known

asks in wordings that the grammar knows. Weights are chosen on the queries of composed.split=val;
the test has other birds and other queries.

Batch, rate, steps and dropout are ours: the tiny CLIP has features of 64 numbers, where a published
Phi has 512 or more.
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.composed_retrieval import default

VARIANTS = ("held_out", "known")


def get_config(variant: str = "held_out"):
  """The tiny CLIP with a captioner by attributes and an editor by rules; `variant`: as above."""
  check_variant("configs/composed/finches.py", variant, VARIANTS)
  config = default.get_config()
  config.model.pretrained = "tiny_clip"
  config.data.update(image_size=48, resize_size=48, pad="none")
  config.composed.update(source="finches", split="test", wordings=variant)
  config.captioner.update(kind="attributes", number=4, batch_size=64)
  config.editor.kind = "grammar"
  # An inversion takes half a second: SEARLE and Pic2Word see this many of 8,000 birds.
  config.mapping.update(batch_size=128, dropout=0.1, num_images=256)
  # Chosen on the queries of composed.split=val.
  config.query.update(alpha=0.6, beta=0.2, gamma=0.3)
  config.train.update(steps=300, checkpoint_every=300, log_every=50, learning_rate=1e-3)
  return config
