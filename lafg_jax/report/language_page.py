"""`<workdir>/language.html`: the language base as a page to search and look at, in one file.

`content` collects what is shown, `document` makes the page of it; the page itself is in page/.
"""

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import datasets, readers
from lafg_jax.evaluate import knn
from lafg_jax.language import descriptions, prototypes, statistics
from lafg_jax.language.describers import describe
from lafg_jax.language.descriptions import Record
from lafg_jax.language.encoders import texts
from lafg_jax.language.vocabulary import nearest_centres
from lafg_jax.utils.counted import counted
from lafg_jax.utils.files import read_npz, replacing
from lafg_jax.utils.vectors import unit_or_zero

FILE = "language.html"
INPUTS = ("descriptions.jsonl", "text_features.npz", "prototypes.npz", prototypes.STATS)
TEMPLATE = Path(__file__).parent / "page"
NUM_NEAREST = 8
# Of prototypes.npz and of text_features.npz.
_ARRAYS = "class_names vocabulary prototypes topk_indices topk_weights nearest_sentences encoder"
_FEATURES = "class_names described class_described sentences sentence_described sentence_features"


def run(config: ConfigDict, workdir: str | os.PathLike) -> Path:
  """Writes the page of the training classes from the files `INPUTS` of the workdir.

  Raises:
    UserError: a file is missing or damaged, or is of other classes.
  """
  arrays = read_npz(Path(workdir, "prototypes.npz"), _ARRAYS.split(), stage="prototypes")
  features = read_npz(Path(workdir, "text_features.npz"), _FEATURES.split(), stage="encode")
  stats = json.loads(Path(workdir, prototypes.STATS).read_text(encoding="utf-8"))
  records = descriptions.read(workdir, [str(name) for name in features["described"]])
  return _write(workdir, content(config.data.name, arrays, stats, features, records, {}, False))


def run_all(config: ConfigDict, workdir: str | os.PathLike) -> Path:
  """Writes the page of every described class, seen in training or not, and no other file.

  The page says which classes are trained on if the config says where the data set is
  (`readers.source`). No image is read: where language.query is 'image', a class's query is its name
  instead, and the page says so.

  Raises:
    UserError: a file or setting is missing or malformed.
  """
  data, language, note = config.data, config.language, ""
  if language.query == "image":
    language = language.copy_and_resolve_references()
    language.query = "name"
    note = "No image was read for it: a class's query is its name, not language.query=image."
  splits = datasets.class_splits(data) if readers.source(data) else {}
  split_of = {name: split for split, names in splits.items() for name in names}
  records = describe.everything(language, data.name)
  names = list(dict.fromkeys(record["class"] for record in records))
  features = texts.compute(language, records, names)
  arrays, stats = prototypes.compute(language, features, np.arange(len(names)))
  page = content(data.name, arrays, stats, features, records, split_of, True)
  return _write(workdir, page | {"note": note})


def _write(workdir: str | os.PathLike, page: dict[str, Any]) -> Path:
  path, text = Path(workdir, FILE), document(page)
  with replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8")
  counts = (counted(len(page["classes"]), "class"), counted(len(page["attributes"]), "attribute"))
  logging.info("inspect: %s, %s and %s, %.1f MB", path, *counts, len(text) / 1e6)
  return path


def content(
  name: str,
  arrays: Mapping[str, np.ndarray],
  stats: dict[str, Any],
  features: Mapping[str, np.ndarray],
  records: Sequence[Record],
  split_of: Mapping[str, str],
  covers_all: bool,
) -> dict[str, Any]:
  """What the page shows, as JSON; classes and attributes refer to each other by position.

  Args:
    name: of the data set.
    arrays: those of prototypes.npz; C classes, N attributes.
    stats: `statistics.compute`.
    features, records: those of text_features.npz, and descriptions, of these classes in any order.
    split_of: class -> 'train', 'val' or 'test'; classes that it lacks show no split.
    covers_all: the page is of more than the training classes.

  Returns:
    {name, encoder, covers_all, note (what else the warning says), stats, figures (in words),
    sources, variance, words: [{name, descriptions, own (for each of these the attribute it is
    nearest to, or -1 where it was split)}] of each described name, classes: [{name, split, words
    (position there: its own, or its super-class's), attributes: [[n, weight]], nearest: [[c, cosine
    of centred prototypes, [n of each attribute in both Top-Ks]]], at: [x, y]}], attributes:
    [{sentences, size (sentences nearest to it), at}]}.
  """
  names = [str(c) for c in arrays["class_names"]]
  labels = nearest_centres(features["sentence_features"], arrays["vocabulary"])[0]
  described = dict(zip(map(str, features["class_names"]), features["class_described"], strict=True))
  attention = [
    [[n, round(w, 4)] for n, w in zip(*row, strict=True)]
    for row in zip(arrays["topk_indices"].tolist(), arrays["topk_weights"].tolist(), strict=True)
  ]
  near = _nearest_and_shared(arrays["prototypes"], attention)
  class_at, attribute_at, variance = plane(arrays["prototypes"], arrays["vocabulary"])
  classes = [
    {"name": c, "split": split_of.get(c, ""), "words": int(described[c])}
    | {"attributes": attention[i], "nearest": near[i], "at": class_at[i].round(4).tolist()}
    for i, c in enumerate(names)
  ]
  sizes = np.bincount(labels, minlength=len(attribute_at)).tolist()
  attributes = [
    {"sentences": [str(text) for text in row if text], "size": size, "at": at.round(4).tolist()}
    for row, size, at in zip(arrays["nearest_sentences"], sizes, attribute_at, strict=True)
  ]
  sources = sorted({record["source"] for record in records})
  about = {"name": name, "encoder": str(arrays["encoder"]), "covers_all": covers_all, "note": ""}
  about |= {"stats": stats, "figures": statistics.rows(stats), "variance": variance}
  about |= {"sources": sources, "words": _words(features, records, labels)}
  return about | {"classes": classes, "attributes": attributes}


