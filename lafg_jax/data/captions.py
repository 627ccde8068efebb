"""Image-text pairs: the sections `data` and `captions` of a config in, `Captioned` splits out.

No image is opened here. Each source has a module in `caption_readers`, which lists the pairs. All
functions raise a UserError of one line where something is missing or wrong.
"""

import hashlib
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.data import datasets
from lafg_jax.data.caption_readers.listed import Listed
from lafg_jax.data.datasets import SPLITS, Dataset, Rows
from lafg_jax.data.readers import common, own
from lafg_jax.finches.text import Span
from lafg_jax.utils import ground as grounds
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError


class Captioned(NamedTuple):
  """The n rows of one split: a caption and its image each; an image may have several rows."""

  images: Any  # [n] as `Dataset.images`
  captions: list[str]  # [n]
  labels: np.ndarray  # [n] int32, index into class_names; -1 where the data have no classes
  class_names: tuple[str, ...]  # [C]; all classes of the data under a split by images
  ids: tuple[str, ...]  # [n] names of the rows
  split: str
  image_of: np.ndarray  # [n] int32, the number of the row's image: rows of one image share it
  negatives: list[list[str]] | None  # [n] wrong captions that come with the data
  spans: list[list[Span]] | None  # [n] which words tell an attribute, where that is known
  name: str  # captions.source
  content: str  # changes when pairs, classes, given negatives, or sizes of images do
  partial: bool = False  # listed images are missing
  ground: tuple[int, int, int] = Dataset.ground

  @property
  def num_images(self) -> int:
    """Distinct images."""
    return int(self.image_of.max()) + 1 if len(self.image_of) else 0


def check(config: Any) -> None:
  """Raises UserError where the keys of a config contradict each other, or a file is not given."""
  captions, data = config.captions, config.data
  if captions.source != "finches" and not (captions.file or captions.test_file):
    kinds = {"fdrd": "a JSON of FDRD", "table": "JSONL, CSV or Parquet of image and caption"}
    raise UserError(f"pass --config.captions.file=FILE, {kinds[captions.source]}")
  if not captions.file and captions.test_file and captions.split != "own":
    raise UserError(
      f"--config.captions.split={captions.split}: it splits captions.file, which is not set"
    )
  if captions.val_fraction and data.num_val_classes:
    raise UserError(
      f"--config.captions.val_fraction={captions.val_fraction}: data.num_val_classes="
      f"{data.num_val_classes} holds out whole classes already; leave one of them out"
    )
  if captions.split != "classes" and captions.classes == "all":
    own.refuse_split_keys(data, f"captions.split={captions.split} does not read it")


def load_splits(config: Any, splits: Sequence[str] = SPLITS) -> dict[str, Captioned]:
  """Loads those of `splits` that exist; 'val' only where images or classes are held out.

  Args:
    config: reads the section captions, and of data root, expect_counts, ground, num_val_classes,
      max_train_classes and, where classes are split, train_fraction, split_seed and test_classes.
    splits: some of 'train', 'val' and 'test'.
  """
  for split in splits:
    if split not in SPLITS:
      raise UserError(f"unknown split '{split}': choose from {', '.join(SPLITS)}")
  check(config)
  source = config.captions.source
  listed = importlib.import_module(f"lafg_jax.data.caption_readers.{source}").read(config)
  pool, rows = _pool(config, listed)
  if config.captions.classes != "all":
    pool, rows = _half(config, pool, rows)
  parts = _split(config, pool, [listed.splits[row] for row in rows] if listed.splits else None)
  empty = [split for split in splits if split != "val" and not len(parts[split][0])]
  if empty:
    raise UserError(
      f"{listed.where} has no row for split {empty[0]}: pass the file that has them, or another "
      "--config.captions.split"
    )
  return {split: _take(pool, split, *parts[split]) for split in splits if len(parts[split][0])}


def as_dataset(captioned: Captioned) -> Dataset:
  """Its rows as the Dataset that readers of images take; without classes, all are of one."""
  return Dataset(
    name=captioned.name,
    split=captioned.split,
    images=captioned.images,
    labels=np.maximum(captioned.labels, 0),
    class_names=captioned.class_names or ("image",),
    ids=captioned.ids,
    partial=captioned.partial,
    version=captioned.content,
    ground=captioned.ground,
  )


