"""Which cells there are (config, start, variant, seed), each with a key of what decides it."""

import difflib
import json
import os
import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from lafg_jax import tasks
from lafg_jax.config import keys, validation
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint

# What a variants file has, and the module `variants` of a task.
_NAMES = "starts groups grid REFERENCE CONTROLS SEEDS VAL_CLASSES TUNING_SEEDS TUNED_GROUP".split()
# Part of each key: raised when a change of the code gives other figures for the same inputs, and
# when the default of a config key changes.
_VERSION = 2


class Cell(NamedTuple):
  """One training with its evaluation, of a resolved config; `key` is the hash of what decides its
  figures, `path` that of its JSON, and `tried` the settings that a trial of --tune compares."""

  dataset: str
  start: str
  variant: str
  seed: int
  group: str
  config: ConfigDict
  trains: bool
  key: str
  path: Path
  tried: Mapping[str, Any] = {}

  def __str__(self) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in self.tried.items())
    return f"{self.start}/{self.variant} seed {self.seed}" + (settings and f" ({settings})")

  @property
  def steps(self) -> int:
    """Steps that it trains."""
    return self.config.train.steps if self.trains else 0

  def with_seed(self, seed: int) -> "Cell":
    """The same cell with another seed."""
    where = (self.start, self.variant, seed, self.group)
    return cell(self.config, where, self.trains, self.path.with_name(f"{seed}.json"))

  def finished(self) -> dict[str, Any] | None:
    """Its result; None if there is none, or if it is of other settings."""
    found = read_cell(self.path)
    return found if found is not None and found.get("config_hash") == self.key else None