def _words(
  features: Mapping[str, np.ndarray], records: Sequence[Record], labels: np.ndarray
) -> list[dict[str, Any]]:
  """[{name, descriptions, own}] of each described name, `labels` the attribute of each sentence."""
  described = [str(name) for name in features["described"]]
  said: dict[str, list[str]] = {name: [] for name in described}
  for record in records:
    said[record["class"]].append(record["description"])
  keys = zip(features["sentence_described"].tolist(), map(str, features["sentences"]), strict=True)
  own = dict(zip(keys, labels.tolist(), strict=True))
  return [
    {"name": name, "descriptions": said[name], "own": [own.get((k, x), -1) for x in said[name]]}
    for k, name in enumerate(described)
  ]


def _nearest_and_shared(vectors: np.ndarray, attention: list[list[list[Any]]]) -> list[list[Any]]:
  """For each class [[other class, cosine, shared attributes]], nearest first. The attributes to
  which both attend most come first."""
  weights = [{n: weight for n, weight in row} for row in attention]
  indices, cosines = nearest(vectors, NUM_NEAREST)
  found: list[list[Any]] = [[] for _ in weights]
  for (a, rank), b in np.ndenumerate(indices):
    both = sorted((-min(w, weights[b][n]), n) for n, w in weights[a].items() if n in weights[b])
    found[a].append([int(b), round(float(cosines[a, rank]), 4), [n for _, n in both]])
  return found


def nearest(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """The nearest other rows of `vectors` [C, d] by the cosine of centred rows.

  Returns:
    (indices [C, k], cosines [C, k] float32), k = min(count, C - 1), nearest first. A row that is
    the mean itself has cosine 0 with every other.
  """
  # What is no longer than rounding errors is the mean itself.
  centred = unit_or_zero(vectors - vectors.mean(axis=0, dtype=np.float64), 1e-6)
  count = min(count, len(vectors) - 1)
  cosines, indices = knn.search(centred, centred, max(count, 1), exclude_self=True)
  return indices[:, :count], cosines[:, :count]


def plane(
  vectors: np.ndarray, vocabulary: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, list[float]]]:
  """The plane in which the prototypes differ most (PCA), and the attributes seen in it.

  Args:
    vectors: [C, d] prototypes; centred here, as training centres them.
    vocabulary: [N, d] attributes, centred on their own mean.

  Returns:
    ([C, 2], [N, 2], {'prototypes' and 'attributes': the shares of their variance along the two
    axes}).
  """
  kinds = [x - x.mean(axis=0, dtype=np.float64) for x in (vectors, vocabulary)]
  axes = np.zeros((kinds[0].shape[1], 2))
  found = np.linalg.eigh(kinds[0].T @ kinds[0])[1][:, ::-1][:, :2]
  # An eigenvector's sign is arbitrary: the same input gives the same picture.
  largest = np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0)
  axes[:, : found.shape[1]] = found * np.where(largest < 0, -1, 1)
  points = [x @ axes for x in kinds]
  shares = [
    (np.sum(at**2, axis=0) / max(np.sum(x**2), 1e-12)).round(4).tolist()
    for x, at in zip(kinds, points, strict=True)
  ]
  return points[0], points[1], {"prototypes": shares[0], "attributes": shares[1]}


def document(page: dict[str, Any]) -> str:
  """The HTML of `content`, one file that asks for nothing else."""
  style, script, frame = (
    "\n".join((TEMPLATE / name).read_text(encoding="utf-8") for name in files)
    for files in (("page.css",), ("page.js", "map.js", "start.js"), ("page.html",))
  )
  data = json.dumps(page, separators=(",", ":"), allow_nan=False)
  # No byte of the data can end its element or begin another one.
  data = data.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"})
  allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  title = html.escape(f"Language base: {page['name']}")
  parts = {"TITLE": title, "STYLE": style, "SCRIPT": script, "ALLOWED": f"sha256-{allowed}"}
  # The data last: a description may hold the mark of another part.
  for key, value in (parts | {"DATA": data}).items():
    frame = frame.replace(f"{{{{{key}}}}}", value)
  return frame
