"""What is in a data set: every image decoded once, and what of it would hurt a run.

The figures are plain values for JSON; `report.data_page` shows them.
"""

import collections
import concurrent.futures
import functools
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lafg_jax.data import datasets, decoders, images, near_duplicates, readers
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils.progress import Progress

# Bits of 256 in which copies of another size and quality differ at most. On 6,094 photographs of
# cars all pairs up to 40 were copies; different photographs begin at 46.
NEAR_BITS = 24
# Pairs and names that are written out of each kind; all are counted.
LISTED = 200


class Look(NamedTuple):
  """What one image is."""

  width: int  # as it is shown: upright, and cut to its box
  height: int
  kind: str  # file format and colour mode, such as 'JPEG RGB'
  hash: np.ndarray | None  # None where it cannot be read
  error: str = ""


def run(data: Any) -> tuple[dict[str, Any], dict[str, Dataset]]:
  """Reads every image of all splits.

  Args:
    data: the section `config.data`; reads what the reader of data.name does, images_per_class,
      image_size and num_workers (threads; 0 takes one a core).

  Returns:
    The findings (see the keys below), and the datasets by split.

  Raises:
    UserError: the data set cannot be loaded at all.
  """
  splits = datasets.load_splits(data)
  rows = [(split, row) for split, dataset in splits.items() for row in range(len(dataset))]
  open_ = decoders.opener(scaled=True)
  look = functools.partial(_look, splits, open_)
  looks: list[Look] = []
  threads = data.num_workers or os.cpu_count() or 1
  with (
    concurrent.futures.ThreadPoolExecutor(threads) as pool,
    Progress("data", len(rows), "images") as progress,
  ):
    for some in _chunks(rows, 16 * threads):
      looks.extend(pool.map(look, some))
      progress.add(len(some))
  findings = {
    "dataset": data.name,
    "source": readers.source(data),
    "root": data.root,
    "images_per_class": data.images_per_class,
    "image_size": data.image_size,
    "splits": {split: _counts(dataset, data) for split, dataset in splits.items()},
    "kinds": dict(collections.Counter(look.kind for look in looks if not look.error)),
    "unreadable": _unreadable(splits, rows, looks),
    "sizes": _sizes(splits, rows, looks, data),
    "near_duplicates": _near_duplicates(splits, rows, looks),
  }
  return findings | {"problems": problems(findings)}, splits


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
  for first in range(0, len(items), size):
    yield items[first : first + size]


def _look(splits: dict[str, Dataset], open_: Any, at: tuple[str, int]) -> Look:
  split, row = at
  dataset = splits[split]
  try:
    source = images.source_of_dataset(dataset, row, open_)
    size = images.size_of(source)
    # Damage is found all the same: a reduced image is computed from all of the file.
    img, _ = images.reduced(source, (0, 0, *size), near_duplicates.PIXELS)
    return Look(*size, _kind(dataset.images[row]), near_duplicates.phash(img))
  except images.UnreadableImage as error:
    return Look(0, 0, "", None, str(error))


def _kind(image: Any) -> str:
  if isinstance(image, np.ndarray):
    return "array RGB"
  with Image.open(io.BytesIO(image) if isinstance(image, bytes) else str(image)) as header:
    return f"{header.format} {header.mode}"


def _summary(values: Iterable[float]) -> dict[str, float]:
  array = np.array(list(values), float)
  if not len(array):
    return {}
  return {
    "min": float(array.min()),
    "median": float(np.median(array)),
    "max": float(array.max()),
  }


def _counts(dataset: Dataset, data: Any) -> dict[str, Any]:
  counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
  few = np.flatnonzero(counts < data.images_per_class)
  return {
    "images": len(dataset),
    "classes": len(dataset.class_names),
    "per_class": _summary(counts),
    "histogram": _histogram(counts),
    "small_classes": {dataset.class_names[k]: int(counts[k]) for k in few[:LISTED]},
    "num_small_classes": len(few),
    "queries": None if dataset.is_query is None else int(np.sum(dataset.is_query)),
    "partial": dataset.partial,
  }


