"""What `python -m lafg_jax.ablate` compares, as plain data; --variants=FILE takes another file.

`lafg_jax/tasks/class_retrieval/variants.py` explains the names.
"""

from pathlib import Path
from typing import Any

from lafg_jax.tasks.image_text_retrieval import methods
from lafg_jax.utils.files import fingerprint

# What --tune chose; --tuned=FILE takes another file.
TUNED = Path(__file__).with_name("ablation_tuned.json")

# Differences are paired with zero-shot CLIP, and those of `default` (DCAR) with each control.
REFERENCE = "zero_shot"
CONTROLS = (
  *("maple", "ivlp", "coop", "default@no-coupling", "default@no-weights"),
  *("default@weights-shuffled", "default@weights-of-others", "default@weights-random"),
  *("default@no-l_cate", "default@alpha=0", "default@random-negatives", "default@no-caa"),
)
PAIRS = (
  ("maple", "ivlp"),
  ("default@no-weights", "default@weights-shuffled"),
  ("default", "finetune"),
)

LABELS = {
  "zero_shot": "zero-shot CLIP",
  "coop": "CoOp",
  "vpt_shallow": "VPT, shallow",
  "vpt_deep": "VPT, deep",
  "ivlp": "IVLP",
  "maple": "MaPLe",
  "clip_adapter": "CLIP-Adapter",
  "finetune": "full fine-tuning",
  "finetune_distill": "full fine-tuning with distillation",
  "default": "DCAR",
  "default@no-coupling": "DCAR, free image prompts",
  "default@no-weights": "DCAR, a = 1",
  "default@weights-shuffled": "DCAR, weights shuffled in the caption",
  "default@weights-of-others": "DCAR, weights of another image",
  "default@weights-random": "DCAR, random weights",
  "default@no-l_cate": "DCAR, L_con alone",
  "default@alpha=0": "DCAR, alpha = 0",
  "default@random-negatives": "DCAR, random negatives",
  "default@no-caa": "DCAR, CAA as the identity",
  "default@captions-of-other-images": "DCAR, captions of other images",
  "default@captions-of-other-classes": "DCAR, captions of other classes",
}
ABOUT = {
  "zero_shot": "CLIP as it is",
  "default": "DCAR as its document has it, with our choices where the paper is silent",
  "default@captions-of-other-images": "control, the floor: no caption is of its image",
}
FIGURE_GROUPS = ("headline", "controls")
FIGURE_CONTROLS = ("zero_shot", "default@captions-of-other-images")

# Groups that take fewer seeds than --seeds.
SEEDS = {"controls": 4, "sweeps": 2, "forms": 2}

# `--tune`: training classes held out, seeds, and the group whose variants are tuned.
VAL_CLASSES = 2
TUNING_SEEDS = 1
TUNED_GROUP = "headline"
# What of a trial ranks the settings.
TUNED_BY = "recall@1"
# What tables show; the first ranks.
TITLES = {
  "recall@1": "R@1",
  "image_to_text/recall@1": "R@1, image to text",
  "text_to_image/recall@1": "R@1, text to image",
}

# The rates of full fine-tuning are those of CLIP's own kind, not of prompts.
FULL: dict[str, object] = {"train.optimizer": "adamw", "train.learning_rate": 3e-5}


def starts(config):
  """{start: overrides}: one, named by how train and test are split."""
  return {f"{config.captions.split}_split": {}}


def groups():
  """{group: {variant: overrides}}; `default` is what the config has."""
  methods_alone = ("coop", "vpt_shallow", "vpt_deep", "ivlp", "maple", "clip_adapter")
  full = {name: FULL | {"prompts.method": name} for name in ("finetune", "finetune_distill")}
  return {
    "headline": {
      "zero_shot": {"prompts.method": "zero_shot"},
      **{name: {"prompts.method": name} for name in methods_alone},
      **full,
      "default": {},
    },
    "controls": controls(),
    "forms": forms(),
    "sweeps": sweeps(),
  }


