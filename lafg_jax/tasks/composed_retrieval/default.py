"""The default config of composed retrieval: CVSI on CLIP ViT-L/14, and rules between its keys."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config import keys, rules, validation
from lafg_jax.config.table.composed import LLM, MAPPINGS, PUBLISHED
from lafg_jax.config.table.train import OF_MODELS
from lafg_jax.tasks.composed_retrieval import methods
from lafg_jax.utils.errors import UserError

# Stages of a bare run; none on request.
STAGES = ("caption", "edit", "train", "evaluate", "report")
ON_REQUEST: tuple[str, ...] = ()
_OF_MODEL = ("model.pretrained", "model.dtype", "model.remat")
_OURS = ("composed", "captioner", "editor", "mapping", "query")
SECTIONS = ("task", "seed", "data", *_OF_MODEL, *_OURS, "train", "evaluate")
# Keys of `data` that decide the batches of other tasks, and names of classes.
_UNREAD = (
  *("box_crop", "classes_per_batch", "images_per_class", "instances", "recoloured_per_batch"),
  *("num_val_classes", "max_train_classes", "pack", "name", "root", "manifest", "builder"),
  *("expect_counts", "depth", "split_folders", "image_key", "label_key", "recolourings"),
)
# What each source asks for: (key, what it takes).
_NEEDED = {
  **{name: ("root", f"FOLDER with the annotations of {name}") for name in PUBLISHED},
  "listed": ("file", "FILE.jsonl with id, reference, text and targets"),
  "attributes": ("file", "FILE.csv with a row for each image"),
}
# The backbones of published figures: hub ids of transformers' files.
CLIPS = {
  "vit_l": "openai/clip-vit-large-patch14",
  "vit_b32": "openai/clip-vit-base-patch32",
  "vit_g": "Geonmo/CLIP-Giga-config-fixed",
}
# What the publications train Phi with, beside get_config's values; for variants as 'vit_l_searle'.
# Steps are their epochs: 100 of 100,000 images, 30 of 3.3 million.
RECIPES: dict[str, dict[str, Any]] = {
  "lincir": {},
  "searle": {"mapping.batch_size": 256, "train.steps": 39_000},
  "pic2word": {
    **{"mapping.batch_size": 1024, "mapping.dropout": 0.1, "data.crop_scale": (0.9, 1.0)},
    **{"train.steps": 97_000, "train.schedule": "cosine", "train.warmup": 10_000 / 97_000},
    **{"train.weight_decay": 0.1, "train.adam_b2": 0.98, "train.adam_eps": 1e-6},
    **{"data.train_crop": "random_resized", "data.flip": False},
  },
}
VARIANTS = (*CLIPS, *(f"{clip}_{method}" for clip in CLIPS for method in list(RECIPES)[1:]))
# Sources that know a true description of what is asked for.
_KNOWN = ("finches", "attributes")


def get_config() -> ConfigDict:
  """CVSI on CLIP ViT-L/14 at 224 px, with LinCIR's training of Phi."""
  config = keys.defaults(SECTIONS)
  config.task = "composed_retrieval"
  config.data.name = "manifest"
  config.data.update(image_size=224, resize_size=224, pad="target")
  config.model.update(pretrained="openai/clip-vit-large-patch14", dtype="float32")
  config.train.update(optimizer="adamw", learning_rate=1e-4, weight_decay=0.01, steps=20_000)
  config.train.update(clip_norm=0.0, checkpoint_every=1000, schedule="constant", warmup=0.0)
  # Those of the protocols; no other ones are taken.
  config.evaluate.ks = (1, 5, 10, 50)
  return config


def published(source: str, variant: str) -> ConfigDict:
  """CVSI's config for a benchmark, or for a list of one's own; `variant`: one of VARIANTS.

  Steps, rate and batch of Phi are LinCIR's, or those of the method that the variant names. LinCIR's
  bigG overfits within hundreds of steps, so that it stops early.
  """
  config = get_config()
  method = next((name for name in RECIPES if variant.endswith(f"_{name}")), "lincir")
  clip = variant.removesuffix(f"_{method}")
  config.mapping.method = method
  config.update_from_flattened_dict(RECIPES[method])
  config.composed.source = source
  config.model.pretrained = CLIPS[clip]
  if variant == "vit_g":
    config.train.update(steps=1000, checkpoint_every=100)
  return config


def default_names(config: ConfigDict) -> list[str]:
  """The stages of a bare run of this config."""
  reads = methods.reads(config)
  trains = methods.trains(config) and config.evaluate.source in ("checkpoint", "best")
  on = {"caption": "captions" in reads, "edit": "edit" in reads, "train": trains}
  return [name for name in STAGES if on.get(name, True)]


