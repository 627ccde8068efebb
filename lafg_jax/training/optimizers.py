"""Optax optimisers from the `train` section of a config."""

import re
from typing import Any

import optax
from flax import traverse_util
from ml_collections import ConfigDict

from lafg_jax.tasks.class_retrieval.choices import WORDLESS
from lafg_jax.utils.errors import UserError


def schedule(train: ConfigDict) -> optax.Schedule:
  """Linear warm-up from 0 to the peak, then a cosine to 0 at the last step."""
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=train.learning_rate,
    warmup_steps=int(train.warmup * train.steps),
    decay_steps=train.steps,
  )


def make(config: ConfigDict, params: dict[str, Any]) -> optax.GradientTransformation:
  """SGD with momentum 0.9 or AdamW, with clipping and decay of kernels only.

  Proxies learn at `loss.proxy_lr_factor` times the rate of all else. It takes gradients and
  parameters of what is trained alone, `split(config, params)[0]`: nothing is kept for frozen
  parameters.

  Raises:
    UserError: `train.freeze` finds no parameter, none that would move, or all that would.
  """
  train = config.train
  _check_freeze(config, list(traverse_util.flatten_dict(params, sep="/")))
  rate = schedule(train)
  trained = split(config, params)[0]
  decay_mask = _map_paths(lambda path: path.endswith("kernel"), trained)
  if train.optimizer == "sgd":
    # Decay before momentum, as PyTorch's SGD has it: the published recipe's meaning of 1e-4.
    rule = optax.chain(
      optax.add_decayed_weights(train.weight_decay, decay_mask), optax.sgd(rate, momentum=0.9)
    )
  else:
    rule = optax.adamw(rate, weight_decay=train.weight_decay, mask=decay_mask)
  if train.clip_norm:
    rule = optax.chain(optax.clip_by_global_norm(train.clip_norm), rule)
  if "proxies" in trained:
    # A scaled update is a scaled learning rate: proxies do not decay.
    is_proxy = _map_paths(lambda path: path == "proxies", trained)
    rule = optax.chain(rule, optax.masked(optax.scale(config.loss.proxy_lr_factor), is_proxy))
  return rule


def split(config: ConfigDict, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """The parameters that are trained and those that are frozen, each nested as in `params`."""
  flat = traverse_util.flatten_dict(params, sep="/")
  trained, fixed = (
    {path: x for path, x in flat.items() if is_frozen(config, path) == frozen}
    for frozen in (False, True)
  )
  unflatten = traverse_util.unflatten_dict
  return unflatten(trained, sep="/"), unflatten(fixed, sep="/")


def join(trained: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
  """The whole tree of two parts that `split` made."""
  flat = traverse_util.flatten_dict(trained, sep="/") | traverse_util.flatten_dict(fixed, sep="/")
  return traverse_util.unflatten_dict(flat, sep="/")


def is_frozen(config: ConfigDict, path: str) -> bool:
  """Whether the parameter at `path` stays as it started."""
  if config.train.freeze and re.search(config.train.freeze, path):
    return True
  return _stays_anyway(config, path)


def _stays_anyway(config: ConfigDict, path: str) -> bool:
  """Whether the parameter at `path` is frozen whatever train.freeze says."""
  loss, model = config.loss, config.model
  # Where the text side is not learned, its projector must not decay or drift either: in the
  # 'prototype' form P_t takes no gradient unless it is 'free', and 'fixed' means what it says.
  text_is_fixed = (
    loss.projector == "fixed"
    or (loss.projector == "mean" and loss.alignment == "prototype")
    # L_img reads the text side as it is.
    or loss.alignment in WORDLESS
  )
  if path == "projectors/text":
    return text_is_fixed
  # LoRA and prompts leave what was pretrained as it is: that is what they are for.
  keeps_backbone = model.lora_rank or model.num_prompts or config.train.frozen_backbone
  return bool(keeps_backbone) and path.startswith("backbone/")


def _check_freeze(config: ConfigDict, paths: list[str]) -> None:
  freeze = config.train.freeze
  if not freeze:
    return
  found = [path for path in paths if re.search(freeze, path)]
  if not found:
    raise UserError(
      f"--config.train.freeze={freeze}: no parameter has such a path; they are like "
      + ", ".join(sorted(paths)[:3])
    )
  if all(_stays_anyway(config, path) for path in found):
    raise UserError(
      f"--config.train.freeze={freeze}: all that it finds is frozen already, as {found[0]}: leave "
      "it empty, or name more"
    )
  if all(is_frozen(config, path) for path in paths):
    raise UserError(f"--config.train.freeze={freeze}: it leaves nothing to train; name less")


def _map_paths(function, params: dict[str, Any]) -> dict[str, Any]:
  flat = traverse_util.flatten_dict(params, sep="/")
  return traverse_util.unflatten_dict({p: function(p) for p in flat}, sep="/")
