"""What `lafg_jax.ablate` compares where a whole pretrained backbone is fine-tuned on few images.

  python -m lafg_jax.ablate --config configs/cub.py:small \\
      --variants=lafg_jax/tasks/class_retrieval/fine_tuning_variants.py ...

As `variants`, which has what both share. There is no head: training starts at what the backbone
knows. The weights that are measured lie between start and trained (train.interpolate of the
config); a cell has the trained ones beside them, as 'as_trained'.
"""

from lafg_jax.tasks.class_retrieval import feature_variants, variants
from lafg_jax.tasks.class_retrieval.feature_variants import CENTRED, PROXY_ANCHOR, UNTRAINED, scarce
from lafg_jax.tasks.class_retrieval.variants import (
  AUX,
  LITERAL,
  ONEHOT,
  ORTHOGONAL,
  PROTOTYPES,
  SHUFFLED,
  TUNED,
)

__all__ = ["TUNED"]

REFERENCE = "l_aux"
CONTROLS = ()
PAIRS = (
  *(("prototypes", x) for x in ("prototypes-shuffled", "l_aux+orthogonal", "l_aux+onehot")),
  *((f"prototypes@{x}", "prototypes-shuffled") for x in ("name-template", "descriptions-mean")),
  *((x, "centred") for x in ("l_aux", "proxy_anchor", "l_aux+orthogonal", "prototypes")),
)
LABELS = variants.LABELS | {
  "@images": "images a class",
  "untrained": "the backbone as it is",
  "centred": "the backbone, centred",
  "proxy_anchor": "Proxy-Anchor alone",
}
ABOUT = variants.ABOUT | {
  "untrained": "the backbone as it is",
  "centred": "the backbone less the mean of training images; no training",
  "proxy_anchor": feature_variants.ABOUT["proxy_anchor"],
}
FIGURE_GROUPS = ("start", "headline", "texts")
FIGURE_CONTROLS = ("prototypes-shuffled",)

# Nothing is random before training: there is no head.
SEEDS = {"start": 1}
VAL_CLASSES = 12
TUNING_SEEDS = 1
TUNED_GROUP = "headline"
TUNED_BY = "map@r"


def starts(config):
  """{start: overrides}: the pretrained backbone, all of whose weights are trained."""
  if not config.model.pretrained or config.model.embedding_dim:
    return {"fine_tuning": "it takes model.pretrained and model.embedding_dim=0"}
  return {"fine_tuning": {}}


def groups():
  """{group: {variant: overrides}}."""
  return {
    "start": {"untrained": UNTRAINED, "centred": CENTRED},
    "headline": {
      "l_aux": AUX,
      "proxy_anchor": PROXY_ANCHOR,
      "l_aux+onehot": ONEHOT,
      "l_aux+orthogonal": ORTHOGONAL,
      "prototypes": PROTOTYPES,
      "prototypes-shuffled": SHUFFLED,
    },
    # Own words in other forms, and the paper's text to the letter.
    "texts": {
      "prototypes@name-template": PROTOTYPES
      | {"language.prototype": "query", "language.query": "name"},
      "prototypes@descriptions-mean": PROTOTYPES | {"language.prototype": "descriptions"},
      "prototypes@paper-literal": LITERAL,
    },
    "classes": scarce("classes", "data.max_train_classes", (10, 20)),
    "images": scarce("images", "data.max_images_per_class", (2, 5)),
  }


def grid(config):
  """What `--tune` tries: two weights of the class targets; without any, two rates."""
  if config.loss.alignment == "none":
    return [{"train.learning_rate": config.train.learning_rate * factor} for factor in (0.5, 1.0)]
  return [{"loss.beta": beta} for beta in (0.1, 1.0)]