def one_per_image(captioned: Captioned) -> np.ndarray:
  """[images] int64, the first row of each image."""
  return np.unique(captioned.image_of, return_index=True)[1]


def equal_captions(captions: Sequence[str]) -> tuple[np.ndarray, list[str]]:
  """[n] int32, the number of each caption, which equal captions share, and the distinct ones."""
  number: dict[str, int] = {}
  of = np.array([number.setdefault(text, len(number)) for text in captions], np.int32)
  return of, list(number)


def _pool(config: Any, listed: Listed) -> tuple[Captioned, list[int]]:
  """All pairs whose images are there, in the order of their images, and the listed row of each."""
  root, there = _there(config, listed)
  every = range(len(listed.paths))
  rows = [row for row in every if there is None or listed.paths[row] in there]
  if not rows:
    raise UserError(
      f"none of the images of {listed.where} is below {root}: pass --config.data.root=FOLDER"
    )
  # Stable: captions of an image stay in their order.
  rows.sort(key=lambda row: natural(listed.paths[row]))
  paths = [listed.paths[row] for row in rows]
  captions = [listed.captions[row] for row in rows]
  classes = None if listed.classes is None else [listed.classes[row] for row in rows]
  _check_pairs(listed.where, paths, captions, classes)
  names = tuple(sorted(set(classes or ())))
  common.check_names(listed.where, dict(enumerate(names)), own=True)
  label = {name: k for k, name in enumerate(names)}
  images: Any
  if listed.images is None:
    images = np.array([str(root / path) for path in paths], dtype=np.str_)
  else:
    images = Rows(listed.images, np.array([(listed.rows or every)[row] for row in rows]))
  pool = Captioned(
    images=images,
    captions=captions,
    labels=np.array([label[x] for x in classes] if classes else [-1] * len(rows), np.int32),
    class_names=names,
    ids=tuple(_ids(listed, rows, paths)),
    split="all",
    image_of=equal_captions(paths)[0],
    negatives=None if listed.negatives is None else [list(listed.negatives[row]) for row in rows],
    spans=None if listed.spans is None else [list(listed.spans[row]) for row in rows],
    name=config.captions.source,
    content=listed.version,
    partial=len(rows) < len(listed.paths),
    ground=grounds.of(config.data),
  )
  return pool, rows


def _there(config: Any, listed: Listed) -> tuple[Path, set[str] | None]:
  """The folder of the images, and which of them are there; None where they are no files."""
  file = Path(config.captions.file or config.captions.test_file)
  root = Path(config.data.root or file.parent)
  if listed.images is not None:
    return root, None
  if not root.is_dir():
    raise UserError(f"--config.data.root={root} is not a folder: pass that of the images")
  wanted = [common.Image(path, None) for path in dict.fromkeys(listed.paths)]
  return root, {image.path for image in common.present(root, wanted, config.data)}


def _check_pairs(
  where: str, paths: Sequence[str], captions: Sequence[str], classes: Sequence[str] | None
) -> None:
  """Raises UserError where a pair is listed twice, or an image has two classes."""
  seen = set()
  class_of: dict[str, str] = {}
  for row, pair in enumerate(zip(paths, captions, strict=True)):
    if pair in seen:
      raise UserError(f"{where} lists {pair[0]} twice with the same caption: remove one row")
    seen.add(pair)
    if classes and class_of.setdefault(pair[0], classes[row]) != classes[row]:
      raise UserError(
        f"{where}: {pair[0]} is of class '{class_of[pair[0]]}' and of '{classes[row]}'"
      )


def _ids(listed: Listed, rows: Sequence[int], paths: Sequence[str]) -> list[str]:
  """Names of the rows: those of the source, or their images, from the second caption on with #k."""
  if listed.ids is not None:
    ids = [listed.ids[row] for row in rows]
    if len(set(ids)) < len(ids):
      twice = next(x for k, x in enumerate(ids) if x in ids[:k])
      raise UserError(f"{listed.where}: id '{twice}' stands there twice")
    return ids
  count: dict[str, int] = {}
  ids = []
  for path in paths:
    count[path] = count.get(path, 0) + 1
    ids.append(path if count[path] == 1 else f"{path}#{count[path]}")
  return ids


