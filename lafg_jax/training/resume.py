"""Whether a run may resume from a checkpoint, and how it does."""

from collections.abc import Iterable
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.training import checkpoints
from lafg_jax.training.step import TrainState
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

# What becomes of the last step's weights: a run that is done takes other values without training.
AFTERWARDS = ("model.centre", "train.interpolate")


def deciding(config: ConfigDict) -> dict[str, Any]:
  """{key: value} of the keys that decide training, without those of the language base.

  Of that base, the checkpoint's `made_of` has the hash of what training reads.
  """
  found = keys.deciding(config, "embedding", "training")
  return {key: value for key, value in found.items() if key not in AFTERWARDS}


def changes(config: ConfigDict, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """What decides a run and differs between two checkpoints' meta, each in a few words.

  Compares the deciding keys of 'config', and all of 'made_of': {what: hash, or a few words}. A hash
  is not shown.
  """
  changed = config_keys.differences(deciding(config), old["config"], new["config"])
  before, now = old["made_of"], new["made_of"]
  for what in dict.fromkeys((*before, *now)):
    values = before.get(what), now.get(what)
    if values[0] != values[1]:
      short = all(value is None or len(value) < 20 for value in values)
      changed.append(f"{what}: {values[0]} -> {values[1]}" if short else what)
  return changed


def check_same(config: ConfigDict, old: dict[str, Any], new: dict[str, Any], workdir: str) -> None:
  """Raises UserError where something has changed and train.allow_changed is off."""
  changed = changes(config, old, new)
  if changed and not config.train.allow_changed:
    raise UserError(
      f"{checkpoints.folder(workdir)} was trained with another config ({'; '.join(changed)}): "
      "pass another --workdir, delete that folder to start anew, or go on all the same with "
      "--config.train.allow_changed=True"
    )
  if changed:
    logging.warning("train: going on under another config: %s", "; ".join(changed))


def check_evaluated(
  names: Iterable[str], config: ConfigDict, meta: dict[str, Any], folder: str
) -> None:
  """Raises UserError where a checkpoint in `folder` was trained with other values of these keys."""
  changed = config_keys.differences(names, meta["config"], config_keys.flatten(config))
  if changed:
    raise UserError(
      f"the checkpoint in {folder} is of another config ({'; '.join(changed)}): pass the config it "
      "was trained with"
    )


def restore(state: TrainState, arrays: checkpoints.Arrays, meta: dict[str, Any]) -> TrainState:
  """The state of a checkpoint; UserError where its arrays do not fit `state`."""
  logging.info("train: going on from the checkpoint of step %d", meta["step"])
  inner = {p.removeprefix("state/"): x for p, x in arrays.items() if p.startswith("state/")}
  try:
    return checkpoints.unflatten_like(state, inner)
  except ValueError as error:
    first, *more = str(error).split("; ")
    rest = f" and {len(more)} more" if more else ""
    raise UserError(
      f"the checkpoint of step {meta['step']} cannot go on under this config ({first}{rest}): pass "
      "the config it was trained with, or another --workdir"
    ) from error
