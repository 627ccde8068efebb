"""The report stage: what is read of an evaluation, and which of it is shown."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax.data import datasets, decoders, images, vectors
from lafg_jax.evaluate import intervals, metrics, results
from lafg_jax.report import comparison, curves, frame, pictures, run_page, thumbnails
from lafg_jax.report.comparison import Change, Other
from lafg_jax.report.run_page import Neighbour, Page, Query
from lafg_jax.tasks.class_retrieval import confusions, projection, queries, shown_attributes
from lafg_jax.tasks.class_retrieval.queries import CURVE_KS, Evaluated, Scored
from lafg_jax.tasks.class_retrieval.shown_attributes import Read
from lafg_jax.training import metrics_log
from lafg_jax.utils import files
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

# Of a data set without files of its own: so many classes, and images of each, as files.
EXAMPLES, NUM_CLASSES, NUM_IMAGES = "examples", 4, 3
NUM_QUERIES, NUM_EXTREMES, GRID_TILE = 8, 5, 96
# Images on the map, evenly spaced where there are more.
MOST_ON_MAP = 10_000
_CURVES = {
  "loss": ("Loss", "loss, nats"),
  "l_aux": ("L_aux, the contrastive loss", "L_aux, nats"),
  "l_ali": ("L_ali, the alignment with class targets", "L_ali, nats"),
  "l_img": ("L_img, the alignment with teacher features", "L_img, nats"),
  "image_entropy": ("Entropy of the image side", "entropy, part of the largest"),
  "image_spread": ("Spread of the image side", "spread"),
  "learning_rate": ("Learning rate", "learning rate"),
  "images_per_second": ("Speed", "images per second"),
  "val_recall@1": ("R@1 of the validation classes", "R@1, fraction"),
  "val_map@r": ("MAP@R of the validation classes", "MAP@R, fraction"),
}


def run(config: ConfigDict, workdir: str) -> None:
  """Writes `retrieval.png` and `report.html` from what the other stages left in the workdir.

  Of a data set that is drawn, it also writes a few of the evaluated images, examples/CLASS/*.png:
  files to try the model on. Of one that holds features there is no picture, and the page says so.

  Raises:
    UserError: there is no evaluation yet, or it is of something else than the config says, or a run
      to compare with has none, or one of other data.
  """
  result = results.read_result(workdir)
  check(config, workdir, result)
  split = config.evaluate.split
  dataset = datasets.load_splits(config.data, splits=(split,))[split]
  evaluated = queries.read(workdir, dataset)
  others = comparison.read(config.evaluate.compare, result)
  if dataset.drawn:
    _write_examples(dataset, workdir)
  scored = queries.score(evaluated)
  if not vectors.held(dataset):
    picture = _picture(evaluated, scored)
    with files.replacing(os.path.join(workdir, run_page.PICTURE)) as temporary:
      temporary.write_bytes(pictures.encoded(picture, "PNG"))
  page = _page(config, workdir, result, evaluated, scored, others)
  changes = [_changes(evaluated, scored, one) for one in others]
  compared = comparison.section(result, others, changes)
  training = curves.section(page.training)
  frame.write(workdir, run_page.document(page, compared, training))


def inputs(config: ConfigDict, workdir: str) -> list[Any]:
  """What the page depends on, for `stages.Stage`."""
  names = ("evaluation.json", "embeddings.npz", "metrics.jsonl", "prototypes.npz")
  deciding = [config.data.name, config.data.root, config.evaluate]
  read = [Path(workdir, name) for name in names]
  return [deciding, read, *comparison.inputs(config.evaluate.compare)]


def check(config: ConfigDict, workdir: str, result: dict[str, Any]) -> None:
  """Raises UserError where an evaluation is of something else than the config says."""
  now = {"dataset": config.data.name, **{k: config.evaluate[k] for k in ("split", "source")}}
  changed = [f"{k}: {result.get(k)} -> {v}" for k, v in now.items() if result.get(k) != v]
  if changed:
    what = f"{os.path.join(workdir, results.FILE)} is of another evaluation ({'; '.join(changed)})"
    hint = "run --stage=evaluate first, with evaluate.source=checkpoint or pretrained"
    raise UserError(f"{what}: {hint}")


def _write_examples(dataset: datasets.Dataset, workdir: str) -> None:
  for label in np.linspace(0, len(dataset.class_names) - 1, NUM_CLASSES).astype(int):
    for row in np.flatnonzero(dataset.labels == label)[:NUM_IMAGES]:
      name = dataset.ids[row].removeprefix(f"{dataset.name}/")
      content = pictures.encoded(images.of_dataset(dataset, int(row)), "PNG")
      with files.replacing(os.path.join(workdir, EXAMPLES, f"{name}.png")) as temporary:
        temporary.write_bytes(content)


def spaced(count: int, most: int) -> np.ndarray:
  """Evenly spaced, not picked: failures are shown as often as they are."""
  return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


def _picture(evaluated: Evaluated, scored: Scored) -> Image.Image:
  chosen = spaced(len(evaluated.queries), NUM_QUERIES)
  rows = [[int(evaluated.queries[q]), *scored.found[q].tolist()] for q in chosen]
  tile = functools.partial(pictures.tile, evaluated.dataset, side=GRID_TILE)
  return pictures.retrieval_grid(
    rows, evaluated.labels, lambda row: tile(row=evaluated.rows[row]), GRID_TILE
  )


def _page(
  config: ConfigDict,
  workdir: str,
  result: dict[str, Any],
  evaluated: Evaluated,
  scored: Scored,
  others: Sequence[Other],
) -> Page:
  dataset = evaluated.dataset
  reading, about_attributes = shown_attributes.read(config, workdir, result, evaluated.vectors)
  shown = functools.partial(_query, evaluated, scored, reading)
  worst, best = extremes(evaluated, scored)
  drawn, about_map = _map(workdir, evaluated, scored)

  def picture(row: int) -> np.ndarray:
    return pictures.tile(dataset, evaluated.rows[row], run_page.TILE)

  return Page(
    result=result,
    ids=evaluated.ids,
    labels=evaluated.labels.tolist(),
    class_names=dataset.class_names,
    intervals=_intervals(evaluated, scored),
    recalls=_recalls(result, evaluated, scored, others),
    spaced=[shown(q) for q in spaced(len(evaluated.queries), NUM_QUERIES)],
    best=[shown(q) for q in best],
    worst=[shown(q) for q in worst],
    classes=confusions.classes(evaluated, scored),
    pairs=confusions.pairs(evaluated, scored, reading),
    entries=shown_attributes.entries(reading),
    about_attributes=about_attributes,
    map=drawn,
    about_map=about_map,
    picture=picture,
    training=curves.charts(
      [("this run", workdir), *((one.name, one.workdir) for one in others)], _CURVES
    ),
  )


def _query(evaluated: Evaluated, scored: Scored, reading: Read | None, q: int) -> Query:
  row = int(evaluated.queries[q])
  right = evaluated.labels[scored.found[q]] == evaluated.labels[row]
  neighbours = []
  for other, similarity, is_right in zip(
    scored.found[q].tolist(), scored.similarity[q].tolist(), right.tolist(), strict=True
  ):
    why = shown_attributes.shared(reading, row, other) if reading else ()
    neighbours.append(Neighbour(other, similarity, is_right, why))
  rank = int(right.argmax()) + 1 if right.any() else 0
  return Query(row, rank, float(scored.precision[q]), tuple(neighbours))


def extremes(evaluated: Evaluated, scored: Scored) -> tuple[list[int], list[int]]:
  """(worst, best) queries by AP@R, at most one a class; of equal ones those that are surest."""
  labels, sure = evaluated.labels[evaluated.queries], scored.similarity[:, 0]
  with_match = np.flatnonzero(scored.counts)

  def first(sign: int) -> list[int]:
    order = with_match[np.lexsort((-sure[with_match], sign * scored.precision[with_match]))]
    _, one = np.unique(labels[order], return_index=True)
    return order[np.sort(one)][:NUM_EXTREMES].tolist()

  return first(1), first(-1)


def _by_class(evaluated: Evaluated, scored: Scored, values: np.ndarray) -> tuple[Any, Any]:
  """(means, numbers) [C] of the values [Q] of queries that have a match."""
  owners = evaluated.labels[evaluated.queries][scored.counts]
  count = len(evaluated.dataset.class_names)
  numbers = np.bincount(owners, minlength=count)
  sums = np.bincount(owners, weights=values[scored.counts], minlength=count)
  return sums / np.maximum(numbers, 1), numbers


def _intervals(evaluated: Evaluated, scored: Scored) -> dict[str, intervals.Interval | None]:
  return {
    name: intervals.cluster_bootstrap(*_by_class(evaluated, scored, values), resamples=1000)
    for name, values in (("recall@1", scored.recall), ("map@r", scored.precision))
  }


def _recalls(
  result: dict[str, Any], evaluated: Evaluated, scored: Scored, others: Sequence[Other]
) -> dict[str, list[tuple[float, float]]]:
  """The curve of this run and of chance; before training and of others the measured K alone."""
  candidates = len(evaluated.gallery) - evaluated.excludes
  ks = [k for k in CURVE_KS if k <= candidates]
  numbers = np.bincount(evaluated.labels[evaluated.gallery], minlength=evaluated.labels.max() + 1)
  matches = numbers[evaluated.labels[evaluated.queries]] - evaluated.excludes
  chance = metrics.chance(matches, candidates, ks)
  found = {"this run": [(float(k), scored.by_k[f"recall@{k}"]) for k in ks]}
  measured = {"before training": result["untrained"]} if "untrained" in result else {}
  for name, of in (measured | {one.name: one.result for one in others}).items():
    points = [(float(x.partition("@")[2]), of[x]) for x in of if x.startswith("recall@")]
    found[name] = sorted(points)
  return found | {"chance": [(float(k), chance[f"recall@{k}"]) for k in ks]}


def _changes(evaluated: Evaluated, scored: Scored, other: Other) -> list[Change]:
  """What changed class by class from another run to this one."""
  there = queries.read(other.workdir, evaluated.dataset)
  if there.ids != evaluated.ids:
    raise UserError(f"--compare={other.workdir}: it was evaluated on other images of the data set")
  before, found = queries.score(there), []
  for metric, a, b in (
    ("recall@1", before.recall, scored.recall), ("map@r", before.precision, scored.precision),
  ):  # fmt: skip
    means, numbers = _by_class(evaluated, scored, b)
    earlier = _by_class(evaluated, scored, a)[0]
    interval = intervals.cluster_bootstrap(means - earlier, numbers, resamples=1000)
    names = evaluated.dataset.class_names
    by_class = {
      names[c]: (float(earlier[c]), float(means[c])) for c in np.flatnonzero(numbers).tolist()
    }
    found.append(Change(metric, by_class, interval))
  return found


def _map(workdir: str, evaluated: Evaluated, scored: Scored) -> tuple[dict[str, Any], str]:
  """What the script needs of the map, and how it was made; {} of fewer than three images."""
  dataset, rows = evaluated.dataset, spaced(len(evaluated.ids), MOST_ON_MAP)
  if len(rows) < 3:
    return {}, ""
  places, how = projection.plane(evaluated.vectors[rows])
  # -1: an image that is no query.
  right, other = np.full(len(evaluated.ids), -1), np.full(len(evaluated.ids), -1)
  other[evaluated.queries] = evaluated.labels[scored.found[:, 0]]
  is_right = other == evaluated.labels
  right[evaluated.queries] = is_right[evaluated.queries]

  def thumbnail(row: int) -> np.ndarray:
    return _thumbnail(dataset, evaluated.rows[row], thumbnails.SIDE)

  drawn = thumbnails.written(workdir, rows.tolist(), thumbnail)
  drawn |= {"x": places[:, 0].round(4).tolist(), "y": places[:, 1].round(4).tolist()}
  drawn |= {"label": evaluated.labels[rows].tolist(), "right": right[rows].tolist()}
  drawn |= {"nearest_label": other[rows].tolist(), "classes": list(dataset.class_names)}
  some = f"{len(rows):,} of {counted(len(evaluated.ids), 'image')}, evenly spaced. "
  about = (some if len(rows) < len(evaluated.ids) else "") + how
  return drawn | {"ids": [evaluated.ids[row] for row in rows]}, about


def _thumbnail(dataset: datasets.Dataset, row: int, side: int) -> np.ndarray:
  """A small picture; large JPEGs are decoded at a part of their size."""
  try:
    image = images.source_of_dataset(dataset, row, decoders.opener(scaled=True))
    return images.resize_centre_crop(image, resize=side, size=side)
  except images.UnreadableImage:
    return np.full((side, side, 3), 128, np.uint8)


def pictured(workdir: str) -> None:
  """Hands retrieval.png to TensorBoard and the tracker."""
  picture = Path(workdir, run_page.PICTURE).read_bytes()
  metrics_log.pictured(workdir, results.read_result(workdir), "retrieval", picture)
