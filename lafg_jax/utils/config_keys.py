"""Dotted keys of a ConfigDict, such as 'model.width'."""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference


def keys(config: ConfigDict, prefix: str = "") -> list[str]:
  """Every dotted key of a config, leaves only, in order."""
  found: list[str] = []
  for name, value in config.items():
    nest = isinstance(value, ConfigDict)
    found += keys(value, f"{prefix}{name}.") if nest else [prefix + name]
  return found


def get(config: ConfigDict, key: str) -> Any:
  """The value at a dotted key. Raises KeyError."""
  return functools.reduce(operator.getitem, key.split("."), config)


class _Rule(NamedTuple):
  """What ml_collections applies to the value of a reference: fn(value, *args)."""

  fn: Callable[..., Any]
  args: tuple[FieldReference, ...]


def follow(config: ConfigDict, key: str, rule: Callable[..., Any], *others: str) -> None:
  """Lets a key follow other keys: until it is set, it reads as rule(its value now, *theirs)."""

  def section(name: str) -> tuple[ConfigDict, str]:
    *sections, last = name.split(".")
    return functools.reduce(operator.getitem, sections, config), last

  references = tuple(where.get_ref(last) for where, last in map(section, others))
  where, last = section(key)
  with config.ignore_type():
    where[last] = FieldReference(where[last], op=_Rule(rule, references))


def flatten(config: ConfigDict) -> dict[str, Any]:
  """{'model.width': 128, ...}, with lists for tuples, as JSON has them."""
  values = {key: get(config, key) for key in keys(config)}
  return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def nested(flat: dict[str, Any]) -> ConfigDict:
  """The ConfigDict with sections that `flatten` made flat."""
  tree: dict[str, Any] = {}
  for key, value in flat.items():
    *sections, name = key.split(".")
    inner = functools.reduce(lambda section, part: section.setdefault(part, {}), sections, tree)
    inner[name] = tuple(value) if isinstance(value, list) else value
  return ConfigDict(tree)


def differences(names: Iterable[str], old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """'key: old -> new' for each of `names` that differs between two flat configs."""
  changed = [k for k in names if old.get(k) != new.get(k)]
  return [f"{k}: {old.get(k, 'absent')} -> {new.get(k, 'absent')}" for k in changed]
