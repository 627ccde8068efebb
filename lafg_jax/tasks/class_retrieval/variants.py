"""What `python -m lafg_jax.ablate` compares, as plain data; --variants=FILE takes another file.

A variant is {dotted key: value}, what it changes in the config; None is the model before training.
Cells take their settings in this order: the config, the start, what was tuned for this dataset,
start and variant (`TUNED`), the variant. What was tuned for a variant is above its own values.
NAME@CHANGE is NAME with a change, takes what was tuned for NAME, and its change is above it.
"""

import itertools
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.tasks.class_retrieval import choices, given_features
from lafg_jax.tasks.class_retrieval.default import TEACHER, TINY_CLIP
from lafg_jax.utils.files import fingerprint

# What --tune chose; --tuned=FILE takes another file.
TUNED = Path(__file__).with_name("ablation_tuned.json")

# Differences are paired with this variant, and those of `default` with each control as well.
# Variants NAME@CHANGE are paired with those of the same change too.
REFERENCE = "l_aux"
CONTROLS = ("l_aux+onehot", "l_aux+orthogonal", "default-shuffled")

# Further differences, where both have been measured.
PAIRS = (
  *(("default", other) for other in ("prototypes", "fixed+teacher")),
  *(("default", f"default@only-{part}-shuffled") for part in ("prototypes", "teacher")),
  *(("fixed+teacher", f"fixed+teacher{other}") for other in ("-shuffled", "@random", "@feature")),
  *(("fixed+teacher", x) for x in ("l_aux+onehot", "l_aux+orthogonal", "prototypes")),
  *((f"fixed+teacher@{form}", "l_aux+orthogonal") for form in ("random", "feature")),
  *(("prototypes", other) for other in ("l_aux+onehot", "l_aux+orthogonal", "prototypes-shuffled")),
  ("prototypes@profiles", "prototypes"),
)

# Variants in plain words, for tables and figures: NAME, '@CHANGE' or '@KEY', or a whole variant.
LABELS = {
  "untrained": "before training",
  "l_aux": "contrastive loss alone",
  "l_aux+onehot": "learned class vectors",
  "l_aux+orthogonal": "fixed class vectors",
  "default": "the config's default",
  "default-shuffled": "the default, all shuffled",
  "default@only-prototypes-shuffled": "the default, prototypes shuffled",
  "default@only-teacher-shuffled": "the default, teacher features shuffled",
  "fixed+teacher": "fixed class vectors, teacher features",
  "fixed+teacher-shuffled": "fixed class vectors, teacher features shuffled",
  "fixed+teacher@random": "fixed class vectors, features in random directions",
  "fixed+teacher@feature": "fixed class vectors, plain image features",
  "prototypes": "prototypes of words",
  "prototypes-shuffled": "prototypes of other classes",
  "l_aux@supcon": "SupCon alone",
  "l_aux@norm_softmax": "normalised softmax alone",
  "l_aux@proxy_anchor": "Proxy-Anchor alone",
  "@supcon": "with SupCon",
  "@norm_softmax": "with normalised softmax",
  "@proxy_anchor": "with Proxy-Anchor",
  "@classes": "training classes",
  "@paper-literal": "as the paper's text reads",
  "@images": "from images, without words",
  "@name-template": "of class names in a prompt",
  "@descriptions-mean": "means of the descriptions",
  "@vocabulary-of-names": "queried by names",
  "@vocabulary-of-descriptions": "queried by descriptions",
}
# What they are, for the legend of the study's page.
ABOUT = {
  "untrained": "the model before training",
  "l_aux": "L_aux alone: images against images, no class targets and no words",
  "l_aux+onehot": "L_aux, and class targets without words: a learned vector a class",
  "l_aux+orthogonal": "L_aux, and class targets without words: a fixed random vector a class",
  "default": "what the config says, with its words",
  "default-shuffled": "control: the default with the words and teacher features of others",
  "default@only-prototypes-shuffled": "control: the default with the words of other classes",
  "default@only-teacher-shuffled": "control: the default with teacher features of other images",
  "fixed+teacher": "fixed class vectors without words, and teacher features (L_img)",
  "fixed+teacher-shuffled": "control: fixed class vectors, and teacher features of other images",
  "fixed+teacher@random": "control: fixed class vectors; L_img by cosines to random directions",
  "fixed+teacher@feature": "control: fixed class vectors; L_img by the plain image feature",
  "prototypes": "L_aux, and LaFG's class targets: prototypes of the class's own words",
  "prototypes-shuffled": "control: the prototypes of other classes",
}
# The figure of the means shows these groups, and marks these variants as controls.
FIGURE_GROUPS = ("headline", "prototypes", "teacher")
FIGURE_CONTROLS = (
  *(*CONTROLS, "prototypes-shuffled", "fixed+teacher-shuffled", "fixed+teacher@random"),
  *("default@only-prototypes-shuffled", "default@only-teacher-shuffled", "fixed+teacher@feature"),
)