def read_cell(path: Path) -> dict[str, Any] | None:
  """A cell's JSON; None if it is missing or damaged."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (FileNotFoundError, ValueError):
    return None
  return found if isinstance(found, dict) else None


def read_variants(path: str) -> Any:
  """What a variants file defines.

  Raises:
    UserError: it cannot be read, or lacks a name.
  """
  if not os.path.isfile(path):
    raise UserError(f"--variants={path}: no such file; without the flag the shipped ones are taken")
  try:
    module = SimpleNamespace(**runpy.run_path(path, run_name="lafg_variants"))
  except (SyntaxError, ImportError, NameError, TypeError, ValueError, AttributeError) as error:
    raise UserError(f"--variants={path}: it cannot be read: {error}") from error
  missing = [name for name in _NAMES if not hasattr(module, name)]
  if missing:
    hint = "see lafg_jax/tasks/class_retrieval/variants.py"
    raise UserError(f"--variants={path}: it lacks {', '.join(missing)}; {hint}")
  return module


def cells(
  file: Any,
  config: ConfigDict,
  workdir: str,
  tuned: Mapping[str, Any],
  seeds: int,
  groups: Sequence[str] = (),
) -> list[Cell]:
  """Every cell of a variants file, seed by seed, so that finished cells can be paired early.

  Variants that do not go with the config are left out; one line of the log says why.

  Args:
    file: that of `read_variants`.
    config: with the command line's overrides.
    tuned: {dataset: {start: {variant: overrides}}}.
    seeds: of each variant, unless its group takes fewer.
    groups: to plan; empty for all.

  Raises:
    UserError: a key is unknown or its value impossible, a name cannot name a file, or no variant
      goes with the config.
  """
  validation.validate_values(config, tasks.find(config, "default").SECTIONS)
  dataset = tasks.find(config, "variants").dataset(config)
  found: list[Cell] = []
  left_out: dict[str, list[str]] = {}  # {reason: names}.
  planned = {name: of for name, of in file.groups().items() if not groups or name in groups}
  for start, of_start in file.starts(config).items():
    if isinstance(of_start, str):
      left_out.setdefault(of_start, []).append(start)
      continue
    of_tuned = tuned.get(dataset, {}).get(start, {})
    for group, variant in ((group, variant) for group, of in planned.items() for variant in of):
      overrides, name = planned[group][variant], f"{start}/{variant}"
      of_name = of_tuned.get(variant.split("@")[0], {})
      # What was tuned for a variant itself is above its own values, which --tune went out from.
      settings = (of_start, of_name, overrides or {}, of_tuned.get(variant, {}))
      changed = _changed(config, settings, name)
      path = Path(workdir, "cells", start, variant, "0.json")
      try:
        trains = overrides is not None and overrides.get("evaluate.source") != "untrained"
        first = cell(_resolved(changed), (start, variant, 0, group), trains, path)
      except UserError as error:
        left_out.setdefault(str(error), []).append(name)
        continue
      count = min(seeds, file.SEEDS.get(group, seeds))
      found += [first, *(first.with_seed(seed) for seed in range(1, count))]
  if not found:
    raise UserError("no variant goes with this config: " + "; ".join(left_out))
  for reason, names in left_out.items():
    logging.warning("left out: %s (%s)", ", ".join(names), reason)
  _check_equal_steps(found)
  return sorted(found, key=lambda one: one.seed)


def prepared(config: ConfigDict, settings: Sequence[Mapping[str, Any]], name: str) -> ConfigDict:
  """The config with overrides, checked and resolved; later overrides win.

  Raises:
    UserError: a key is unknown or a value impossible; the message names the variant.
  """
  return _resolved(_changed(config, settings, name))


def _changed(config: ConfigDict, settings: Sequence[Mapping[str, Any]], name: str) -> ConfigDict:
  """The config with overrides, each checked by itself; `_resolved` checks them together."""
  if not all(re.fullmatch(r"[\w.+=@-]+", part) for part in name.split("/", 1)):
    raise UserError(f"variant {name!r}: names take letters, digits and . + = @ _ -")
  made, known = config.copy_and_resolve_references(), config_keys.keys(config)
  overrides = {key: value for some in settings for key, value in some.items()}
  for key in (key for key in overrides if key not in known):
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else keys.LISTED
    raise UserError(f"variant {name}: unknown key {key}; {hint}")
  at = ""
  try:
    for key, value in overrides.items():
      at = f"{key}={value}: "
      made.update_from_flattened_dict({key: value})
    at = ""
    keys.expand_paths(made)
    validation.validate_values(made, tasks.find(made, "default").SECTIONS)
  except (TypeError, ValueError) as error:
    raise UserError(f"variant {name}: {at}{error}") from error
  return made


def _resolved(made: ConfigDict) -> ConfigDict:
  from lafg_jax.models.weights import resolve

  # Only the last step is evaluated.
  made.train.update(checkpoint_every=made.train.steps, keep_checkpoints=1)
  made.evaluate.source = "checkpoint"
  # The study has cells of its own for the start.
  made.evaluate.references = False
  task = tasks.find(made, "default")
  task.validate(made, task.default_names(made))
  if "size" in made.model:
    # Other tasks take a model whole, of which nothing is 'auto'.
    asked = ("model", made.data.image_size, *sorted(made.model.items()))
    made.model.update(_remembered(asked, lambda: resolve.resolve(made).model))
  return made


def cell(config: ConfigDict, where: tuple[str, str, int, str], trains: bool, path: Path) -> Cell:
  """One cell with its key; `where` is start, variant, seed and group."""
  config = config.copy_and_resolve_references()
  config.seed = where[2]
  if not trains:
    config.evaluate.source = "untrained"
  return Cell(
    tasks.find(config, "variants").dataset(config),
    *where,
    config,
    trains,
    _key(config, trains),
    path,
  )


def _key(config: ConfigDict, trains: bool) -> str:
  """Of all that decides its figures: values off their defaults that are read, files, images."""
  kinds, unread, inputs = tasks.find(config, "variants").decided_by(config, trains, _remembered)
  values = {
    key: value
    for key, value in keys.deciding(config, *kinds).items()
    if key not in unread and not keys.is_default(key, value) and keys.is_read(config, key)
  }
  return fingerprint(_VERSION, trains, values, *inputs)


# Hundreds of cells ask for the hashes of the same few files.
_memory: dict[str, Any] = {}


def _remembered(key: Sequence[Any], make: Callable[[], Any]) -> Any:
  name = repr(key)
  if name not in _memory:
    _memory[name] = make()
  return _memory[name]


def _check_equal_steps(found: Sequence[Cell]) -> None:
  """Within a start; a pretrained start may take fewer steps than one from scratch."""
  first: dict[str, Cell] = {}
  for one in found:
    other = first.setdefault(one.start, one) if one.trains else one
    if one.steps != other.steps:
      what = f"{other.variant} trains {other.steps} steps and {one.variant} {one.steps}"
      hint = "every variant of a start takes as many; take train.steps out of the variants"
      raise UserError(f"{what}: {hint}")


def check_names(
  file: Any, config: ConfigDict, groups: Sequence[str], starts: Sequence[str] | None
) -> None:
  """Raises UserError for a group or start that the variants file, or this config, does not have."""
  of_starts, starts = file.starts(config), starts or ()
  flags = {"groups": (groups, [*file.groups(), "all"]), "starts": (starts, [*of_starts])}
  for flag, (names, known) in flags.items():
    for name in (name for name in names if name not in known):
      raise UserError(f"--{flag}={name}: it takes {', '.join(known)}")
  for name in starts:
    if isinstance(of_starts[name], str):
      raise UserError(f"--starts={name}: {of_starts[name]}")


def select(
  every: Sequence[Cell], groups: Sequence[str], starts: Sequence[str] | None, only: re.Pattern[str]
) -> list[Cell]:
  """The cells of some groups and starts whose 'start/variant' matches `only`.

  Raises:
    UserError: nothing is left.
  """
  chosen = [one for one in every if "all" in groups or one.group in groups]
  chosen = [one for one in chosen if not starts or one.start in starts]
  chosen = [one for one in chosen if only.search(f"{one.start}/{one.variant}")]
  if chosen:
    return chosen
  where = f"groups {', '.join(groups)}" + (f" and the starts {', '.join(starts)}" if starts else "")
  what = "start/variant that goes with this config"
  raise UserError(f"--only={only.pattern}: it finds no {what}, of the {where}")
