"""Optax optimisers from the `train` section of a config."""

import re
from typing import Any

import optax
from flax import traverse_util
from ml_collections import ConfigDict

from lafg_jax.errors import UserError


def schedule(train: ConfigDict) -> optax.Schedule:
  """Linear warm-up from 0 to the peak, then a cosine to 0 at the last step."""
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=train.learning_rate,
    warmup_steps=int(train.warmup * train.steps),
    decay_steps=train.steps,
  )


def make(config: ConfigDict, params: dict[str, Any]) -> optax.GradientTransformation:
  """SGD with momentum 0.9 or AdamW, with clipping, decay of kernels only, and frozen parameters.

  Raises:
    UserError: `train.freeze` finds no parameter.
  """
  train = config.train
  rate = schedule(train)
  decay_mask = _map_paths(lambda path: path.endswith("kernel"), params)
  if train.optimizer == "sgd":
    # Decay before momentum, as PyTorch's SGD has it: the published recipe's meaning of 1e-4.
    rule = optax.chain(
      optax.add_decayed_weights(train.weight_decay, decay_mask), optax.sgd(rate, momentum=0.9)
    )
  else:
    rule = optax.adamw(rate, weight_decay=train.weight_decay, mask=decay_mask)
  if train.clip_norm:
    rule = optax.chain(optax.clip_by_global_norm(train.clip_norm), rule)
  labels = _map_paths(lambda path: "frozen" if is_frozen(config, path) else "trained", params)
  found = traverse_util.flatten_dict(params, sep="/")
  if train.freeze and not any(re.search(train.freeze, path) for path in found):
    raise UserError(
      f"--config.train.freeze={train.freeze}: no parameter has such a path; they are like "
      + ", ".join(sorted(found)[:3])
    )
  return optax.multi_transform({"trained": rule, "frozen": optax.set_to_zero()}, labels)


def is_frozen(config: ConfigDict, path: str) -> bool:
  """Whether the parameter at `path` stays as it started."""
  loss = config.loss
  # Where the text side is not learned, its projector must not decay or drift either: in the
  # 'prototype' form P_t takes no gradient unless it is 'free', and 'fixed' means what it says.
  text_is_fixed = loss.projector == "fixed" or (
    loss.projector == "mean" and loss.alignment == "prototype"
  )
  if path == "projectors/text" and text_is_fixed:
    return True
  return bool(config.train.freeze) and re.search(config.train.freeze, path) is not None


def _map_paths(function, params: dict[str, Any]) -> dict[str, Any]:
  flat = traverse_util.flatten_dict(params, sep="/")
  return traverse_util.unflatten_dict({p: function(p) for p in flat}, sep="/")