def validate(config: ConfigDict, stages: Sequence[str]) -> None:
  """Raises UserError with the key and what it takes, for the first value that cannot be."""
  validation.validate_values(config, SECTIONS)
  rules.check_data(config)
  rules.check_alone(config)
  # query.method may say how Phi is trained.
  validation.reject_unread(methods.resolve(config), _OURS)
  _check_unread(config)
  _check_source(config)
  _check_words(config)
  _check_method(config, stages)
  _check_evaluation(config)


def _check_unread(config: ConfigDict) -> None:
  data, defaults = config.data, get_config().data
  for name in _UNREAD:
    if data[name] != defaults[name]:
      raise UserError(
        f"--config.data.{name}={data[name]}: composed retrieval does not read it; leave it at "
        f"{defaults[name] or repr(defaults[name])} (composed.* say where queries and images are)"
      )
  if config.train.frozen_backbone or config.train.feature_views:
    raise UserError(
      "--config.train.frozen_backbone: CLIP is frozen here anyway, and Phi alone learns; leave it "
      "at False, and train.feature_views at 0"
    )
  if not config.model.pretrained:
    raise UserError("--config.model.pretrained=: pass a CLIP, a folder, a hub id or tiny_clip")


def _check_source(config: ConfigDict) -> None:
  key, wanted = _NEEDED.get(config.composed.source, ("", ""))
  if key and not config.composed[key]:
    source = config.composed.source
    raise UserError(f"--config.composed.source={source}: pass --config.composed.{key}={wanted}")


def _check_words(config: ConfigDict) -> None:
  """Who captions and who edits must be told, and an editor needs captions to edit."""
  captioner, editor = config.captioner, config.editor
  for section, name in (("captioner", "model"), ("editor", "llm")):
    of = config[section]
    needed = {"file": "file"} | dict.fromkeys(LLM, name)
    missing = needed.get(of.kind)
    if missing and not of[missing]:
      raise UserError(f"--config.{section}.kind={of.kind}: pass --config.{section}.{missing}=...")
  if methods.edits_captions(config) and captioner.kind == "none":
    raise UserError(
      f"--config.editor.kind={editor.kind}: it edits captions of the reference images, and "
      "captioner.kind is none; pass --config.captioner.kind=..., or --config.editor.kind=none"
    )
  if editor.kind == "perfect" and config.composed.source not in _KNOWN:
    raise UserError(
      f"--config.editor.kind=perfect: composed.source={config.composed.source} has no true "
      f"descriptions, only {' and '.join(_KNOWN)} have; pass another editor.kind"
    )


def _check_method(config: ConfigDict, stages: Sequence[str]) -> None:
  query, trained = config.query, "train" in stages
  methods.of(config)
  if query.alpha + query.beta > 1 + 1e-9:
    total = f"{query.alpha + query.beta:g}"
    raise UserError(
      f"--config.query.beta={query.beta}: query.alpha + query.beta is {total}, and the image has "
      "the rest; pass values whose sum is at most 1"
    )
  if query.method == "cirevl" and config.editor.kind == "none":
    raise UserError(
      "--config.query.method=cirevl: it is the edited description alone; pass --config.editor.kind"
    )
  if query.method in MAPPINGS and config.mapping.method not in (MAPPINGS[0], query.method):
    raise UserError(
      f"--config.mapping.method={config.mapping.method}: query.method={query.method} is a Phi that "
      f"was trained in that way; pass --config.mapping.method={query.method}"
    )
  if trained and not methods.trains(config):
    why = "mapping.source has a trained Phi" if config.mapping.source else "its query has no Phi"
    why = "each reference image is inverted" if methods.inverts(config) else why
    raise UserError(
      f"--stage=train: query.method={query.method} trains nothing here ({why}); leave --stage out, "
      "or pass --stage=evaluate"
    )
  for stage, name, section in (("caption", "captions", "captioner"), ("edit", "edit", "editor")):
    if stage in stages and name not in methods.reads(config):
      raise UserError(
        f"--stage={stage}: query.method={query.method} with {section}.kind="
        f"{config[section].kind} reads nothing of it; leave the stage out"
      )


def _check_evaluation(config: ConfigDict) -> None:
  evaluate = config.evaluate
  if evaluate.source not in OF_MODELS:
    raise UserError(f"--config.evaluate.source={evaluate.source}: it takes {', '.join(OF_MODELS)}")
  if evaluate.split != "test":
    raise UserError(
      f"--config.evaluate.split={evaluate.split}: pass --config.composed.split, which says whose "
      "queries are evaluated"
    )
  if config.evaluate.ks != get_config().evaluate.ks:
    raise UserError(
      f"--config.evaluate.ks={config.evaluate.ks}: figures are those of each benchmark's protocol; "
      f"leave it at {get_config().evaluate.ks}"
    )
  if evaluate.source == "pretrained" and methods.trains(config):
    raise UserError(
      "--config.evaluate.source=pretrained: CLIP has no Phi of its own; pass "
      "--config.mapping.source, or evaluate.source=untrained for Phi before training"
    )
  rules.check_best(config, methods.trains(config))
