"""What the readers of a user's own data sets share: plain class names, and the split by classes."""

import dataclasses
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.config.table import ROWS
from lafg_jax.data.datasets import Dataset, of_classes
from lafg_jax.data.readers import common, split_folders
from lafg_jax.utils import random_streams
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# iNaturalist 2021: number, kingdom, phylum, class, order, family, genus, species.
_TAXON = re.compile(r"\d+_(?:[^_]+_){4}([^_]+)_([^_]+)_([^_]+)")
# '001.Black_footed_Albatross'. Before another sign digits may be part of a name: '2012_M3'.
_NUMBERED = re.compile(r"\d+\.\s*(?=\D)")


def clean_names(raw: Sequence[str]) -> list[str]:
  """Class names as a person writes them, from those of folders or label lists, in their order.

  Underscores become spaces, '17' becomes 'class 17', and accents are composed. Where all names
  begin with a number, as '001.Black_footed_Albatross' does, the numbers are removed. Where all
  names are taxa, as iNaturalist's '00042_Plantae_..._genus_species', genus and species are kept,
  and the family where two families have a species of that name.
  """
  found = [taxon.groups() for name in raw if (taxon := _TAXON.fullmatch(name))]
  if found and len(found) == len(raw):
    shared = Counter((genus, species) for _, genus, species in found)
    names = [
      f"{genus} {species}" + (f" ({family})" if shared[genus, species] > 1 else "")
      for family, genus, species in found
    ]
  else:
    numbered = all(_NUMBERED.match(name) for name in raw)
    names = [_NUMBERED.sub("", name, count=1) if numbered else name for name in raw]
  return [_plain(name) for name in names]


def _plain(name: str) -> str:
  name = " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())
  return f"class {name}" if name.isdecimal() else name


def halves(
  data: Any, pool: Dataset, where: str, splits: Sequence[str] | None = None
) -> tuple[Dataset, Dataset]:
  """Splits all images of a data set into a training and a test half by whole classes.

  The test has the classes of the file data.test_classes. Without that file, data.train_fraction of
  the classes train: the first ones or, with data.split_seed >= 0, classes drawn by that seed. Both
  halves keep the order of the classes.

  Args:
    data: the section config.data.
    pool: all images.
    where: the folder or file, for errors.
    splits: the split [n] that each image has in the data set itself. Where train and test share no
      class, they are the halves; else they are put together, as those of data sets to classify.

  Raises:
    UserError: a listed class does not exist, or no class is left for training.
  """
  if splits is not None and (kept := _kept_apart(data, pool, where, splits)):
    return kept
  names = pool.class_names
  test = _listed(data, names, where) if data.test_classes else _drawn(data, names)
  train_names = [name for name in names if name not in test]
  if not train_names:
    raise UserError(f"{where} has no class to train on besides those of the test")
  test_names = [name for name in names if name in test]
  return of_classes(pool, "train", train_names), of_classes(pool, "test", test_names)


def _kept_apart(
  data: Any, pool: Dataset, where: str, splits: Sequence[str]
) -> tuple[Dataset, Dataset] | None:
  """The halves that a data set brings; None where its test has training classes, or is missing.

  Without a test, validation classes of their own are the test.
  """
  part_of = {name: split_folders.part_of(name) for name in set(splits)}
  side = np.array([part_of[name] for name in splits])
  of = {part: set(pool.labels[side == part].tolist()) for part in ("train", "val", "test")}
  if not of["test"]:
    # As folders: a split to validate on is the test where there is no other.
    of["test"], of["val"] = of["val"], of["test"]
    side = np.where(side == "val", "test", side)
  if both := of["train"] & of["test"]:
    logging.warning(
      "%s: %s in train and in another split, so all splits are put together, and whole classes "
      "split anew", where, counted(len(both), "class"),
    )  # fmt: skip
  if both or not of["train"] or not of["test"]:
    return None
  refuse_split_keys(data, f"the classes of its splits train and test in {where} are different ones")
  held_out = of["val"] - of["train"] - of["test"] if data.num_val_classes else set()
  left = len(pool.class_names) - len(of["train"] | of["test"] | held_out)
  logging.warning(
    "%s: no class is in both train and test, so they are the halves%s", where,
    f"; {counted(left, 'class')} of other splits left out" if left else "",
  )  # fmt: skip
  names = pool.class_names
  ours = [names[k] for k in sorted(of["train"] | held_out)]
  train = of_classes(pool, "train", ours)
  val_classes = tuple(names[k] for k in sorted(held_out))
  test = of_classes(pool, "test", [names[k] for k in sorted(of["test"])])
  return dataclasses.replace(train, val_classes=val_classes), test


