"""What `lafg_jax.ablate` compares where a whole pretrained backbone is fine-tuned on few images.

  python -m lafg_jax.ablate --config configs/cub.py:small \\
      --variants=lafg_jax/tasks/class_retrieval/fine_tuning_variants.py ...

As `feature_variants`, which has what both share. There is no head: training starts at what the
backbone knows. The weights that are measured lie between start and trained (train.interpolate of
the config); a cell has the trained ones beside them, as 'as_trained'.
"""

from lafg_jax.tasks.class_retrieval import feature_variants
from lafg_jax.tasks.class_retrieval.feature_variants import (
  CONTROLS,
  FIGURE_CONTROLS,
  REFERENCE,
  SEEDS,
  SHARED,
  TUNED,
  TUNED_BY,
  TUNED_GROUP,
  TUNING_SEEDS,
  scarce,
)
from lafg_jax.tasks.class_retrieval.variants import LITERAL, PROTOTYPES

# SEEDS: nothing is random before training here either, as there is no head.
__all__ = [
  "CONTROLS",
  "FIGURE_CONTROLS",
  "REFERENCE",
  "SEEDS",
  "TUNED",
  "TUNED_BY",
  "TUNED_GROUP",
  "TUNING_SEEDS",
]

PAIRS = (
  *feature_variants.PAIRS,
  *((f"prototypes@{x}", "prototypes-shuffled") for x in ("name-template", "descriptions-mean")),
)
LABELS = feature_variants.LABELS | {
  "untrained": "the backbone as it is",
  "centred": "the backbone, centred",
}
ABOUT = feature_variants.ABOUT | {
  "untrained": "the backbone as it is",
  "centred": "the backbone less the mean of training images; no training",
}
FIGURE_GROUPS = (*feature_variants.FIGURE_GROUPS, "texts")
VAL_CLASSES = 12


def starts(config):
  """{start: overrides}: the pretrained backbone, all of whose weights are trained."""
  if not config.model.pretrained or config.model.embedding_dim:
    return {"fine_tuning": "it takes model.pretrained and model.embedding_dim=0"}
  return {"fine_tuning": {}}


def groups():
  """{group: {variant: overrides}}."""
  return SHARED | {
    # Own words in other forms, and the paper's text to the letter.
    "texts": {
      "prototypes@name-template": PROTOTYPES
      | {"language.prototype": "query", "language.query": "name"},
      "prototypes@descriptions-mean": PROTOTYPES | {"language.prototype": "descriptions"},
      "prototypes@paper-literal": LITERAL,
    },
    # A batch of about as many images, and no class or image twice in it.
    "classes": scarce("classes", "data.max_train_classes", (10, 20), {10: _batch(10, 6)}),
    "images": scarce("images", "data.max_images_per_class", (2, 5), {2: _batch(32, 2)}),
  }


def _batch(classes, images):
  return {"data.classes_per_batch": classes, "data.images_per_class": images}


def grid(config):
  """What `--tune` tries: the rate and its double, each with a short warm-up and a long one.

  A rate that is too high for the first steps collapses all embeddings into one, and no later step
  mends it.
  """
  rates = [config.train.learning_rate * factor for factor in (1.0, 2.0)]
  return [
    {"train.learning_rate": rate, "train.warmup": warmup}
    for rate in rates
    for warmup in (0.05, 0.3)
  ]
