"""The default config of class retrieval, what several configs share, and rules between its keys.

lafg_jax/config/table/ has the keys, with defaults and comments; docs/reference/keys.md shows them.
A config changes only what differs:

  from lafg_jax.tasks.class_retrieval import default

  def get_config():
    config = default.get_config()
    config.train.steps = 100
    return config
"""

from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config import keys, rules, validation
from lafg_jax.config.table import ROWS
from lafg_jax.config.table.data import FEATURES
from lafg_jax.config.table.language import LLM
from lafg_jax.config.table.loss import PROXIED
from lafg_jax.config.table.train import OF_MODELS
from lafg_jax.models.options import GIVEN
from lafg_jax.tasks.class_retrieval import choices, given_features
from lafg_jax.utils import config_keys
from lafg_jax.utils.counted import listed
from lafg_jax.utils.errors import UserError

# Stages of a bare run, and those that run when they are named: only people read what they write.
STAGES = ("describe", "encode", "prototypes", "train", "evaluate", "report")
ON_REQUEST = ("data", "inspect")
SECTIONS = ("task", "seed", "data", "language", "model", "loss", "train", "evaluate")

# Teacher features: 50% more images per step, in other colours and so of no class. L_img compares
# them with the frozen encoder's features of them. The weight is the better of 1 and 5 on held-out
# training classes.
TEACHER = {
  "data.recoloured_per_batch": 40,
  "loss.image_alignment": "vocabulary",
  "loss.image_beta": 1.0,
}

# Changes that start a small model from the tiny CLIP's image tower.
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


def default_names(config: ConfigDict) -> list[str]:
  """The stages of a bare run of this config."""
  if config.evaluate.source not in ("checkpoint", "best"):
    return ["evaluate"]
  return list(STAGES if choices.reads_words(config) else STAGES[3:])


def hyp_vit(config: ConfigDict) -> None:
  """The recipe of Hyp-ViT (CVPR 2022) in its sphere mode: ViT-S/16, AdamW, no words.

  It divides cos by 0.1, which is a temperature of 0.2 for D = 2 - 2 cos. The random-resized-crop of
  scale (0.2, 1), the flip and the gradient norm of 3 are the defaults already.
  """
  config.data.train_crop = "random_resized"
  config.model.embedding_dim = 384
  config.model.pretrained = "timm/vit_small_patch16_224.augreg_in21k"
  _without_weights(config, size="small")
  config.loss.update(alignment="none", temperature=0.2)
  config.train.update(optimizer="adamw", learning_rate=3e-5, weight_decay=0.01)


def near_start(config: ConfigDict, beta: float = 0.1, alpha: float = 0.75) -> None:
  """What keeps a training of pretrained weights near what they know; without weights as it was.

  No embedding layer, class targets of weight `beta`, and weights `alpha` of the way from start to
  trained. A tenth and three quarters were chosen on held-out training classes of CUB and Cars, by a
  ViT-S/14 at 112 px (docs/study/photographs.md). A frozen backbone keeps its embedding layer, which
  alone learns, and train.keep_best the trained weights.
  """
  trained = ("model.pretrained", "train.frozen_backbone")
  for key, near, others in (
    ("model.embedding_dim", 0, trained),
    ("loss.beta", beta, trained),
    ("train.interpolate", alpha, (*trained, "train.keep_best")),
  ):
    config_keys.follow(config, key, _near(near), *others)


def all_classes(config: ConfigDict, count: int, images: int) -> None:
  """A batch of `images` of each of `count` training classes, less those data.num_val_classes holds
  out."""
  config.data.update(classes_per_batch=count, images_per_class=images)
  config_keys.follow(config, "data.classes_per_batch", _less, "data.num_val_classes")


def _less(count: int, held_out: int) -> int:
  return max(1, count - held_out)


def _near(near: Any) -> Callable[..., Any]:
  """`near` where there are pretrained weights and none of the keys that speak against it is set."""
  return lambda value, pretrained, *against: near if pretrained and not any(against) else value


def small_machine(config: ConfigDict) -> None:
  """A whole pretrained ViT-S/14 fine-tuned at 112 px on two CPU cores, in a quarter of an hour.

  Numbers are ours: 45 steps of 16 classes x 4 images, AdamW. The rate and its long warm-up were
  chosen with `near_start`. At 5e-5 after two steps of warm-up some runs on Cars collapse.
  """
  near_start(config)
  config.data.update(image_size=112, resize_size=128, train_crop="random_resized")
  config.data.update(classes_per_batch=16, images_per_class=4)
  config.language.encoder = "sentence-transformers/all-MiniLM-L6-v2"
  config.model.update(dtype="float32", pretrained="facebook/dinov2-small")
  config.loss.reduction = "mean"
  config.train.update(optimizer="adamw", learning_rate=2.5e-5, warmup=0.3, weight_decay=0.01)
  config.train.update(steps=45, checkpoint_every=15, log_every=5)
  config.evaluate.batch_size = 64


