"""What `python -m lafg_jax.ablate` compares, as plain data: edit it, or pass --variants=FILE.

A variant is {dotted key: value}, what it changes in the config; None is the model before training.
Cells take their settings in this order: the config, the start, what was tuned for this dataset,
start and variant (configs/ablation_tuned.json), the variant. NAME@CHANGE is NAME with a change, and
takes what was tuned for NAME.
"""

import itertools

# Differences are paired with this variant, and those of `full` with each control as well.
REFERENCE = "l_aux"
CONTROLS = ("l_aux+onehot", "l_aux+orthogonal", "full-shuffled")

# Groups that take fewer seeds than --seeds.
SEEDS = {"sweeps": 1}

# `--tune`: training classes held out, seeds, and the group whose variants are tuned.
VAL_CLASSES = 8
TUNING_SEEDS = 1
TUNED_GROUP = "headline"

AUX = {"loss.alignment": "none"}
ORTHOGONAL = {"loss.alignment": "orthogonal"}
# What the paper's text says, read to the letter: raw prototypes, tau_k = 1, mean projectors.
LITERAL = {
  "loss.alignment": "distribution",
  "loss.projector": "mean",
  "loss.unit_variance": False,
  "language.centre": False,
  "language.query": "name",
  "language.tau_k": 1.0,
}


def starts(config):
  """{start: overrides}, or a text that says why this config cannot have it."""
  if config.data.name == "synthetic" and not config.model.pretrained:
    return {"scratch": {}, "pretrained": tiny_clip()}
  if config.model.pretrained:
    return {"pretrained": {}, "scratch": "the config starts from model.pretrained"}
  return {"scratch": {}, "pretrained": "no weights: pass --config.model.pretrained=FOLDER"}


def tiny_clip():
  """The image tower of the shipped text encoder, all of it trained at a small learning rate."""
  return {
    "model.pretrained": "lafg_jax/language/tiny_clip",
    "model.size": "auto",
    "model.width": 768,
    "model.depth": 12,
    "model.num_heads": 12,
    "model.mlp_dim": 3072,
    "model.patch_size": 0,
    "model.pool": "auto",
    "model.options": "auto",
    "model.conv_stem": False,
    "model.layer_norm_eps": 0.0,
    "model.mean": (),
    "model.std": (),
    "train.learning_rate": 2e-4,
  }


def groups():
  """{group: {variant: overrides}}; `full` is what the config has."""
  return {
    "headline": {
      "untrained": None,
      "l_aux": AUX,
      "l_aux+onehot": {"loss.alignment": "onehot"},
      "l_aux+orthogonal": ORTHOGONAL,
      "full": {},
      "full-shuffled": {"language.shuffle": True},
    },
    "forms": forms() | {"paper-literal": LITERAL},
    "texts": {
      # The prompt alone; the mean of the descriptions alone; both through the vocabulary.
      "name-template": {"language.prototype": "query", "language.query": "name"},
      "descriptions-mean": {"language.prototype": "descriptions"},
      "vocabulary-of-names": {"language.query": "name"},
      "vocabulary-of-descriptions": {"language.query": "descriptions"},
    },
    "losses": losses(),
    "sweeps": sweeps(),
  }


def forms():
  """Each form of L_ali x projector x centring, such as 'prototype-fixed-centred'."""
  alignments = ("distribution", "prototype", "vocabulary")
  centrings = (("centred", True), ("uncentred", False))
  return {
    f"{alignment}-{projector}-{name}": {
      "loss.alignment": alignment,
      "loss.projector": projector,
      "language.centre": centre,
    }
    for alignment, projector, (name, centre) in itertools.product(
      alignments, ("free", "mean", "fixed"), centrings
    )
  }


def losses():
  """The usual losses in place of L_aux, without and with language."""
  found = {}
  for loss in ("supcon", "norm_softmax", "proxy_anchor"):
    found[loss] = AUX | {"loss.auxiliary": loss, "loss.reduction": "mean"}
    found[f"{loss}+full"] = {"loss.auxiliary": loss, "loss.reduction": "mean"}
  return found


def sweeps():
  """One key at a time, from `full`; the number of seen classes beside its controls."""
  values = {
    "loss.beta": (0.1, 0.3, 1.0, 3.0, 10.0),
    "language.num_attributes": (16, 32, 64, 128, 256),
    "language.top_k": (1, 4, 8, 16),
    "language.tau_k": (0.02, 0.05, 0.2, 1.0),
    "loss.ema_step": (0.001, 0.01, 0.1, 1.0),
    "loss.alignment_temperature": (0.02, 0.05, 0.1, 0.2),
    "loss.projector_width": (32, 64, 128, 256),
    "language.wrong_sentences": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
  }
  found: dict[str, dict[str, object]] = {
    f"full@{key}={x}": {key: x} for key, tried in values.items() for x in tried
  }
  for count in (10, 20, 40):
    # As many images a batch, of fewer classes where there are not enough.
    batch = {"data.classes_per_batch": 10, "data.images_per_class": 8} if count == 10 else {}
    for name, variant in (("l_aux", AUX), ("l_aux+orthogonal", ORTHOGONAL), ("full", {})):
      found[f"{name}@classes={count}"] = {**variant, **batch, "data.max_train_classes": count}
  return found


def grid(config):
  """What `--tune` tries for the variant that `config` is of: as many settings for every variant.

  Without L_ali there is neither beta nor its temperature, and that of L_aux takes their place.
  """
  rates = [config.train.learning_rate * factor for factor in (0.5, 1.0, 2.0)]
  tried = {"train.learning_rate": rates}
  if config.loss.alignment == "none":
    tried["loss.temperature"] = [0.05, 0.1, 0.2, 0.4]
  elif config.loss.alignment == "distribution":
    tried["loss.beta"] = [0.1, 0.3, 1.0, 3.0]
  else:
    tried |= {"loss.beta": [0.3, 1.0], "loss.alignment_temperature": [0.05, 0.1]}
  return [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
