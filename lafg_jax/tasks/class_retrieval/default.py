"""The default config of class retrieval, what several configs share, and rules of its own keys.

lafg_jax/config/table/ holds the keys, each with its default and one comment, and docs/reference/
keys.md shows them. A config changes only what differs:

  from lafg_jax.tasks.class_retrieval import default

  def get_config():
    config = default.get_config()
    config.train.steps = 100
    return config
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from lafg_jax.config import keys, rules, validation
from lafg_jax.config.table.language import LLM
from lafg_jax.config.table.loss import PROXIED
from lafg_jax.config.table.train import OF_MODELS
from lafg_jax.utils.errors import UserError

SECTIONS = ("task", "seed", "data", "language", "model", "loss", "train", "evaluate")

# Teacher features: 50% more images per step, in other colours and so of no class, with what the
# frozen encoder sees in them. The weight is the better of 1 and 5 on held-out training classes.
TEACHER = {
  "data.recoloured_per_batch": 40,
  "loss.image_alignment": "vocabulary",
  "loss.image_beta": 1.0,
}

# What a start from the tiny CLIP's image tower changes in a small model.
TINY_CLIP = {
  "model.pretrained": "tiny_clip",
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
  "model.embedding_dim": 0,
  "loss.projector_init": "pretrained",
  "loss.projector_width": 64,
  "train.learning_rate": 2e-4,
}


def get_config() -> ConfigDict:
  """The defaults: the recipe of LaFG (CVPR 2026) for a ViT-B/16 at 224 px where it gives one."""
  return keys.defaults(SECTIONS)


def hyp_vit(config: ConfigDict) -> None:
  """The recipe of Hyp-ViT (CVPR 2022) in its sphere mode: ViT-S/16, AdamW, no words.

  It divides cos by 0.1, which is a temperature of 0.2 for D = 2 - 2 cos. The random-resized-crop of
  scale (0.2, 1), the flip and the gradient norm of 3 are the defaults already.
  """
  config.data.train_crop = "random_resized"
  config.model.size = "small"
  config.model.pretrained = "timm/vit_small_patch16_224.augreg_in21k"
  config.model.embedding_dim = 384
  config.loss.alignment = "none"
  config.loss.temperature = 0.2
  config.train.optimizer = "adamw"
  config.train.learning_rate = 3e-5
  config.train.weight_decay = 0.01


def own_images(reader: str) -> ConfigDict:
  """Hyp-ViT's recipe with words, for images of one's own that the reader `reader` finds.

  16 classes of 8 images a batch fit one GPU, and data sets of 32 classes or more.
  """
  config = get_config()
  hyp_vit(config)
  config.data.name = reader
  config.data.classes_per_batch = 16
  config.data.images_per_class = 8
  config.loss.alignment = "prototype"
  config.train.steps = 2000
  return config


def self_supervised(config: ConfigDict) -> None:
  """Two crops of an image against those of others (SimCLR, Chen et al. 2020): no label, no word."""
  config.data.instances = True
  config.data.classes_per_batch = 128
  config.data.images_per_class = 2
  config.data.train_crop = "random_resized"
  config.data.crop_scale = (0.2, 1.0)
  config.data.color_jitter = 0.5
  config.loss.alignment = "none"
  # 0.1 as SimCLR divides, by the cosine.
  config.loss.temperature = 0.2


def small_from_scratch(config: ConfigDict, image_size: int, patch_size: int) -> None:
  """A tiny ViT with a convolutional stem and random weights, and what suits its training."""
  config.data.image_size = image_size
  config.data.resize_size = image_size
  config.data.train_crop = "random_resized"
  config.data.classes_per_batch = 20
  config.data.images_per_class = 4
  config.model.size = "custom"
  config.model.width = 128
  config.model.depth = 4
  config.model.num_heads = 4
  config.model.mlp_dim = 256
  config.model.patch_size = patch_size
  config.model.pool = "mean"
  config.model.options = ""
  config.model.mean = (0.5, 0.5, 0.5)
  config.model.std = (0.5, 0.5, 0.5)
  config.model.conv_stem = True
  config.model.layer_norm_eps = 1e-6
  config.model.embedding_dim = 128
  config.model.dtype = "float32"
  config.model.pretrained = ""
  config.loss.reduction = "mean"
  config.loss.projector_width = 128
  config.train.optimizer = "adamw"
  config.train.learning_rate = 1e-3
  config.train.warmup = 0.1


def validate(config: ConfigDict, stages: Sequence[str]) -> None:
  """Raises UserError with the key and what it takes, for the first value that cannot be.

  Args:
    config: any.
    stages: those that will run; paths that only others need may be missing.
  """
  validation.validate_values(config, SECTIONS)
  _require_paths(config, stages)
  rules.check_data(config)
  validation.reject_unread(config, SECTIONS)
  _check_language(config)
  _check_batch(config)
  rules.check_model(config)
  _check_projectors(config)
  check_profile(config)
  rules.check_tuning(config)
  rules.check_evaluation(config)


def _require_paths(config: ConfigDict, stages: Sequence[str]) -> None:
  """One line for all that a bare run would ask for one after the other."""
  language, inspects = config.language, "inspect" in stages
  inspects_all = inspects and language.inspect_all
  needs_data = (config.evaluate.source in OF_MODELS or inspects) and not inspects_all
  missing = rules.missing_data(config) if needs_data else []
  describes = inspects or "describe" in stages
  if describes and language.describer == "file" and not language.descriptions:
    missing.append(
      "--config.language.descriptions=FILE, a JSON {class: [sentence, ...]} or a JSONL or CSV of "
      "class and description, or train without words by --config.loss.alignment=orthogonal"
    )
  asks = language.describer in LLM and not language.descriptions
  if inspects_all and asks:
    raise UserError(
      f"--config.language.inspect_all=True: language.describer={language.describer} knows no "
      "classes of its own; pass --config.language.descriptions=FILE, or inspect_all=False"
    )
  if describes and asks and not language.llm:
    missing.append("--config.language.llm=MODEL, which language.describer asks")
  if missing:
    raise UserError("this config needs your data: pass " + " and ".join(missing))


def _check_language(config: ConfigDict) -> None:
  language, name = config.language, config.data.name
  if language.describer == "synthetic" and not language.descriptions and name != "synthetic":
    raise UserError(
      "--config.language.describer=synthetic describes the finches of data.name=synthetic; "
      "pass --config.language.describer=file"
    )
  if language.top_k > language.num_attributes:
    rules.reject("language.top_k", language.top_k, "at most language.num_attributes", language)
  if language.shuffle == "teacher" and config.loss.image_alignment == "none":
    raise UserError(
      "--config.language.shuffle=teacher: no image is compared with what the encoder sees in it; "
      "pass --config.loss.image_alignment=vocabulary, or --config.language.shuffle=prototypes"
    )


def _check_batch(config: ConfigDict) -> None:
  """What images without a class go with."""
  data, loss, frozen = config.data, config.loss, config.train.frozen_backbone
  key = "--config.data.instances=True"
  for name in ("alignment", "image_alignment"):
    if data.instances and loss[name] != "none":
      why = "an image by itself has no class and no words"
      raise UserError(f"{key}: {why}; pass --config.loss.{name}=none")
  if data.instances and loss.auxiliary in PROXIED:
    raise UserError(
      f"{key}: loss.auxiliary={loss.auxiliary} learns a proxy a class; pass "
      "--config.loss.auxiliary=pairwise"
    )
  if data.instances and frozen:
    why = "it is for training a backbone"
    raise UserError(f"{key}: {why}; pass --config.train.frozen_backbone=False")
  key = f"--config.data.recoloured_per_batch={data.recoloured_per_batch}"
  if data.recoloured_per_batch and loss.image_alignment == "none":
    raise UserError(
      f"{key}: L_img alone reads images of no class; pass "
      "--config.loss.image_alignment=vocabulary, or 0"
    )
  if data.recoloured_per_batch and frozen:
    raise UserError(
      f"{key}: train.frozen_backbone trains on features of the images in their own colours; pass 0"
    )


def _check_projectors(config: ConfigDict) -> None:
  model = config.model
  if config.loss.projector_init == "pretrained" and not (
    model.pretrained and not model.embedding_dim and not model.embedding_norm
  ):
    raise UserError(
      "--config.loss.projector_init=pretrained: it projects what a pretrained tower gives; pass "
      "--config.model.pretrained (CLIP, SigLIP), --config.model.embedding_dim=0 and no "
      "model.embedding_norm"
    )


def check_profile(config: ConfigDict) -> None:
  """Raises UserError where P_t would meet both profiles and features of texts, of another width."""
  loss = config.loss
  if config.language.prototype != "profile":
    return
  clashes = {
    "alignment": loss.alignment == "vocabulary",
    "projector_init": loss.projector_init == "pretrained"
    and loss.alignment in ("prototype", "distribution"),
  }
  for key, clash in clashes.items():
    if clash:
      raise UserError(
        f"--config.loss.{key}={loss[key]}: it takes prototypes in the space of the texts, and a "
        "profile has an axis for each attribute; pass --config.language.prototype=attention"
      )