# The variants of the configs for one's own images.
OWN_VARIANTS = ("pretrained", "scratch")


def own_images(reader: str, variant: str) -> ConfigDict:
  """For images of one's own that the reader `reader` finds; `variant`: of OWN_VARIANTS.

  'pretrained' is Hyp-ViT's recipe on its ViT-S, near its start (`near_start`); 'scratch' is a small
  model from random weights at 64 px. Class targets are LaFG's prototypes where there are words, and
  fixed vectors without.
  """
  check_variant(f"configs/{reader}.py", variant, OWN_VARIANTS)
  config = get_config()
  if variant == "scratch":
    photographs_from_scratch(config)
    # 200,000 images, as many as configs/cars.py:scratch sees.
    config.train.update(steps=1600, checkpoint_every=400)
  else:
    hyp_vit(config)
    near_start(config)
    config.train.steps = 2000
  config.data.name = reader
  return _own_targets(config)


def own_features() -> ConfigDict:
  """For features that are there already: a head is trained on them, for seconds.

  The head starts as the identity, so that training begins at the features, and embeddings are
  centred. Of what was tried on held-out training classes of Cars and CUB (L_aux alone, one seed:
  docs/study/photographs.md) this gained on both.
  """
  config = get_config()
  config.data.name = FEATURES
  config.model.update(size=GIVEN, pretrained="")
  config.model.update(embedding_dim=-1, head_init="identity", centre=True)
  config.loss.update(reduction="mean", temperature=0.2)
  config.train.update(optimizer="adamw", learning_rate=1e-3, weight_decay=0.01, steps=150)
  config.train.update(warmup=0.1, checkpoint_every=150, log_every=50)
  return _own_targets(config)


def _own_targets(config: ConfigDict) -> ConfigDict:
  """A batch of as many classes as there are, and class targets of words where there are words."""
  config.data.update(classes_per_batch=0, images_per_class=0)
  config.loss.alignment = "prototype"
  words = ("language.descriptions", "language.describer")
  config_keys.follow(config, "loss.alignment", _alignment, *words)
  return config


def _alignment(with_words: str, descriptions: str, describer: str) -> str:
  """A value of loss.alignment that the words there are can serve."""
  return with_words if descriptions or describer != "file" else "orthogonal"


def check_variant(path: str, variant: str, known: Sequence[str]) -> None:
  """Raises UserError where the config in `path` has no such variant."""
  if variant not in known:
    shown = f"the variants are {listed(known)}"
    if not known[1:]:
      shown = f"there is one variant, {known[0]}"
    raise UserError(f"--config={path}:{variant}: {shown}")


def self_supervised(config: ConfigDict) -> None:
  """Two crops of an image against those of others (SimCLR, Chen et al. 2020): no label, no word."""
  config.data.update(instances=True, classes_per_batch=128, images_per_class=2, color_jitter=0.5)
  config.data.update(train_crop="random_resized", crop_scale=(0.2, 1.0))
  # SimCLR divides the cosine by 0.1.
  config.loss.update(alignment="none", temperature=0.2)


def photographs_from_scratch(config: ConfigDict) -> None:
  """A small model of 64 px from random weights, for two CPU cores and a quarter of an hour."""
  small_from_scratch(config, image_size=64, patch_size=16)
  config.data.crop_scale = (0.4, 1.0)
  config.train.weight_decay = 0.05