def _drawn(data: Any, names: Sequence[str]) -> set[str]:
  order = np.arange(len(names))
  if data.split_seed >= 0:
    order = random_streams.of_seed(data.split_seed).permutation(len(names))
  count = int(data.train_fraction * len(names) + 0.5)
  if data.train_fraction < 1:
    # With two classes or more, each half has one.
    count = min(count, len(names) - 1)
  return {names[k] for k in order[max(1, count) :]}


def _listed(data: Any, names: Sequence[str], where: str) -> set[str]:
  path = Path(data.test_classes)
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"--config.data.test_classes={path}: not a text file with one class name a line"
    ) from error
  raw = [line.strip() for line in lines if line.strip()]
  if not raw:
    raise UserError(f"--config.data.test_classes={path}: no class name in it")
  wanted = set()
  for line, cleaned in zip(raw, clean_names(raw), strict=True):
    name = next((x for x in (line, cleaned, _plain(line)) if x in names), None)
    if name is None:
      near = difflib.get_close_matches(cleaned, names, n=1, cutoff=0)
      raise UserError(f"{path}: {where} has no class '{line}'; the nearest name is '{near[0]}'")
    wanted.add(name)
  return wanted


def refuse_split_keys(data: Any, why: str) -> None:
  """Raises UserError where a key splits classes of a data set that brings its own split."""
  for key in ("test_classes", "split_seed", "train_fraction"):
    if data[key] != ROWS[f"data.{key}"].default:
      raise UserError(f"--config.data.{key}={data[key]}: {why}; leave it out")


def of_values(values: Sequence[Any], names: Sequence[str] | None, where: str) -> tuple:
  """Labels, class names and rows of images whose label is given as a number or a text.

  Args:
    values: one for each image: numbers, or texts, which then are the names. An image with None or a
      negative number has no label.
    names: those of the labels 0, 1, ... where labels are numbers that have names.
    where: the data set, for errors.

  Returns:
    labels: int32 [k], in the order of the numbers, or of the texts, without gaps.
    class_names: tuple of str [C].
    rows: int64 [k], of the images that have a label.

  Raises:
    UserError: labels are of another kind, two classes have one name, or no image has a label.
  """
  labelled = [x is not None and not (isinstance(x, int) and x < 0) for x in values]
  rows = np.flatnonzero(labelled)
  used = [x for x, has_label in zip(values, labelled, strict=True) if has_label]
  kinds = {type(x) for x in used}
  if not used or kinds not in ({int}, {str}):
    shown = " and ".join(sorted(kind.__name__ for kind in kinds)) or "none at all"
    raise UserError(f"{where}: labels are {shown}, neither whole numbers nor names")
  keys = sorted(set(used))
  if kinds == {str}:
    class_names = clean_names(keys)
  elif names is not None:
    if keys[-1] >= len(names):
      raise UserError(f"{where}: label {keys[-1]} has no name, of {len(names)} class names")
    cleaned = clean_names(names)
    class_names = [cleaned[key] for key in keys]
  else:
    class_names = [f"class {key}" for key in keys]
  common.check_names(where, dict(zip(keys, class_names, strict=True)))
  position = {key: k for k, key in enumerate(keys)}
  return np.array([position[x] for x in used], np.int32), tuple(class_names), rows
