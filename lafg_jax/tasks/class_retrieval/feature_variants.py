"""What `lafg_jax.ablate` compares on features that are there already (configs/features.py).

As `variants`, which has what both share. The start is how the head starts; each variant takes the
settings that --tune chose for it on held-out training classes, of equally many.
"""

from lafg_jax.tasks.class_retrieval import variants
from lafg_jax.tasks.class_retrieval.variants import (
  AUX,
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
  *((x, "centred") for x in ("l_aux", "proxy_anchor", "l_aux+orthogonal", "prototypes")),
)
LABELS = variants.LABELS | {
  # Of these variants it is how many, and not class targets made of images.
  "@images": "images a class",
  "untrained": "the features as they are",
  "centred": "the features, centred",
  "proxy_anchor": "Proxy-Anchor alone",
}
ABOUT = variants.ABOUT | {
  "untrained": "the features, as the head starts",
  "centred": "the head as it starts, and the mean of training embeddings subtracted; no training",
  "proxy_anchor": "Proxy-Anchor in place of L_aux; no class targets and no words",
}
FIGURE_GROUPS = ("start", "headline")
FIGURE_CONTROLS = ("prototypes-shuffled",)

# The features are the same for every seed; so is a head that starts from them.
SEEDS = {"start": 1}
VAL_CLASSES = 20
TUNING_SEEDS = 1
TUNED_GROUP = "headline"
TUNED_BY = "map@r"

PROXY_ANCHOR = AUX | {"loss.auxiliary": "proxy_anchor"}
# The model before training, and the same less the mean embedding of training images.
UNTRAINED: dict[str, object] = AUX | {"evaluate.source": "untrained", "model.centre": False}
CENTRED: dict[str, object] = UNTRAINED | {"model.centre": True}
# Compared where labels are scarce.
SCARCE: dict[str, dict[str, object]] = {
  "l_aux": AUX,
  "l_aux+orthogonal": ORTHOGONAL,
  "prototypes": PROTOTYPES,
  "prototypes-shuffled": SHUFFLED,
}


# The groups that the study of fine-tuning has too.
SHARED = {
  "start": {"untrained": UNTRAINED, "centred": CENTRED},
  "headline": {
    "l_aux": AUX,
    "proxy_anchor": PROXY_ANCHOR,
    "l_aux+onehot": ONEHOT,
    "l_aux+orthogonal": ORTHOGONAL,
    "prototypes": PROTOTYPES,
    "prototypes-shuffled": SHUFFLED,
  },
}


def starts(config):
  """{start: overrides}: a random head, one that is the identity, and principal components.

  The identity has as many numbers as the features, and a random head and components 512 at most.
  """
  from lafg_jax.tasks.class_retrieval import given_features

  width = given_features.sized(config).model.width
  kept = {"model.centre": True}
  return {
    "random": {"model.head_init": "random", "model.embedding_dim": 512, "model.centre": False},
    "identity": {"model.head_init": "identity", "model.embedding_dim": width} | kept,
    "pca": {"model.head_init": "pca", "model.embedding_dim": min(width, 512)} | kept,
  }


def groups():
  """{group: {variant: overrides}}."""
  return SHARED | {
    "classes": scarce("classes", "data.max_train_classes", (10, 20, "all")),
    "images": scarce("images", "data.max_images_per_class", (1, 2, 5, "all")),
  }


def scarce(change, key, values, batches=None):
  """{'NAME@CHANGE=x': overrides} of `SCARCE`, for scarce labels; 'all' changes nothing.

  `batches` has more overrides for some of the values.
  """
  return {
    f"{name}@{change}={x}": of | ({} if x == "all" else {key: x}) | (batches or {}).get(x, {})
    for x in values
    for name, of in SCARCE.items()
  }


def grid(config):
  """The settings that `--tune` tries, from close to the start to far from it: rates, and weights
  half-way from the start or of the end. A random head has no start worth keeping.
  """
  rates = (1e-4, 3e-4, 1e-3, 3e-3)
  alphas = (1.0,) * 4 if config.model.head_init == "random" else (0.5, 0.5, 1.0, 1.0)
  pairs = zip(rates, alphas, strict=True)
  return [{"train.learning_rate": rate, "train.interpolate": alpha} for rate, alpha in pairs]