def natural(path: str) -> list[tuple[int, str]]:
  """A key that sorts 'a_9' before 'a_10'."""
  parts = re.split(r"(\d+)", path)
  return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


# The rows of a split, and the names of its classes.
_Part = tuple[np.ndarray, tuple[str, ...]]


def _split(config: Any, pool: Captioned, written: Sequence[str] | None) -> dict[str, _Part]:
  """The parts train, val and test; `written` [n] is the split that the source gives each row."""
  captions, data = config.captions, config.data
  if captions.split == "classes":
    train, test = _halves(config, pool)
    parts = _held_out_classes(data, train, test)
  else:
    parts = _by_images(config, pool, written)
    if data.num_val_classes or data.max_train_classes:
      parts = _some_classes(config, pool, parts)
  if captions.val_fraction and not len(parts["val"][0]):
    rows, names = parts["train"]
    held = _every(pool, rows, captions.val_fraction)
    parts |= {"train": (rows[~held], names), "val": (rows[held], names)}
    if not held.any() or held.all():
      raise UserError(
        f"--config.captions.val_fraction={captions.val_fraction}: no image is "
        f"{'left for training' if held.all() else 'held out'}; no class has enough"
      )
  elif captions.val_fraction:
    raise UserError(
      f"--config.captions.val_fraction={captions.val_fraction}: the data have a split val"
    )
  return parts


def _by_images(config: Any, pool: Captioned, written: Sequence[str] | None) -> dict[str, _Part]:
  every = np.arange(len(pool.captions))
  if config.captions.split == "images":
    test = _every(pool, every, config.captions.test_fraction)
    side = np.where(test, "test", "train")
  elif written is None:
    raise UserError(
      f"--config.captions.split=own: {config.captions.file} has no split of its own: pass "
      "--config.captions.test_file=FILE, or --config.captions.split=images or classes"
    )
  else:
    side = np.array(written)
    _check_apart(pool, side)
  parts = {}
  for split in SPLITS:
    rows = every[side == split]
    parts[split] = rows, pool.class_names
  return _apart_by_class(pool, parts)


def _apart_by_class(pool: Captioned, parts: dict[str, _Part]) -> dict[str, _Part]:
  """The parts, each with its own class names where no class of the test is trained on."""
  labels = {split: set(pool.labels[rows].tolist()) for split, (rows, _) in parts.items()}
  if labels["test"] & (labels["train"] | labels["val"]) or -1 in labels["test"]:
    return parts
  ours = labels["train"] if labels["val"] & labels["train"] else None
  found = {}
  for split, (rows, _) in parts.items():
    of = (labels["train"] | labels["val"]) if ours and split != "test" else labels[split]
    found[split] = rows, tuple(pool.class_names[k] for k in sorted(of))
  return found


def _check_apart(pool: Captioned, side: np.ndarray) -> None:
  """Raises UserError where an image is in two splits."""
  split_of: dict[int, str] = {}
  for row, (image, split) in enumerate(zip(pool.image_of.tolist(), side.tolist(), strict=True)):
    if split_of.setdefault(image, split) != split:
      raise UserError(
        f"{pool.ids[row]} is in the splits {split_of[image]} and {split}: an image belongs to one"
      )


def _every(pool: Captioned, rows: np.ndarray, fraction: float) -> np.ndarray:
  """[rows] bool: the rows of that part of the images of each class; see `held_out`."""
  return held_out(pool.image_of[rows], pool.labels[rows], fraction)


def held_out(image_of: np.ndarray, labels: np.ndarray, fraction: float) -> np.ndarray:
  """[n] bool: the rows of that part of the images of each class, evenly spaced in their order.

  Image k of a class, from 1 on, is taken where k times the fraction passes a whole number: of 0.2
  the 5th, the 10th and so on. All rows of an image go with it.

  image_of: [n] the image of each row. labels: [n] its class.
  """
  taken = np.zeros(len(labels), bool)
  count: dict[int, int] = {}
  chosen: dict[int, bool] = {}
  for k, (image, label) in enumerate(zip(image_of.tolist(), labels.tolist(), strict=True)):
    if image not in chosen:
      count[label] = number = count.get(label, 0) + 1
      # The small number makes up for fractions such as 0.2, which are a little off.
      chosen[image] = int(number * fraction + 1e-9) > int((number - 1) * fraction + 1e-9)
    taken[k] = chosen[image]
  return taken


