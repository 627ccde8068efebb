"""The default config of image-text retrieval: DCAR on CLIP ViT-B/32, and rules between its keys.

lafg_jax/config/table/ has the keys, with defaults and comments; docs/reference/keys.md shows them.
The document of the method leaves much open; the defaults there are ours, not the paper's.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from lafg_jax.config import keys, rules, validation
from lafg_jax.data import captions
from lafg_jax.tasks.image_text_retrieval import methods
from lafg_jax.utils.errors import UserError

# Stages of a bare run; none on request.
STAGES = ("encode", "train", "evaluate", "report")
ON_REQUEST: tuple[str, ...] = ()
# Of `model` what a CLIP does not bring itself.
_OF_MODEL = ("model.pretrained", "model.dtype", "model.remat")
_OURS = ("captions", "prompts", "reweighting", "category", "image_text")
SECTIONS = ("task", "seed", "data", *_OF_MODEL, *_OURS, "train", "evaluate")
# Keys of `data` that decide the batches of other tasks.
_UNREAD = ("box_crop", "classes_per_batch", "images_per_class", "instances", "recoloured_per_batch")


def get_config() -> ConfigDict:
  """DCAR on CLIP ViT-B/32 at 224 px, by the document's recipe: CoOp's SGD, mild crops, no flip.

  The published recipe has a first epoch at a constant 1e-5; here the rate rises linearly in it.
  """
  config = keys.defaults(SECTIONS)
  config.task = "image_text_retrieval"
  # Keys of one's own images may split classes here too. captions.source says where images are.
  config.data.name = "manifest"
  config.data.update(image_size=224, resize_size=224, flip=False)
  # Captions speak of left, right, the position and the background.
  config.data.update(train_crop="random_resized", crop_scale=(0.8, 1.0))
  config.model.update(pretrained="openai/clip-vit-base-patch32", dtype="float32")
  config.train.update(optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4, warmup=0.1)
  config.train.update(clip_norm=0.0)
  config.evaluate.ks = (1, 5, 10)
  return config


def small_photographs(config: ConfigDict, from_scratch: bool) -> None:
  """Puts into a config what photographs at 64 px take on two CPU cores.

  from_scratch: both towers of a small CLIP train, from random weights; otherwise prompts of a CLIP
  that was trained so. All numbers are ours.
  """
  config.data.update(image_size=64, resize_size=64)
  config.train.update(optimizer="adamw", learning_rate=1e-3, log_every=20)
  if not from_scratch:
    config.captions.batch_size = 48
    config.train.update(steps=100, checkpoint_every=100)
    return
  config.prompts.method = "finetune"
  config.image_text.logit_scale = "learned"
  config.data.crop_scale = (0.5, 1.0)
  config.train.update(weight_decay=0.1, clip_norm=1.0)
  config.train.update(steps=1200, checkpoint_every=100)


def default_names(config: ConfigDict) -> list[str]:
  """The stages of a bare run of this config."""
  if config.evaluate.source not in ("checkpoint", "best"):
    return ["evaluate", "report"]
  if not methods.trains(config):
    return ["evaluate", "report"]
  return [name for name in STAGES if name != "encode" or methods.reads_stored(config)]


def validate(config: ConfigDict, stages: Sequence[str]) -> None:
  """Raises UserError with the key and what it takes, for the first value that cannot be."""
  validation.validate_values(config, SECTIONS)
  captions.check(config)
  rules.check_data(config)
  rules.check_alone(config)
  validation.reject_unread(config, ("captions", "image_text"))
  _check_unread(config)
  _check_method(config, stages)
  _check_evaluation(config)


def _check_unread(config: ConfigDict) -> None:
  data, defaults = config.data, get_config().data
  for name in (*_UNREAD, "name"):
    if data[name] != defaults[name]:
      raise UserError(
        f"--config.data.{name}={data[name]}: image-text retrieval does not read it; leave it at "
        f"{defaults[name]} (captions.* say what a batch has, and where it comes from)"
      )
  if config.train.frozen_backbone or config.train.feature_views:
    raise UserError(
      "--config.train.frozen_backbone: prompts change what a frozen tower sees, so that its "
      "features cannot be kept; leave it at False, and train.feature_views at 0"
    )


def _check_method(config: ConfigDict, stages: Sequence[str]) -> None:
  if not config.model.pretrained:
    raise UserError(
      "--config.model.pretrained=: pass a CLIP or SigLIP, a folder, a hub id or tiny_clip"
    )
  if not methods.trains(config) and {"encode", "train"} & {*stages}:
    raise UserError(
      "--config.prompts.method=zero_shot: there is nothing to train; leave --stage out, or pass "
      "--stage=evaluate"
    )
  drawn = config.captions.negatives
  if methods.has_categories(config) and drawn == "none" and config.category.candidates != "batch":
    raise UserError(
      "--config.captions.negatives=none: L_cate has no candidates then; pass "
      "--config.category.weight=0 or --config.category.candidates=batch"
    )


def _check_evaluation(config: ConfigDict) -> None:
  train, evaluate = config.train, config.evaluate
  held = config.data.num_val_classes or config.captions.val_fraction
  remedy = "nothing is held out; pass --config.captions.val_fraction=0.1 or data.num_val_classes"
  if train.validate_every and not held:
    raise UserError(f"--config.train.validate_every={train.validate_every}: {remedy}")
  if evaluate.split == "val" and not held and config.captions.split != "own":
    raise UserError(f"--config.evaluate.split=val: {remedy}")
  rules.check_best(config)
