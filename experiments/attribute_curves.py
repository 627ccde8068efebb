"""Deletion and insertion curves of the heat of attributes: docs/guide/explain.md has the tables.

  python experiments/attribute_curves.py --model=runs/demo
  python experiments/attribute_curves.py --model=runs/cub --images=FOLDER
  python experiments/attribute_curves.py --model=runs/small_clip/run --table=metadata.csv \\
      --columns=colour,type --before=runs/small_clip/start

As `faithfulness.py curves`, of the score of one attribute in place of a pair's cosine. Of a model
with a vocabulary it is the best attribute named of the image that a place decides, whose heat is
shown, or the best of all where none is; images are those of --images, or birds of unseen classes.
Of a model that reads texts it is what the columns of --table say of the image ("navy blue shirts").

Beside the baselines that know nothing of the model stand heat of another attribute, drawn at
random, and heat of the same attribute by the model before training: its pretrained backbone (or
random weights) with a random projector, or the CLIP of --before. Areas and differences have 95 %
intervals, by the bootstrap over images, paired. The first rows are of images whose heat is shown
('shown'), the others of all.
"""

import collections
import csv
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import faithfulness as measures
import numpy as np
from absl import app, flags

import lafg_jax
from lafg_jax.config import shipped
from lafg_jax.explain import occlusion
from lafg_jax.finches import classes
from lafg_jax.inference import bundle
from lafg_jax.inference.retriever import of
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import attributes, default
from lafg_jax.utils import random_streams

_TABLE = flags.DEFINE_string("table", "", "A CSV with a column path: what is in photographs.")
_COLUMNS = flags.DEFINE_list("columns", ["colour", "type"], "Of --table: those that make a text.")
_BEFORE = flags.DEFINE_string("before", "", "Of --table: the CLIP before training, its folder.")
_NUMBER = flags.DEFINE_integer("number", 60, "How many images.")


class Asked(NamedTuple):
  """images; named: image, its scores [N] -> rows that are true or named, best first; scores:
  vectors -> [n, N]; directions [N, D]; before: picture -> row -> heat, or None."""

  images: list
  named: Callable[[int, np.ndarray], list[int]]
  scores: Callable[[np.ndarray], np.ndarray]
  directions: np.ndarray
  before: Callable[[np.ndarray], Callable[[int], np.ndarray]] | None


def of_vocabulary(retriever: lafg_jax.Retriever) -> Asked:
  """The attributes that the model names of images of --images, or of birds of unseen classes."""
  images: list[Any] = [classes.image(finch.name, j) for finch, j in measures.birds(_NUMBER.value)]
  if flags.FLAGS.images:
    images = _spread(lafg_jax.list_images(flags.FLAGS.images))
  found = retriever.readout

  def named(image: int, scores: np.ndarray) -> list[int]:
    del image
    return [int(row) for row in np.argsort(-scores) if scores[row] > retriever.floors[row]]

  # A run of an earlier version lacks keys that came since.
  config = default.get_config()
  with config.unlocked():
    config.update(retriever.config)
  _, params = embedders.init_model(config)
  facts = {"step": 0, "checkpoint": "newest", "class_names": [], "sentences": []}
  before = of(bundle.Trained(config, params, {}, {}, facts))
  random = random_streams.of_seed(0).standard_normal(found["image"].shape)
  untrained = functools.partial(attributes.scores, found=found | {"image": random})
  return Asked(
    images,
    named,
    functools.partial(attributes.scores, found=found),
    (found["image"] @ found["entries"].T).T,
    _heat_of(before, untrained),
  )


def of_texts(retriever: lafg_jax.Retriever) -> Asked:
  """What the columns of a table say of photographs, drawn evenly from its rows."""
  with open(_TABLE.value, newline="", encoding="utf-8") as file:
    rows = _spread(list(csv.DictReader(file)))
  said = [" ".join(row[name].lower() for name in _COLUMNS.value) for row in rows]
  texts = sorted(set(said))
  vectors = retriever.embed_text(texts)
  before = None
  if _BEFORE.value:
    config = shipped.get_config("configs/image_text/finches.py")
    config.model.pretrained, config.prompts.method = _BEFORE.value, "zero_shot"
    config.data.update(retriever.config.data)
    clip = lafg_jax.load_retriever(config)
    old = clip.embed_text(texts)
    before = _heat_of(clip, lambda x: x @ old.T)
  return Asked(
    [os.path.join(os.path.dirname(_TABLE.value), row["path"]) for row in rows],
    lambda image, scores: [texts.index(said[image])],
    lambda x: x @ vectors.T,
    vectors,
    before,
  )


def _heat_of(retriever: Any, scores: Callable[[np.ndarray], np.ndarray]) -> Any:
  def heat_of(picture: np.ndarray) -> Callable[[int], np.ndarray]:
    return measures.maps_of(retriever, picture, retriever.see_batch(picture[None]), scores)

  return heat_of


def _spread(given: list) -> list:
  count = min(_NUMBER.value, len(given))
  return [given[k] for k in np.linspace(0, len(given) - 1, count, dtype=int)]


def curves(retriever: lafg_jax.Retriever, asked: Asked) -> list[tuple]:
  """Rows of `faithfulness.beside_baselines`, of images with shown heat and of all."""
  areas: dict[str, Any] = {which: collections.defaultdict(list) for which in ("shown", "all")}
  more = ["occlusion of another", *(["occlusion, untrained"] if asked.before else [])]
  grid = (occlusion.PLACES, occlusion.PLACES)
  for number, image in enumerate(asked.images):
    picture = retriever.crops([image])[0]
    seen = retriever.see_batch(picture[None])
    found = asked.scores(seen.embedding)[0]
    named = asked.named(number, found)
    if not named:
      continue
    heat_of = measures.maps_of(retriever, picture, seen, asked.scores)
    shown = [row for row in named if occlusion.decides(heat_of(row), found[row])]
    row = (shown or named)[0]
    others = [other for other in range(len(found)) if other not in named]
    maps = measures.without_occlusion(picture, seen, asked.directions[row], grid, number)
    other = others[int(random_streams.of_seed(number).integers(len(others)))]
    maps |= {"occlusion": heat_of(row), "occlusion of another": heat_of(other)}
    if asked.before:
      maps["occlusion, untrained"] = asked.before(picture)(row)
    one = measures.areas_of(
      picture, maps, lambda x, row=row: asked.scores(retriever.embed_batch(x))[:, row]
    )
    for which in ("shown", "all") if shown else ("all",):
      for key, value in one.items():
        areas[which][key].append(value)
  return [(which, *row) for which, x in areas.items() for row in measures.beside_baselines(x, more)]


def main(unused: list[str]) -> None:
  del unused
  retriever = measures.model()
  asked = of_texts(retriever) if _TABLE.value else of_vocabulary(retriever)
  for row in curves(retriever, asked):
    print("| " + " | ".join(x if isinstance(x, str) else f"{x:.3f}" for x in row) + " |")


if __name__ == "__main__":
  measures.define_flags()
  app.run(main)
