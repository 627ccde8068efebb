"""Dotted keys of a ConfigDict: what validation, training and evaluation share. No flags here."""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict


def keys(config: ConfigDict, prefix: str = "") -> list[str]:
  """Every dotted key of a config, leaves only, in order."""
  found: list[str] = []
  for name, value in config.items():
    inner = keys(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [prefix + name]
    found.extend(inner)
  return found


def get(config: ConfigDict, key: str) -> Any:
  """The value at a dotted key. Raises KeyError."""
  value = config
  for part in key.split("."):
    value = value[part]
  return value


def flatten(config: ConfigDict) -> dict[str, Any]:
  """{'model.width': 128, ...}, as JSON keeps it: tuples are lists."""
  values = {key: get(config, key) for key in keys(config)}
  return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def nested(flat: dict[str, Any]) -> ConfigDict:
  """The ConfigDict with sections that `flatten` made flat."""
  config = ConfigDict()
  for key, value in flat.items():
    *sections, name = key.split(".")
    inner = config
    for section in sections:
      if section not in inner:
        inner[section] = ConfigDict()
      inner = inner[section]
    inner[name] = tuple(value) if isinstance(value, list) else value
  return config


def differences(names: Iterable[str], old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """'key: old -> new' for each of `names` that differs between two flat configs."""
  changed = [k for k in names if old.get(k) != new.get(k)]
  return [f"{k}: {old.get(k, 'absent')} -> {new.get(k, 'absent')}" for k in changed]