def _as_classes(pool: Captioned, rows: np.ndarray) -> Dataset:
  """A Dataset whose images are the numbers of rows, for the rules that split classes."""
  names = np.array([str(x) for x in pool.class_names], dtype=object)
  kept = np.unique(pool.labels[rows])
  position = np.searchsorted(kept, pool.labels[rows]).astype(np.int32)
  ids = tuple(pool.ids[row] for row in rows)
  return Dataset("captions", "train", rows, position, tuple(names[kept].tolist()), ids)


def _halves(config: Any, pool: Captioned) -> tuple[Dataset, Dataset]:
  if not pool.class_names:
    key = "split" if config.captions.split == "classes" else "classes"
    raise UserError(
      f"--config.captions.{key}={config.captions[key]}: the captions have no classes: add a column "
      "class, or pass --config.captions.split=images"
    )
  where = config.captions.file or "the finches"
  return own.halves(config.data, _as_classes(pool, np.arange(len(pool.captions))), where)


def _half(config: Any, pool: Captioned, rows: list[int]) -> tuple[Captioned, list[int]]:
  """The pairs of captions.classes alone, 'train' or 'test', and the listed row of each."""
  half = _halves(config, pool)[config.captions.classes == "test"]
  kept = np.sort(np.asarray(half.images, np.int64))
  return _take(pool, pool.split, kept, half.class_names), [rows[k] for k in kept.tolist()]


def _held_out_classes(data: Any, train: Dataset, test: Dataset) -> dict[str, _Part]:
  names = datasets.splits_of(train, test, data)
  parts: dict[str, _Part] = {}
  for split in SPLITS:
    half = datasets.of_classes(test if split == "test" else train, split, names.get(split, ()))
    parts[split] = np.asarray(half.images, np.int64), half.class_names
  return parts


def _some_classes(config: Any, pool: Captioned, parts: dict[str, _Part]) -> dict[str, _Part]:
  """The parts once data.num_val_classes and max_train_classes have taken classes out of training.

  Raises UserError where train and test share classes: a class would be held out and tested too.
  """
  train, test = (_as_classes(pool, parts[split][0]) for split in ("train", "test"))
  shared = set(train.class_names) & set(test.class_names)
  keys = ("num_val_classes", "max_train_classes")
  key = next(key for key in keys if config.data[key])
  if shared or len(parts["val"][0]) or not pool.class_names:
    why = f"{counted(len(shared), 'class')} in train and test" if shared else "a split val is there"
    why = why if pool.class_names else "the captions have no classes"
    raise UserError(
      f"--config.data.{key}={config.data[key]}: {why}, so it cannot take out whole classes; leave "
      "it out, or pass --config.captions.split=classes"
    )
  return _held_out_classes(config.data, train, test)


def _take(pool: Captioned, split: str, rows: np.ndarray, names: Sequence[str]) -> Captioned:
  """Some rows as a split, with labels in the order of `names`."""
  position = {name: k for k, name in enumerate(names)}
  new = np.array([position.get(name, -1) for name in pool.class_names] or [-1], np.int32)
  images = pool.images
  if isinstance(images, Rows):
    images = Rows(images.images, images.rows[rows])
  else:
    images = images[rows]
  taken = pool._replace(
    images=images,
    captions=[pool.captions[row] for row in rows],
    labels=new[pool.labels[rows]],
    class_names=tuple(names),
    ids=tuple(pool.ids[row] for row in rows),
    split=split,
    image_of=np.unique(pool.image_of[rows], return_inverse=True)[1].astype(np.int32),
    negatives=None if pool.negatives is None else [pool.negatives[row] for row in rows],
    spans=None if pool.spans is None else [pool.spans[row] for row in rows],
  )
  return taken._replace(content=_content(taken))


def _content(captioned: Captioned) -> str:
  digest = hashlib.sha256(datasets.content_of(as_dataset(captioned)).encode())
  for texts in (captioned.captions, *(captioned.negatives or ())):
    digest.update("\0".join(texts).encode("utf-8", "replace") + b"\1")
  return digest.hexdigest()[:12]
