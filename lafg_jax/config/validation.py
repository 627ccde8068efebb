"""Checks the values of a config against the table of keys, before any work starts."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError


def validate_values(config: ConfigDict, sections: Sequence[str]) -> None:
  """Raises UserError for the first key of a task's `sections` that is missing or not valid."""
  for row in keys.rows(sections):
    try:
      value = config_keys.get(config, row.name)
    except (KeyError, TypeError) as error:
      raise UserError(
        f"the config lacks {row.name}: let it start from get_config() of its task, such as "
        "lafg_jax.tasks.class_retrieval.default"
      ) from error
    if not _accepted(row.rule.accepts, value):
      shown = "..." if row.secret else value
      raise UserError(f"--config.{row.name}={shown}: it takes {row.rule.wanted}")


def reject_unread(config: ConfigDict, sections: Sequence[str]) -> None:
  """Raises UserError for the first key that is set although another key's value ignores it."""
  for row in keys.rows(sections):
    by, value = row.read_by, config_keys.get(config, row.name)
    if by is None or by.unset is None or value == by.unset or keys.is_read(config, row.name):
      continue
    why = (
      f"{by.key}={config_keys.get(config, by.key)} does not read it, only {', '.join(by.values)}"
    )
    raise UserError(f"--config.{row.name}={value}: {why}; pass --config.{row.name}={by.unset}")


def _accepted(accepts: Callable[[Any], bool], value: Any) -> bool:
  try:
    return bool(accepts(value))
  except (TypeError, AttributeError, ValueError, re.error):
    # Such as None for a number, or a text with a mistake.
    return False
