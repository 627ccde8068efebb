"""Optax optimisers from the `train` section of a config, and which parameters they move."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from lafg_jax.training import partition
from lafg_jax.utils.errors import UserError


def schedule(train: ConfigDict) -> optax.Schedule:
  """Linear warm-up from 0 to the peak; then a cosine to 0 at the last step, or the peak for good.

  train.schedule says which.
  """
  peak, warmup = train.learning_rate, int(train.warmup * train.steps)
  if train.schedule == "constant":
    return optax.warmup_constant_schedule(0.0 if warmup else peak, peak, warmup)
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=peak,
    warmup_steps=warmup,
    decay_steps=train.steps,
  )


def make(train: ConfigDict, objective: Any) -> optax.GradientTransformation:
  """SGD with momentum 0.9 or AdamW, with clipping and decay of kernels only.

  It takes gradients and parameters of what is trained alone, the first part of `partition.split`
  by `frozen`. Reads `params`, `is_frozen` and `rate_of` of the `step.Objective`. Raises as
  `check_freeze`.
  """
  check_freeze(train, objective.params, objective.is_frozen)
  rate = schedule(train)
  trained = partition.split(objective.params, frozen(train, objective))[0]
  kernels = lambda path, _: str(path[-1]).endswith("kernel")  # noqa: E731
  decay_mask = traverse_util.path_aware_map(kernels, trained)
  if train.optimizer == "sgd":
    # Decay before momentum, as PyTorch's SGD has it: the published recipe's meaning of 1e-4.
    rule = optax.chain(
      optax.add_decayed_weights(train.weight_decay, decay_mask), optax.sgd(rate, momentum=0.9)
    )
  else:
    moments = {"b2": train.adam_b2, "eps": train.adam_eps}
    rule = optax.adamw(rate, **moments, weight_decay=train.weight_decay, mask=decay_mask)
  if train.clip_norm:
    rule = optax.chain(optax.clip_by_global_norm(train.clip_norm), rule)
  for number, (_, factor) in enumerate(objective.rate_of):
    mask = traverse_util.path_aware_map(functools.partial(_has_rate, objective, number), trained)
    if any(jax.tree.leaves(mask)):
      # A scaled update is a scaled learning rate.
      rule = optax.chain(rule, optax.masked(optax.scale(factor), mask))
  return rule


def _has_rate(objective: Any, number: int, path: tuple[str, ...], x: Any) -> bool:
  """Whether that number of `rate_of` is the first that finds the path."""
  name = "/".join(path)
  found = (k for k, (pattern, _) in enumerate(objective.rate_of) if re.search(pattern, name))
  return next(found, None) == number


def frozen(train: ConfigDict, objective: Any) -> Callable[[str], bool]:
  """Whether the parameter at a path stays as it started: by the objective, or by train.freeze."""

  def is_frozen(path: str) -> bool:
    by_key = bool(train.freeze) and re.search(train.freeze, path) is not None
    return by_key or objective.is_frozen(path)

  return is_frozen


def check_freeze(
  train: ConfigDict, params: dict[str, Any], is_frozen: Callable[[str], bool]
) -> None:
  """Raises UserError where `train.freeze` finds no parameter, none that would move, or all.

  `params` are arrays or their shapes; `is_frozen` is the objective's.
  """
  freeze, paths = train.freeze, list(traverse_util.flatten_dict(params, sep="/"))
  found, why = [path for path in paths if re.search(freeze, path)], ""
  if not found:
    why = f"no parameter has such a path; they are like {', '.join(sorted(paths)[:3])}"
  elif all(map(is_frozen, found)):
    why = f"all that it finds is frozen already, as {found[0]}: leave it empty, or name more"
  elif all(path in found or is_frozen(path) for path in paths):
    why = "it leaves nothing to train; name less"
  if freeze and why:
    raise UserError(f"--config.train.freeze={freeze}: {why}")