# Groups that take fewer seeds than --seeds.
SEEDS = {"sweeps": 1}

# `--tune`: training classes held out, seeds, and the group whose variants are tuned.
VAL_CLASSES = 12
TUNING_SEEDS = 1
TUNED_GROUP = "headline"
# What of a trial ranks the settings.
TUNED_BY = "map@r"

# Without L_img; image_beta has its default, as a key must that nothing reads.
NO_IMG = {"data.recoloured_per_batch": 0, "loss.image_alignment": "none", "loss.image_beta": 5.0}
AUX = {"loss.alignment": "none"} | NO_IMG
ONEHOT = {"loss.alignment": "onehot"} | NO_IMG
ORTHOGONAL = {"loss.alignment": "orthogonal"} | NO_IMG
# LaFG's: the words of the classes.
PROTOTYPES: dict[str, object] = {"loss.alignment": "prototype"} | NO_IMG
# The words of other classes, and the teacher features of other images.
ALL_SHUFFLED: dict[str, object] = {"language.shuffle": "all"}
SHUFFLED = PROTOTYPES | ALL_SHUFFLED
# Teacher features of recoloured images, which are of no class, beside fixed class vectors.
FIXED_TEACHER = TEACHER | {"loss.alignment": "orthogonal"}
FIXED_TEACHER_SHUFFLED = FIXED_TEACHER | ALL_SHUFFLED
# Ours, of the same sentences; profiles are not in the space of the texts.
PROFILES = PROTOTYPES | {"language.prototype": "profile", "loss.projector_init": "random"}
# Other losses and numbers of classes are compared in these: without class targets, with targets
# that have no words, and with language.
COMPARED: dict[str, dict[str, object]] = {
  "l_aux": AUX,
  "l_aux+orthogonal": ORTHOGONAL,
  "prototypes": PROTOTYPES,
  "fixed+teacher": FIXED_TEACHER,
}
# What the paper's text says, read to the letter: raw prototypes, tau_k = 1, mean projectors.
LITERAL = NO_IMG | {
  "loss.alignment": "distribution",
  "loss.projector": "mean",
  "loss.projector_init": "random",
  "loss.unit_variance": False,
  "language.centre": False,
  "language.query": "name",
  "language.tau_k": 1.0,
}