def small_from_scratch(config: ConfigDict, image_size: int, patch_size: int) -> None:
  """A tiny ViT with a convolutional stem and random weights, and what suits its training.

  Weights of model.pretrained bring their own sizes, patches and pooling.
  """
  data, model = config.data, config.model
  data.update(image_size=image_size, resize_size=image_size, train_crop="random_resized")
  data.update(classes_per_batch=20, images_per_class=4)
  model.update(embedding_dim=128, dtype="float32", pretrained="")
  _without_weights(config, size="custom", width=128, depth=4, num_heads=4, mlp_dim=256)
  _without_weights(config, patch_size=patch_size, pool="mean", conv_stem=True, layer_norm_eps=1e-6)
  _without_weights(config, options="", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
  config.loss.update(reduction="mean", projector_width=128)
  config.train.update(optimizer="adamw", learning_rate=1e-3, warmup=0.1)


def _without_weights(config: ConfigDict, **values: Any) -> None:
  """Keys of `model` for random weights; with model.pretrained they are the weights', if not set."""
  for name, value in values.items():
    key = f"model.{name}"
    config.model[name] = value
    config_keys.follow(config, key, _unless_pretrained(ROWS[key].default), "model.pretrained")


def _unless_pretrained(default: Any) -> Callable[[Any, str], Any]:
  return lambda value, pretrained: default if pretrained else value


# Where words are asked for and nobody can write them.
_WORDLESS = (
  "leave language.describer out and train without words by --config.loss.alignment=orthogonal: "
  "class names alone suffice"
)


def validate(config: ConfigDict, stages: Sequence[str]) -> None:
  """Raises UserError with the key and what it takes, for the first value that cannot be.

  `stages` will run; paths that only other stages need may be missing.
  """
  validation.validate_values(config, SECTIONS)
  _require_paths(config, stages)
  rules.check_data(config)
  validation.reject_unread(config, SECTIONS)
  given_features.check(config)
  _check_language(config)
  _check_batch(config)
  rules.check_model(config)
  _check_projectors(config)
  check_profile(config)
  rules.check_tuning(config)
  rules.check_evaluation(config)


def _require_paths(config: ConfigDict, stages: Sequence[str]) -> None:
  """Names all missing paths in one line."""
  language, inspects = config.language, "inspect" in stages
  inspects_all = inspects and language.inspect_all
  needs_data = (config.evaluate.source in OF_MODELS or inspects) and not inspects_all
  missing = rules.missing_data(config) if needs_data else []
  describes = (inspects or "describe" in stages) and not language.descriptions
  if describes and language.describer == "file":
    missing.append(
      "--config.language.descriptions=FILE, a JSON {class: [sentence, ...]} or a JSONL or CSV of "
      f"class and description, or {_WORDLESS}"
    )
  if language.describer == "skeleton" and [*stages] != ["describe"]:
    raise UserError(
      "--config.language.describer=skeleton only writes a file to fill in: pass --stage=describe "
      "with it, or leave it out"
    )
  if describes and language.describer == "skeleton":
    missing.append("--config.language.descriptions=FILE, which language.describer=skeleton writes")
  asks = describes and language.describer in LLM
  if inspects_all and asks:
    raise UserError(
      f"--config.language.inspect_all=True: language.describer={language.describer} knows no "
      "classes of its own; pass --config.language.descriptions=FILE, or inspect_all=False"
    )
  if asks and not language.llm:
    missing.append(f"--config.language.llm=MODEL, which language.describer asks, or {_WORDLESS}")
  if missing:
    raise UserError("this config needs your data: pass " + " and ".join(missing))


def _check_language(config: ConfigDict) -> None:
  language, name = config.language, config.data.name
  if language.describer == "synthetic" and not language.descriptions and name != "synthetic":
    raise UserError(
      "--config.language.describer=synthetic describes the finches of data.name=synthetic; "
      "pass --config.language.describer=file"
    )
  if 0 < language.num_attributes < language.top_k:
    rules.reject("language.top_k", language.top_k, "at most language.num_attributes", language)
  if language.shuffle == "teacher" and config.loss.image_alignment == "none":
    raise UserError(
      "--config.language.shuffle=teacher: no image is compared with what the encoder sees in it; "
      "pass --config.loss.image_alignment=vocabulary, or --config.language.shuffle=prototypes"
    )


def _check_batch(config: ConfigDict) -> None:
  """Raises UserError for keys that images without a class exclude."""
  data, loss, frozen = config.data, config.loss, config.train.frozen_backbone
  query_image = choices.reads_words(config) and config.language.query == "image"
  wordless, proxied = "an image by itself has no class and no words", loss.auxiliary in PROXIED
  for clash, why, remedy in (
    (loss.alignment != "none", wordless, "loss.alignment=none"),
    (loss.image_alignment != "none", wordless, "loss.image_alignment=none"),
    (proxied, f"loss.auxiliary={loss.auxiliary} learns a proxy a class", "loss.auxiliary=pairwise"),
    (frozen, "it is for training a backbone", "train.frozen_backbone=False"),
  ):
    if data.instances and clash:
      raise UserError(f"--config.data.instances=True: {why}; pass --config.{remedy}")
  if data.max_images_per_class and (choices.reads_images(config) or query_image):
    raise UserError(
      f"--config.data.max_images_per_class={data.max_images_per_class}: language.encoder sees all "
      "training images; pass 0, or loss.image_alignment=none and words of texts alone"
    )
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
  usable = model.pretrained and not model.embedding_dim and not model.embedding_norm
  if config.loss.projector_init == "pretrained" and not usable:
    raise UserError(
      "--config.loss.projector_init=pretrained: it projects what a pretrained tower gives; pass "
      "--config.model.pretrained (CLIP, SigLIP), --config.model.embedding_dim=0 and no "
      "model.embedding_norm"
    )


def check_profile(config: ConfigDict) -> None:
  """Raises UserError where P_t would project profiles and features of texts: widths differ."""
  loss, profile = config.loss, config.language.prototype == "profile"
  projected = loss.alignment in ("prototype", "distribution")
  for key, clash in (
    ("alignment", loss.alignment == "vocabulary"),
    ("projector_init", loss.projector_init == "pretrained" and projected),
  ):
    if profile and clash:
      raise UserError(
        f"--config.loss.{key}={loss[key]}: it takes prototypes in the space of the texts, and a "
        "profile has an axis for each attribute; pass --config.language.prototype=attention"
      )
