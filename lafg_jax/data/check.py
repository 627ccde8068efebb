"""Checks a data set: decodes every image once and finds what would harm a run.

The findings are plain values for JSON; `report.data_page` shows them.
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

from lafg_jax.data import datasets, decoders, images, matches, near_duplicates, readers
from lafg_jax.data.datasets import Dataset
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.progress import Progress

# Near duplicates differ in at most so many bits of 256. Of 6,094 photographs of cars, all pairs
# up to 40 bits were copies of another size or quality; different photographs began at 46.
NEAR_BITS = 24
# An image with no brighter value, of 255, is hardly more than black to a model.
BLACK = 31
# Longer images lose a third or more to the square in their middle.
ELONGATED = 1.5
# At most so many pairs or names of a kind are listed; all are counted.
LISTED = 200


class Look(NamedTuple):
  """What one image is."""

  split: str
  row: int
  image: str  # its name in Dataset.ids
  label: int
  class_name: str
  width: int = 0  # upright, and cut to its box
  height: int = 0
  kind: str = ""  # file format and colour mode, such as 'JPEG RGB'
  hash: Any = None  # `near_duplicates.phash`; None where it cannot be read
  error: str = ""
  black: bool = False  # no value above `BLACK`


def run(data: Any) -> tuple[dict[str, Any], dict[str, Dataset]]:
  """Reads every image of all splits; returns the findings and the datasets by split.

  Args:
    data: the section `config.data`; reads what the reader of data.name does, images_per_class,
      image_size and num_workers (threads; 0 takes one a core).

  Raises:
    UserError: the data set cannot be loaded at all.
  """
  splits = datasets.load_splits(data)
  rows = [(dataset, row) for dataset in splits.values() for row in range(len(dataset))]
  looks = []
  with (
    concurrent.futures.ThreadPoolExecutor(data.num_workers or os.cpu_count()) as pool,
    Progress("data", len(rows), "images") as progress,
  ):
    for look in pool.map(functools.partial(_look, decoders.opener(scaled=True)), rows):
      looks.append(look)
      progress.add(1)
  read = {split: np.ones(len(dataset), bool) for split, dataset in splits.items()}
  for look in looks:
    read[look.split][look.row] = not look.error
  findings = {
    "dataset": data.name,
    "source": readers.source(data),
    "root": data.root,
    "images_per_class": data.images_per_class,
    "image_size": data.image_size,
    "splits": {
      split: _counts(dataset, data) | _searched(dataset, read[split])
      for split, dataset in splits.items()
    },
    "left_out": list(dict.fromkeys(x for dataset in splits.values() for x in dataset.left_out)),
    "kinds": dict(collections.Counter(look.kind for look in looks if not look.error)),
    "unreadable": _unreadable([look for look in looks if look.error]),
    "black": _black([look for look in looks if look.black]),
    "sizes": _sizes([look for look in looks if not look.error], data),
    "near_duplicates": _near_duplicates([look for look in looks if not look.error]),
  }
  return findings | {"problems": problems(findings), "remarks": remarks(findings)}, splits


def _look(open_: Any, at: tuple[Dataset, int]) -> Look:
  dataset, row = at
  label = int(dataset.labels[row])
  look = Look(dataset.split, row, dataset.ids[row], label, dataset.class_names[label])
  try:
    source = images.source_of_dataset(dataset, row, open_)
    width, height = images.size_of(source)
    # A reduced image shows damage too: it is computed from all of the file.
    img, _ = images.reduced(source, (0, 0, width, height), near_duplicates.PIXELS)
    look = look._replace(width=width, height=height, kind=_kind(dataset.images[row]))
    black = bool(np.asarray(img).max() <= BLACK)
    return look._replace(hash=near_duplicates.phash(img), black=black)
  except images.UnreadableImage as error:
    return look._replace(error=str(error))


def _kind(image: Any) -> str:
  if isinstance(image, np.ndarray):
    return "array RGB"
  try:
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else str(image)) as header:
      return f"{header.format} {header.mode}"
  except images.DECODER_ERRORS:
    return "read without its damaged metadata"


def _summary(values: Iterable[float]) -> dict[str, float]:
  array = np.array(list(values), float)
  named = (("min", np.min), ("median", np.median), ("max", np.max))
  return {name: float(of(array)) for name, of in named if len(array)}


def _counts(dataset: Dataset, data: Any) -> dict[str, Any]:
  counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
  few = np.flatnonzero(counts < data.images_per_class)
  return {
    "images": len(dataset),
    "classes": len(dataset.class_names),
    "class_names": list(dataset.class_names),
    "per_class": _summary(counts),
    "histogram": _histogram(counts),
    "small_classes": {dataset.class_names[k]: int(counts[k]) for k in few[:LISTED]},
    "num_small_classes": len(few),
    "queries": None if dataset.is_query is None else int(np.sum(dataset.is_query)),
    "partial": dataset.partial,
  }


def _searched(dataset: Dataset, readable: np.ndarray) -> dict[str, Any]:
  """What the images that can be read are to an evaluation; nothing of the training images."""
  if dataset.split == "train":
    return {}
  found = matches.of(dataset, readable)
  problem = ""
  if len(dataset):
    problem = matches.nothing_to_measure(dataset, found, int((~readable).sum()))
  if found.all_match:
    problem = f"{matches.split_of(dataset)} has one class to find: every figure is 100 by chance"
  return {
    "without_match": found.without_match,
    "alone": list(found.alone[:LISTED]),
    "gallery": found.gallery,
    "not_measurable": problem,
  }


def _histogram(values: Sequence[int] | np.ndarray, bars: int = 24) -> dict[str, Any]:
  """Counts of whole numbers: bar k counts those from first + k step to first + (k + 1) step - 1."""
  if not len(values):
    return {"counts": [], "first": 0, "step": 1}
  first = int(np.min(values))
  # A whole number, so that all bars count equally many numbers.
  step = -(-(int(np.max(values)) - first + 1) // bars)
  counts = np.bincount((np.asarray(values) - first) // step)
  return {"counts": counts.tolist(), "first": first, "step": step}


def _unreadable(looks: list[Look]) -> dict[str, Any]:
  listed = [
    {"image": look.image, "split": look.split, "why": look.error} for look in looks[:LISTED]
  ]
  return {"count": len(looks), "images": listed}


def _black(looks: list[Look]) -> dict[str, Any]:
  return {"count": len(looks), "images": [look.image for look in looks[:LISTED]]}


def _sizes(looks: list[Look], data: Any) -> dict[str, Any]:
  shorter = [min(look.width, look.height) for look in looks]
  smallest = sorted(looks, key=lambda look: min(look.width, look.height))[:5]
  return {
    "width": _summary(look.width for look in looks),
    "height": _summary(look.height for look in looks),
    "aspect": _summary(look.width / look.height for look in looks),
    "shorter_side": _histogram(shorter),
    "below_image_size": int(np.sum(np.array(shorter) < data.image_size)),
    "elongated": sum(max(x.width, x.height) > ELONGATED * min(x.width, x.height) for x in looks),
    "smallest": [
      {"image": look.image, "width": look.width, "height": look.height} for look in smallest
    ],
  }


def _near_duplicates(looks: list[Look]) -> dict[str, Any]:
  """Images that look like another one: across splits, across classes, and within a class.

  All are counted. One pair is listed for all images of a class that have the same hash.
  """
  names = ("across_splits", "across_classes", "within_class")
  involved: dict[str, set[tuple[str, int]]] = {name: set() for name in names}
  listed: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
  for one, other, distance in _alike(looks):
    first, second = one[0], other[-1]
    within = first.label == second.label
    name = names[0] if first.split != second.split else names[1 + within]
    involved[name].update((look.split, look.row) for look in (*one, *other))
    if len(listed[name]) < LISTED:
      listed[name].append({"bits": distance, "images": [_place(first), _place(second)]})
  return {"within_bits": NEAR_BITS, "of_bits": near_duplicates.BITS} | {
    name: {"images": len(involved[name]), "pairs": listed[name]} for name in names
  }


def _alike(looks: list[Look]) -> Iterator[tuple[list[Look], list[Look], int]]:
  """Two lists of images, each of one class and one hash, that are alike; nearest first.

  Lists, since a thousand grey squares would be half a million pairs of images.
  """
  if not looks:
    return
  hashes = np.stack([look.hash for look in looks])
  unique, group = np.unique(hashes, axis=0, return_inverse=True)
  members: list[dict[Any, list[Look]]] = [collections.defaultdict(list) for _ in unique]
  for look, of in zip(looks, group.ravel().tolist(), strict=True):
    members[of][look.split, look.label].append(look)
  for same in members:
    yield from ((one, one, 0) for one in same.values() if len(one) > 1)
    yield from ((one, other, 0) for one, other in itertools.combinations(same.values(), 2))
  pairs, distances = near_duplicates.pairs_within(unique, NEAR_BITS)
  for k in np.argsort(distances, kind="stable").tolist():
    one, other = pairs[k].tolist()
    for first, second in itertools.product(members[one].values(), members[other].values()):
      yield first, second, int(distances[k])


def _place(look: Look) -> dict[str, Any]:
  return {"image": look.image, "split": look.split, "row": look.row, "class": look.class_name}


def problems(findings: dict[str, Any]) -> list[str]:
  """What makes figures wrong, or stops a run: one line for each."""
  lines = []
  bad = findings["unreadable"]
  if bad["count"]:
    first, them = bad["images"][0]["image"], "it" if bad["count"] == 1 else "them"
    lines.append(
      f"{counted(bad['count'], 'image')} cannot be read, such as {first}: fetch {them} again"
    )
  if black := findings["black"]["count"]:
    first, are = findings["black"]["images"][0], "is" if black == 1 else "are"
    lines.append(
      f"{counted(black, 'image')} {are} black or nearly (no value above {BLACK} of 255), such as "
      f"{first}: look at {'it' if black == 1 else 'them'}"
    )
  for split, counts in findings["splits"].items():
    if counts["partial"]:
      lines.append(
        f"{split}: listed images are missing, or the counts are not the published ones; "
        "figures are not comparable with published"
      )
    if counts.get("not_measurable"):
      lines.append(f"nothing can be measured: {counts['not_measurable']}")
  near = findings["near_duplicates"]
  for name, what in (
    ("across_splits", "with a near duplicate in another split: a leak"),
    ("across_classes", "with a near duplicate in another class of its split"),
  ):
    if near[name]["images"]:
      lines.append(f"{counted(near[name]['images'], 'image')} {what}")
  return lines


def remarks(findings: dict[str, Any]) -> list[str]:
  """What is good to know and does no harm, one line for each."""
  lines = list(findings["left_out"])
  for split, counts in findings["splits"].items():
    if split == "train" and counts["num_small_classes"]:
      classes = counted(counts["num_small_classes"], "training class")
      lines.append(
        f"{classes} with fewer than data.images_per_class={findings['images_per_class']} images: "
        "they repeat in a batch"
      )
    if split == "test" and not counts["images"]:
      lines.append("test: no image, so nothing is evaluated")
    if counts.get("without_match") and not counts["not_measurable"]:
      lines.append(
        f"{split}: {counted(counts['without_match'], 'image')} without another one of the class to "
        f"be found by, left out of the queries (classes {shorten(counts['alone'])})"
      )
  below = findings["sizes"]["below_image_size"]
  if below:
    lines.append(
      f"{counted(below, 'image')} smaller than data.image_size={findings['image_size']}: enlarged"
    )
  if long := findings["sizes"]["elongated"]:
    lines.append(
      f"{counted(long, 'image')} more than {ELONGATED} times as long as wide or high: the model is "
      "shown the square in the middle, and both ends are cut off"
    )
  within = findings["near_duplicates"]["within_class"]["images"]
  if within:
    lines.append(
      f"{counted(within, 'image')} with a near duplicate in its own class: easy to retrieve"
    )
  return lines