def starts(config):
  """{start: overrides}, or a text that says why this config cannot have it."""
  if config.data.name == "synthetic" and config.model.pretrained not in ("", "tiny_clip"):
    # `pretrained` is the tower of the shipped encoder, which has seen finches with their words.
    return {"self-supervised": {}}
  if config.data.name == "synthetic" and not config.model.pretrained:
    # The tower of the shipped encoder, all of it trained at a small learning rate and for fewer
    # steps, so that it does not forget what it can do already.
    steps = {"train.steps": max(1, config.train.steps * 3 // 10)}
    return {"scratch": {}, "pretrained": TINY_CLIP | steps}
  if config.model.pretrained:
    return {"pretrained": {}, "scratch": "the config starts from model.pretrained"}
  return {"scratch": {}, "pretrained": "no weights: pass --config.model.pretrained=FOLDER"}


def groups():
  """{group: {variant: overrides}}; `default` is what the config has."""
  return {
    "headline": {
      "untrained": None,
      "l_aux": AUX,
      "l_aux+onehot": ONEHOT,
      "l_aux+orthogonal": ORTHOGONAL,
      "default": {},
      "default-shuffled": ALL_SHUFFLED,
    },
    # LaFG's own: what `default` is where a config has no teacher features.
    "prototypes": {"prototypes": PROTOTYPES, "prototypes-shuffled": SHUFFLED},
    # Which part of the finches' default does what; its teacher features beside class vectors
    # without words, of other images, in random directions, and as the encoder's plain feature.
    "teacher": {
      "default@only-prototypes-shuffled": TEACHER | {"language.shuffle": "prototypes"},
      "default@only-teacher-shuffled": TEACHER | {"language.shuffle": "teacher"},
      "fixed+teacher": FIXED_TEACHER,
      "fixed+teacher-shuffled": FIXED_TEACHER_SHUFFLED,
      "fixed+teacher@random": FIXED_TEACHER | {"loss.image_alignment": "random"},
      # Of about the same gradient: a cosine's is a fraction of that of a softmax at 0.1.
      "fixed+teacher@feature": FIXED_TEACHER
      | {"loss.image_alignment": "feature", "loss.image_beta": 5.0},
    },
    "forms": forms() | {"prototypes@paper-literal": LITERAL},
    # For encoders that see images too: what they see in place of words, with projectors that know
    # nothing of the encoder, and L_img on images in their own colours, then without words in it.
    "encoder": {
      "prototypes@images": PROTOTYPES | {"language.prototype": "images"},
      "prototypes@random-projectors": PROTOTYPES | {"loss.projector_init": "random"},
      **{
        f"prototypes@+l_img-{form}": PROTOTYPES | {"loss.image_alignment": form}
        for form in ("vocabulary", "random", "feature")
      },
    },
    "texts": {
      # The prompt; the mean of the descriptions; T_c, with LaFG's query and ours; profiles.
      "prototypes@name-template": PROTOTYPES
      | {"language.prototype": "query", "language.query": "name"},
      "prototypes@descriptions-mean": PROTOTYPES | {"language.prototype": "descriptions"},
      "prototypes@vocabulary-of-names": PROTOTYPES | {"language.query": "name"},
      "prototypes@vocabulary-of-descriptions": PROTOTYPES | {"language.query": "descriptions"},
      "prototypes@profiles": PROFILES,
    },
    "losses": losses(),
    "sweeps": sweeps(),
  }


def forms():
  """Each form of L_ali x projector x centring, such as 'prototypes@distribution-free-centred'."""
  found: dict[str, dict[str, object]] = {}
  alignments, projectors = ("distribution", "prototype", "vocabulary"), ("free", "mean", "fixed")
  for form, projector, centre in itertools.product(alignments, projectors, (True, False)):
    name = f"prototypes@{form}-{projector}-{'centred' if centre else 'uncentred'}"
    keys = {"loss.alignment": form, "loss.projector": projector, "language.centre": centre}
    found[name] = PROTOTYPES | keys
  return found


def losses():
  """The usual losses in place of L_aux: alone, with class targets without words, with language."""
  controls = {
    "l_aux+onehot": ONEHOT,
    "prototypes-shuffled": SHUFFLED,
    "fixed+teacher-shuffled": FIXED_TEACHER_SHUFFLED,
  }
  return {
    f"{name}@{loss}": variant | {"loss.auxiliary": loss, "loss.reduction": "mean"}
    for loss in ("supcon", "norm_softmax", "proxy_anchor")
    for name, variant in (COMPARED | controls).items()
  }


def sweeps():
  """One key at a time, mostly of `prototypes`; the number of seen classes beside its controls."""
  mean = "prototypes@distribution-mean-centred"
  # Pretrained projectors have one width alone.
  random = PROTOTYPES | {"loss.projector_init": "random"}
  swept: tuple[tuple[str, dict[str, object], str, tuple[float, ...]], ...] = (
    ("prototypes", PROTOTYPES, "loss.beta", (0.1, 0.3, 1.0, 3.0, 10.0)),
    ("prototypes", PROTOTYPES, "language.num_attributes", (16, 32, 64, 128, 256)),
    ("prototypes", PROTOTYPES, "language.top_k", (1, 4, 8, 16)),
    ("prototypes", PROTOTYPES, "language.tau_k", (0.02, 0.05, 0.2, 1.0)),
    ("prototypes", PROTOTYPES, "loss.alignment_temperature", (0.02, 0.05, 0.1, 0.2)),
    ("prototypes", PROTOTYPES, "language.wrong_sentences", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
    # Where P_t learns: in the 'prototype' form its EMA copy has nothing to follow.
    (mean, forms()[mean], "loss.ema_step", (0.001, 0.01, 0.1, 1.0)),
    ("prototypes@profiles", PROFILES, "language.tau_profile", (0.005, 0.02, 0.1)),
    ("prototypes", random, "loss.projector_width", (32, 64, 128, 256)),
  )
  found = {f"{name}@{key}={x}": of | {key: x} for name, of, key, tried in swept for x in tried}
  for count in (10, 20, "all"):
    # The same number of images in a batch, of fewer classes where there are not enough.
    batch = {"data.classes_per_batch": 10, "data.images_per_class": 8} if count == 10 else {}
    seen = {} if count == "all" else {"data.max_train_classes": count}
    beside = {"fixed+teacher-shuffled": FIXED_TEACHER_SHUFFLED}
    for name, variant in (COMPARED | beside).items():
      found[f"{name}@classes={count}"] = variant | batch | seen
  return found


def grid(config):
  """The settings that `--tune` tries for the variant of `config`, equally many for all variants.

  Without L_ali there is no beta: the temperature of L_aux is tried instead.
  """
  rates = [config.train.learning_rate * factor for factor in (0.5, 1.0)]
  key, tried = "loss.beta", (0.3, 1.0)
  if config.loss.alignment == "none":
    key, tried = "loss.temperature", (0.1, 0.2)
  return [{"train.learning_rate": rate, key: x} for rate in rates for x in tried]


def dataset(config):
  """What the study calls the data of a config."""
  if given_features.are(config):
    return f"{Path(config.data.manifest).stem}_features"
  return config.data.name


def file_of(config):
  """The module beside this one that says what is compared for a config; this one by default."""
  return "feature_variants" if given_features.are(config) else "variants"


def hold_out(config, count):
  """Holds out `count` training classes, where none are, for --tune; the batch takes those left."""
  from lafg_jax.data import datasets

  config.data.num_val_classes = config.data.num_val_classes or count
  left = len(datasets.class_splits(config.data)["train"])
  if config.data.classes_per_batch > left:
    logging.warning("data.classes_per_batch: %d, which are left to train on", left)
    config.data.classes_per_batch = left


def decided_by(config, trains, remembered):
  """What decides a cell's figures: kinds of keys, keys that name files, and hashes of all files.

  Args:
    config: of the cell, resolved.
    trains: False for the model before training.
    remembered: (what is asked, make) -> make(), or what it gave for the same question before.
  """
  from lafg_jax.data import datasets
  from lafg_jax.language.describers import describe
  from lafg_jax.language.encoders import load
  from lafg_jax.models import heads
  from lafg_jax.models.weights import files

  language, data, source = config.language, config.data, config.model.pretrained
  words = trains and choices.reads_words(config)
  kinds = ["embedding", "evaluation"] + ["training"] * trains
  kinds += ["features", "prototypes", "targets"] * words
  said, weights = None, source
  if words:
    encoder: Any = load.content(language.encoder)
    if isinstance(encoder, Path):
      # A model's card decides nothing.
      encoder = [p for p in sorted(encoder.rglob("*")) if p.is_file() and p.suffix != ".md"]
    asked = ("words", *sorted(language.items()))
    said = remembered(asked, lambda: fingerprint(describe.inputs(language), encoder))
  if files.local(source) is not None:
    paths = [Path(path) for path in files.find(source)]
    weights = remembered(("weights", source), lambda: fingerprint(paths))
  # A centre and such a head are learned from training images.
  learned = config.model.centre or config.model.head_init in heads.LEARNED
  content = [
    remembered(
      ("content", split, *sorted(data.items())),
      lambda split=split: datasets.content_fingerprint(data, split),
    )
    for split in ["train"] * (trains or learned) + [config.evaluate.split]
  ]
  return kinds, ("model.pretrained", "language.encoder"), (said, weights, content)