def controls():
  """What any claim about DCAR needs beside it."""
  return {
    "default@no-coupling": {"prompts.coupling": "none"},
    "default@no-weights": {"reweighting.gamma": 0.0},
    "default@weights-shuffled": {"reweighting.weights": "shuffled"},
    "default@weights-of-others": {"reweighting.weights": "other"},
    "default@weights-random": {"reweighting.weights": "random"},
    "default@no-l_cate": {"category.weight": 0.0},
    "default@alpha=0": {"category.alpha": 0.0},
    "default@random-negatives": {"captions.negatives": "random"},
    "default@no-caa": {"category.caa": "identity"},
    "default@captions-of-other-images": {"image_text.shuffle_captions": "images"},
    "default@captions-of-other-classes": {"image_text.shuffle_captions": "classes"},
  }


def forms():
  """Other readings of what is open in the paper."""
  return {
    "default@contextual": {"reweighting.similarity": "contextual"},
    "default@raw-weights": {"reweighting.raw": True},
    "default@always-weighted": {"reweighting.plain": 0.0},
    "default@grey-blank": {"reweighting.blank": "grey"},
    "default@cosine-form": {"category.form": "cosine", "category.alpha": 0.05},
    "default@batch-candidates": {"category.candidates": "batch"},
    "default@linear-caa": {"category.caa": "linear"},
    "default@mlp-coupling": {"prompts.coupling": "mlp"},
    "default@deep": {"prompts.depth": 9},
    "default@normal-init": {"prompts.init": "normal"},
    "default@image-to-text": {"image_text.direction": "image_to_text"},
    "maple@image-to-text": {
      "prompts.method": "maple",
      "image_text.direction": "image_to_text",
    },
  }


def sweeps():
  """One key of DCAR at a time; alpha = 0 is among the controls."""
  swept: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("prompts.number", (2, 8, 16)),
    ("reweighting.gamma", (0.25, 1.0)),
    ("category.alpha", (0.25, 1.0)),
    ("category.weight", (0.1, 0.5)),
  )
  return {f"default@{key}={x}": {key: x} for key, tried in swept for x in tried}


def grid(config):
  """The settings that `--tune` tries, equally many for all variants.

  Towers smaller than CLIP's take higher rates than the one of `FULL`.
  """
  factors = (1.0, 3.0, 10.0) if methods.is_full(config) else (0.3, 1.0, 3.0)
  return [{"train.learning_rate": config.train.learning_rate * x} for x in factors]


def dataset(config):
  """What the study calls the data of a config."""
  file = config.captions.file or config.captions.test_file
  if not file:
    return config.captions.source
  # A table is often called metadata.csv: its folder says of what.
  path = Path(file).absolute()
  return f"{path.parent.name}_{path.stem}"


def hold_out(config, count):
  """Holds out `count` training classes for --tune or, where classes are shared, every fifth image
  of each class."""
  if config.captions.split == "images":
    config.captions.val_fraction = config.captions.val_fraction or 0.2
  elif config.captions.val_fraction == 0:
    config.data.num_val_classes = config.data.num_val_classes or count


def decided_by(config, trains, remembered):
  """What decides a cell's figures: kinds of keys, keys that name files, and hashes of all files."""
  from lafg_jax.data import captions
  from lafg_jax.tasks.image_text_retrieval import stages

  trains = trains and methods.trains(config)
  kinds = ["embedding", "evaluation", "training"]
  splits: list[str] = ["train"] * trains + [config.evaluate.split]
  asked = (*sorted(config.captions.items()), *sorted(config.data.items()))
  content: list[Any] = [
    remembered(
      ("captions", split, *asked),
      lambda split=split: captions.load_splits(config, (split,))[split].content,
    )
    for split in splits
  ]
  source = config.model.pretrained
  weights = remembered(("clip", source), lambda: fingerprint(stages.weights(config)))
  return kinds, ("model.pretrained",), (weights, content)
