"""What the values of a config may be, checked before any work starts: by key, then between keys."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config import model_rules, read_by
from lafg_jax.data import readers
from lafg_jax.models.options import RESNET, SIZES, Options, parse_options
from lafg_jax.tasks.class_retrieval import choices
from lafg_jax.utils.config_keys import get
from lafg_jax.utils.errors import UserError

# Values of language.describer that ask a language model.
LLM = ("transformers", "openai")

# A user may put the key itself here by mistake: their values are not printed.
_SECRET = ("language.api_key_env", "language.base_url")

Rule = tuple[Callable[[Any], bool], str]


def _one_of(*names: str) -> Rule:
  return (lambda x: x in names), "one of " + ", ".join(names)


def _at_least(low: float) -> Rule:
  return (lambda x: math.isfinite(x) and x >= low), f"a number of at least {low}"


def _between(low: float, high: float) -> Rule:
  return (lambda x: low <= x < high), f"a number of at least {low} and below {high}"


_BOOL: Rule = (lambda x: isinstance(x, bool)), "True or False"
_TEXT: Rule = (lambda x: isinstance(x, str)), "a text, or nothing"
_NAMED: Rule = (lambda x: isinstance(x, str) and x != ""), "a name"
_REGEX: Rule = (lambda x: _compiles(x)), "a regular expression"
_POSITIVE: Rule = (lambda x: math.isfinite(x) and x > 0), "above 0"


def _compiles(x: str) -> bool:
  try:
    re.compile(x)
  except re.error:
    return False
  return True


def _numbers(x: Any, count: int | None = None) -> bool:
  return (
    isinstance(x, tuple)
    and (count is None or len(x) == count)
    and all(isinstance(v, int | float) and math.isfinite(v) for v in x)
  )


_RULES: dict[str, Rule] = {
  "seed": ((lambda x: 0 <= x < 2**31), "between 0 and 2147483647"),
  "data.name": _one_of(*readers.NAMES),
  "data.root": _TEXT,
  "data.expect_counts": _BOOL,
  "data.box_crop": _BOOL,
  "data.flip": _BOOL,
  "data.color_jitter": ((lambda x: 0 <= x <= 1), "a number from 0 to 1"),
  "data.instances": _BOOL,
  "data.num_val_classes": _at_least(0),
  "data.max_train_classes": (
    (lambda x: isinstance(x, int) and (x == 0 or x >= 2)),
    "0 for all, or a number of at least 2",
  ),
  "data.depth": ((lambda x: x in (0, 1, 2)), "0, 1 or 2"),
  "data.train_fraction": ((lambda x: 0 < x <= 1), "a number above 0 and at most 1"),
  "data.split_seed": ((lambda x: -1 <= x < 2**31), "-1, or a seed of 0 or more"),
  "data.test_classes": _TEXT,
  "data.manifest": _TEXT,
  "data.builder": _TEXT,
  "data.image_key": _NAMED,
  "data.label_key": _NAMED,
  "data.image_size": _at_least(8),
  "data.resize_size": _at_least(8),
  "data.train_crop": _one_of("random_resized", "resize_crop"),
  "data.crop_scale": (
    (lambda x: _numbers(x, 2) and 0 < x[0] <= x[1] <= 1),
    "two fractions of the area, (low, high), 0 < low <= high <= 1",
  ),
  "data.crop_ratio": (
    (lambda x: _numbers(x, 2) and 0 < x[0] <= x[1]),
    "two aspect ratios, (low, high), 0 < low <= high",
  ),
  "data.classes_per_batch": _at_least(2),
  "data.images_per_class": _at_least(2),
  "data.recoloured_per_batch": _at_least(0),
  "data.recolourings": _at_least(1),
  "data.scaled_decoding": _BOOL,
  "data.pack": _TEXT,
  "data.num_workers": _at_least(0),
  "data.prefetch": _at_least(1),
  "language.describer": _one_of("file", "shipped", "synthetic", *LLM),
  "language.descriptions": _TEXT,
  "language.llm": _TEXT,
  "language.base_url": (
    (lambda x: x == "" or bool(re.fullmatch(r"https?://[^\s@{}]+", x))),
    "an http:// or https:// URL without a user or key in it, or nothing",
  ),
  "language.api_key_env": (
    (lambda x: bool(re.fullmatch(r"[A-Z_][A-Z0-9_]*", x))),
    "the name of an environment variable, in capitals, never the key itself",
  ),
  "language.concurrency": _between(1, 1025),
  "language.timeout_s": _POSITIVE,
  "language.retries": _at_least(0),
  "language.sentences_per_class": _at_least(1),
  "language.num_neighbours": _at_least(0),
  "language.neighbours": _TEXT,
  "language.max_tokens": _at_least(1),
  "language.temperature": _at_least(0),
  "language.llm_seed": _at_least(0),
  "language.llm_batch_size": _at_least(1),
  "language.centre": _BOOL,
  "language.shuffle": _BOOL,
  "language.inspect_all": _BOOL,
  "language.encoder": (bool, "a hub id, a folder, or tiny_clip"),
  "language.prompt": (
    (lambda x: x.count("{}") == 1 and not re.search(r"[{}]", x.replace("{}", ""))),
    "a text with one {} where the class name goes",
  ),
  "language.query": _one_of("name", "descriptions", "image"),
  "language.num_attributes": _at_least(1),
  "language.top_k": _at_least(1),
  "language.tau_k": _POSITIVE,
  "language.kmeans_seed": _at_least(0),
  "language.kmeans_restarts": _at_least(1),
  "language.minibatch_above": _at_least(0),
  "language.spherical": _BOOL,
  "language.drop_generic": _between(0, 1),
  "language.wrong_sentences": ((lambda x: 0 <= x <= 1), "a number from 0 to 1"),
  "language.tau_profile": _POSITIVE,
  "language.prototype": _one_of("attention", "profile", "query", "descriptions", "images"),
  "language.batch_size": _at_least(1),
  "language.long_sentences": _one_of("split", "cut"),
  "language.cache": _TEXT,
  "model.size": _one_of("auto", *SIZES, "custom", RESNET),
  "model.width": _at_least(1),
  "model.depth": _at_least(1),
  "model.num_heads": _at_least(1),
  "model.mlp_dim": _at_least(1),
  "model.patch_size": _at_least(0),
  "model.conv_stem": _BOOL,
  "model.pretrained": _TEXT,
  "model.pool": _one_of("auto", "token", "mean", "gem", "map"),
  "model.options": (
    (lambda x: x == "auto" or bool(parse_options(x) or True)),
    f"auto, or words separated by spaces, of {', '.join(Options._fields)}",
  ),
  "model.layer_norm_eps": _at_least(0),
  "model.embedding_dim": _at_least(0),
  "model.gem_p": _POSITIVE,
  "model.gem_learned": _BOOL,
  "model.embedding_norm": _one_of("", "layer"),
  "model.lora_rank": _at_least(0),
  "model.lora_alpha": _POSITIVE,
  "model.lora_targets": _REGEX,
  "model.num_prompts": _at_least(0),
  "model.prompts_depth": _one_of("shallow", "deep"),
  "model.mean": ((lambda x: x == () or _numbers(x, 3)), "three numbers, for R, G and B, or ()"),
  "model.std": (
    (lambda x: x == () or (_numbers(x, 3) and min(x) > 0)),
    "three numbers above 0, for R, G and B, or ()",
  ),
  "model.dtype": _one_of("float32", "bfloat16"),
  "loss.auxiliary": _one_of("pairwise", "supcon", *choices.PROXIED),
  "loss.temperature": _POSITIVE,
  "loss.proxy_alpha": _POSITIVE,
  "loss.proxy_margin": _at_least(0),
  "loss.proxy_lr_factor": _POSITIVE,
  "loss.reduction": _one_of("sum", "mean"),
  "loss.beta": _at_least(0),
  "loss.alignment": _one_of(
    "prototype", "distribution", "vocabulary", "orthogonal", "onehot", "none"
  ),
  "loss.image_alignment": _one_of("none", "vocabulary", "random", "feature"),
  "loss.image_beta": _at_least(0),
  "loss.image_temperature": _POSITIVE,
  "loss.projector": _one_of("free", "mean", "fixed"),
  "loss.projector_init": _one_of("random", "pretrained"),
  "loss.projector_width": _at_least(2),
  "loss.alignment_temperature": _POSITIVE,
  "loss.unit_variance": _BOOL,
  "loss.ema_step": ((lambda x: 0 < x <= 1), "above 0 and at most 1"),
  "train.steps": _at_least(1),
  "train.optimizer": _one_of("sgd", "adamw"),
  "train.learning_rate": _POSITIVE,
  "train.warmup": _between(0, 1),
  "train.weight_decay": _at_least(0),
  "train.clip_norm": _at_least(0),
  "train.freeze": _REGEX,
  "train.frozen_backbone": _BOOL,
  "train.feature_views": _at_least(0),
  "train.log_every": _at_least(1),
  "train.checkpoint_every": _at_least(1),
  "train.keep_checkpoints": _at_least(1),
  "train.validate_every": _at_least(0),
  "train.keep_best": _BOOL,
  "train.allow_changed": _BOOL,
  "evaluate.source": (bool, "checkpoint, best, pretrained, or the path of an embeddings.npz"),
  "evaluate.split": _one_of("test", "val"),
  "evaluate.ks": (
    (lambda x: _numbers(x) and len(x) > 0 and all(isinstance(k, int) and k >= 1 for k in x)),
    "one or more whole numbers, such as (1,2,4,8)",
  ),
  "evaluate.batch_size": _at_least(1),
}


def validate(config: ConfigDict, stages: Sequence[str]) -> None:
  """Raises UserError with the key and what it takes, for the first value that cannot be.

  Args:
    config: all keys of configs/default.py.
    stages: those that will run; paths that only others need may be missing.
  """
  validate_values(config)
  _require_paths(config, stages)
  _validate_data(config)
  read_by.reject_unread(config, "loss.auxiliary", read_by.LOSS)
  model_rules.check_model(config)
  model_rules.check_profile(config)
  model_rules.check_tuning(config)
  _validate_selection(config)
  language, evaluate = config.language, config.evaluate
  if language.top_k > language.num_attributes:
    _reject("language.top_k", language.top_k, "at most language.num_attributes", language)
  if evaluate.split == "val" and not config.data.num_val_classes:
    why = "no classes are held out; pass --config.data.num_val_classes=V"
    raise UserError(f"--config.evaluate.split=val: {why}")


def validate_values(config: ConfigDict) -> None:
  """The part of `validate` that looks at each key alone."""
  for key, (accepts, wanted) in _RULES.items():
    try:
      value = get(config, key)
    except (KeyError, TypeError) as error:
      raise UserError(f"the config lacks {key}: let it start from configs/default.py") from error
    if not _accepted(accepts, value):
      shown = "..." if key in _SECRET else value
      raise UserError(f"--config.{key}={shown}: it takes {wanted}")


def _validate_selection(config: ConfigDict) -> None:
  train = config.train
  if train.validate_every and not config.data.num_val_classes:
    raise UserError(
      f"--config.train.validate_every={train.validate_every}: no classes are held out; pass "
      "--config.data.num_val_classes=V"
    )
  if train.keep_best and not train.validate_every:
    raise UserError("--config.train.keep_best: pass --config.train.validate_every=STEPS too")
  if config.evaluate.source == "best" and not train.keep_best:
    why = "nothing keeps it; pass --config.train.keep_best=True"
    raise UserError(f"--config.evaluate.source=best: {why}")


def _accepted(accepts: Callable[[Any], bool], value: Any) -> bool:
  try:
    return bool(accepts(value))
  except (TypeError, AttributeError, ValueError):
    # A value of another type altogether, such as None for a number, or a text that says nothing.
    return False


def _require_paths(config: ConfigDict, stages: Sequence[str]) -> None:
  """One line for all that a bare run would ask for one after the other."""
  missing = []
  language = config.language
  inspects = "inspect" in stages
  reads_file = config.evaluate.source not in ("checkpoint", "best", "pretrained") and not inspects
  needs_data = not reads_file and not (inspects and language.inspect_all)
  if config.data.name in readers.LAYOUTS and not config.data.root and needs_data:
    missing.append(f"--config.data.root=FOLDER with {readers.LAYOUTS[config.data.name]}")
  key, wanted = readers.SOURCES.get(config.data.name, ("root", ""))
  if wanted and not config.data[key] and needs_data:
    missing.append(f"--config.data.{key}={wanted}")
  describes = inspects or "describe" in stages
  if describes and language.describer == "file" and not language.descriptions:
    missing.append(
      "--config.language.descriptions=FILE, a JSON {class: [sentence, ...]} or a JSONL or CSV of "
      "class and description, or train without words by --config.loss.alignment=orthogonal"
    )
  asks = language.describer in LLM and not language.descriptions
  if inspects and language.inspect_all and asks:
    raise UserError(
      f"--config.language.inspect_all=True: language.describer={language.describer} knows no "
      "classes of its own; pass --config.language.descriptions=FILE, or inspect_all=False"
    )
  if describes and asks and not language.llm:
    missing.append("--config.language.llm=MODEL, which language.describer asks")
  if missing:
    raise UserError("this config needs your data: pass " + " and ".join(missing))


def _reject(key: str, value: Any, wanted: str, section: ConfigDict) -> None:
  other = wanted.rsplit(".", 1)[-1]
  raise UserError(f"--config.{key}={value}: it takes {wanted} (now {section[other]})")


def _validate_instances(config: ConfigDict) -> None:
  for key, value in (("alignment", "none"), ("image_alignment", "none")):
    if config.loss[key] != value:
      raise UserError(
        f"--config.data.instances=True: an image by itself has no class and no words; pass "
        f"--config.loss.{key}={value}"
      )
  if config.loss.auxiliary in choices.PROXIED:
    raise UserError(
      f"--config.data.instances=True: loss.auxiliary={config.loss.auxiliary} learns a proxy a "
      "class; pass --config.loss.auxiliary=pairwise"
    )
  if config.train.frozen_backbone:
    raise UserError(
      "--config.data.instances=True: it is for training a backbone; pass "
      "--config.train.frozen_backbone=False"
    )


def _validate_recoloured(config: ConfigDict) -> None:
  key = f"--config.data.recoloured_per_batch={config.data.recoloured_per_batch}"
  if config.loss.image_alignment == "none":
    raise UserError(
      f"{key}: L_img alone reads images of no class; pass "
      "--config.loss.image_alignment=vocabulary, or 0"
    )
  if config.train.frozen_backbone:
    raise UserError(
      f"{key}: train.frozen_backbone trains on features of the images in their own colours; pass 0"
    )


def _validate_data(config: ConfigDict) -> None:
  data = config.data
  if data.resize_size < data.image_size:
    _reject("data.resize_size", data.resize_size, "at least data.image_size", data)
  read_by.reject_unread(config, "data.name", readers.READ_BY)
  for key in ("train_fraction", "split_seed"):
    if data.test_classes and data[key] != readers.READ_BY[key][0]:
      raise UserError(
        f"--config.data.{key}={data[key]}: data.test_classes already says which classes are tested"
      )
  if data.instances:
    _validate_instances(config)
  if data.recoloured_per_batch:
    _validate_recoloured(config)
  language = config.language
  if language.describer == "synthetic" and not language.descriptions and data.name != "synthetic":
    raise UserError(
      "--config.language.describer=synthetic describes the finches of data.name=synthetic; "
      "pass --config.language.describer=file"
    )