def _histogram(values: Sequence[int] | np.ndarray, bars: int = 24) -> dict[str, Any]:
  """Counts of whole numbers: bar k has first + k step and the step - 1 numbers above it."""
  if not len(values):
    return {"counts": [], "first": 0, "step": 1}
  first = int(np.min(values))
  # Whole steps: a bar that could hold two numbers beside one that holds one would look like a gap.
  step = -(-(int(np.max(values)) - first + 1) // bars)
  counts = np.bincount((np.asarray(values) - first) // step)
  return {"counts": counts.tolist(), "first": first, "step": step}


def _unreadable(
  splits: dict[str, Dataset], rows: list[tuple[str, int]], looks: list[Look]
) -> dict[str, Any]:
  bad = [(at, look.error) for at, look in zip(rows, looks, strict=True) if look.error]
  listed = [
    {"image": splits[split].ids[row], "split": split, "why": why}
    for (split, row), why in bad[:LISTED]
  ]
  return {"count": len(bad), "images": listed}


def _sizes(
  splits: dict[str, Dataset], rows: list[tuple[str, int]], looks: list[Look], data: Any
) -> dict[str, Any]:
  seen = [(at, look) for at, look in zip(rows, looks, strict=True) if not look.error]
  shorter = [min(look.width, look.height) for _, look in seen]
  smallest = sorted(range(len(seen)), key=shorter.__getitem__)[:5]
  return {
    "width": _summary(look.width for _, look in seen),
    "height": _summary(look.height for _, look in seen),
    "aspect": _summary(look.width / look.height for _, look in seen),
    "shorter_side": _histogram(shorter),
    "below_image_size": int(np.sum(np.array(shorter) < data.image_size)),
    "smallest": [
      {"image": splits[split].ids[row], "width": look.width, "height": look.height}
      for (split, row), look in (seen[k] for k in smallest)
    ],
  }


def _near_duplicates(
  splits: dict[str, Dataset], rows: list[tuple[str, int]], looks: list[Look]
) -> dict[str, Any]:
  """Images that look like another one: across splits, across classes, and within a class.

  All are counted. Of images with equal hashes in one class, a pair stands for all.
  """
  hashed = {k: look.hash for k, look in enumerate(looks) if look.hash is not None}
  names = ("across_splits", "across_classes", "within_class")
  involved: dict[str, set[int]] = {name: set() for name in names}
  listed: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
  if hashed:
    classes = [(split, int(splits[split].labels[row])) for split, row in rows]
    for one, other, distance in _alike(hashed, classes):
      (split, label), (other_split, other_label) = classes[one[0]], classes[other[0]]
      name = names[0] if split != other_split else names[1 + (label == other_label)]
      involved[name].update(one, other)
      if len(listed[name]) < LISTED:
        pair = [_place(splits, *rows[k]) for k in (one[0], other[-1])]
        listed[name].append({"bits": distance, "images": pair})
  return {"within_bits": NEAR_BITS, "of_bits": near_duplicates.BITS} | {
    name: {"images": len(involved[name]), "pairs": listed[name]} for name in names
  }


def _alike(
  hashed: dict[int, np.ndarray], classes: list[tuple[str, int]]
) -> Iterator[tuple[list[int], list[int], int]]:
  """Two lists of images, each of one class and one hash, that are alike; nearest first.

  A thousand grey squares would be half a million pairs of images.
  """
  at = list(hashed)
  unique, group = np.unique(np.stack(list(hashed.values())), axis=0, return_inverse=True)
  members: list[dict[Any, list[int]]] = [collections.defaultdict(list) for _ in unique]
  for k, of in zip(at, group.ravel().tolist(), strict=True):
    members[of][classes[k]].append(k)
  for same in members:
    yield from ((one, one, 0) for one in same.values() if len(one) > 1)
    yield from ((one, other, 0) for one, other in itertools.combinations(same.values(), 2))
  pairs, distances = near_duplicates.pairs_within(unique, NEAR_BITS)
  for k in np.argsort(distances, kind="stable").tolist():
    one, other = pairs[k].tolist()
    for first, second in itertools.product(members[one].values(), members[other].values()):
      yield first, second, int(distances[k])


def _place(splits: dict[str, Dataset], split: str, row: int) -> dict[str, Any]:
  dataset = splits[split]
  name = dataset.class_names[dataset.labels[row]]
  return {"image": dataset.ids[row], "split": split, "row": row, "class": name}


def problems(findings: dict[str, Any]) -> list[str]:
  """What a person should know before training, a line each; none where all is well."""
  lines = []
  bad = findings["unreadable"]
  if bad["count"]:
    first = bad["images"][0]["image"]
    lines.append(f"{bad['count']:,} images cannot be read, such as {first}: fetch them again")
  for split, counts in findings["splits"].items():
    if counts["partial"]:
      lines.append(
        f"{split}: listed images are missing, or the counts are not the published ones; "
        "figures are not comparable with published"
      )
    if split == "train" and counts["num_small_classes"]:
      lines.append(
        f"{counts['num_small_classes']:,} training classes have fewer than "
        f"data.images_per_class={findings['images_per_class']} images: theirs repeat in a batch"
      )
    if split != "train" and counts["per_class"].get("min", 2) < 2:
      lines.append(f"{split}: classes with one image: it has nothing to be found by")
  below = findings["sizes"]["below_image_size"]
  if below:
    lines.append(
      f"{below:,} images are smaller than data.image_size={findings['image_size']}: enlarged"
    )
  near = findings["near_duplicates"]
  for name, what in (
    ("across_splits", "have a near duplicate in another split: a leak"),
    ("across_classes", "have a near duplicate in another class of their split"),
    ("within_class", "have a near duplicate in their own class: easy to retrieve"),
  ):
    if near[name]["images"]:
      lines.append(f"{near[name]['images']:,} images {what}")
  return lines
