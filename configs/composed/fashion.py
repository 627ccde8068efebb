"""Composed retrieval on photographs of products at 64 px, by a small CLIP trained on some of them.

  python experiments/small_clip.py --file=/data/fashion/metadata.csv --out=runs/small_clip
  python -m lafg_jax.main --config configs/composed/fashion.py \\
      --config.composed.file=/data/fashion/metadata.csv \\
      --config.model.pretrained=runs/small_clip/clip

The first command trains the CLIP on half of the types (configs/image_text/fashion.py:seen). Queries
are made of the table: "the same, but red", "for women", "formal instead of casual"; right answers
are all images that agree in everything else. Variants:

  unseen   queries and gallery of the types that the small CLIP has not seen
  seen     of the types it has seen, photographs that did not train it

Types are drawn by data.split_seed=1, as those of the small CLIP. The captioner is
the small CLIP itself, which chooses a value for each attribute, and the editor a few rules, no
language model; --config.captioner.kind=openai and --config.editor.kind=openai take real ones.
--config.editor.kind=perfect is the ceiling of both.
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.composed_retrieval import default

VARIANTS = ("unseen", "seen")
CAPTION = "{usage} {colour} {type} for {gender}"


def get_config(variant: str = "unseen"):
  """Queries made of a table of attributes; `variant`: as above."""
  check_variant("configs/composed/fashion.py", variant, VARIANTS)
  config = default.get_config()
  config.composed.update(source="attributes", split="test", types=variant, template=CAPTION)
  config.composed.columns = ("colour", "gender", "usage")
  config.data.update(image_size=64, resize_size=64, split_seed=1)
  # It is there when experiments/small_clip.py has trained it.
  config.model.pretrained = ""
  config.captioner.update(kind="attributes", number=4, batch_size=64)
  config.editor.kind = "grammar"
  # An inversion takes about a second: SEARLE and Pic2Word see this many photographs.
  config.mapping.update(batch_size=128, dropout=0.1, num_images=128)
  # Chosen on the queries of composed.split=val, of unseen types.
  config.query.update(alpha=0.2, beta=0.2, gamma=0.2)
  config.train.update(steps=300, checkpoint_every=300, log_every=50, learning_rate=1e-3)
  return config
