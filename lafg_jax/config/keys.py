"""Facts of the table of keys about a config: defaults, and which of its values decide what."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config.record import Key
from lafg_jax.config.table import ROWS
from lafg_jax.utils import config_keys, places

# For errors about unknown keys.
LISTED = "python -m lafg_jax.config.reference lists them all"


def rows(sections: Sequence[str]) -> list[Key]:
  """The rows of some sections, in the table's order; a key such as 'seed' is its own section.

  'model.dtype' among the sections is that key alone.
  """
  return [row for row in ROWS.values() if {row.name, row.name.split(".")[0]} & {*sections}]


def defaults(sections: Sequence[str]) -> ConfigDict:
  """A locked config of some sections, each key at its default."""
  return config_keys.nested({row.name: row.default for row in rows(sections)}).lock()


def deciding(config: Any, *kinds: str) -> dict[str, Any]:
  """{key: value} of the keys of a config, or of some of its sections, that decide these things.

  Kinds are those of `record.KINDS`; a key without a row counts as 'training'. 'embedding' and
  'training' decide training, with 'targets' if it reads words; 'embedding' and 'evaluation' decide
  evaluation.
  """
  found = config_keys.keys(config)
  chosen = [key for key in found if (ROWS[key].decides if key in ROWS else "training") in kinds]
  return {key: config_keys.get(config, key) for key in chosen}


def expand_paths(config: ConfigDict) -> None:
  """Puts home folders in place of ~ and ~user in every key that may hold a path.

  Raises UserError, which names the key, where there is no such user.
  """
  for key in config_keys.keys(config):
    value = config_keys.get(config, key)
    if key in ROWS and ROWS[key].path and isinstance(value, str | tuple):
      many = value if isinstance(value, tuple) else (value,)
      found = tuple(places.expanded(place, f"--config.{key}=") for place in many)
      with config.unlocked():
        config.update_from_flattened_dict({key: found if isinstance(value, tuple) else found[0]})


def is_read(config: Any, key: str) -> bool:
  """Whether the other key in `Key.read_by` has a value that reads this key."""
  by = ROWS[key].read_by if key in ROWS else None
  return by is None or config_keys.get(config, by.key) in by.values


def is_default(key: str, value: Any) -> bool:
  """Whether this is the key's default in the table."""
  return key in ROWS and value == ROWS[key].default
