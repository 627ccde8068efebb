"""Draws the picture of docs/guide/explain.md: pairs of images, why they match, and where.

  python experiments/pictures_explain.py --workdir=runs/demo --out=docs/images/explain.png

It takes a workdir that was trained with words and evaluated. The queries are evenly spaced over the
test images, not chosen. Each stands beside the nearest image of its class and the nearest one
of another, with the heat of an attribute that both show, and with attributes in words.
"""

import os
import textwrap

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw, ImageFont

import lafg_jax
from lafg_jax.data import datasets, images
from lafg_jax.evaluate import knn
from lafg_jax.explain import overlay

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Trained with words, and evaluated.")
_OUT = flags.DEFINE_string("out", "docs/images/explain.png", "PNG to write.")
_QUERIES = flags.DEFINE_integer("queries", 2, "How many queries; each gives two pairs.")
_SIDE, _GAP, _TOP, _LABEL, _WORDS, _MOST = 168, 12, 36, 40, 380, 4


def main(unused: list[str]) -> None:
  del unused
  retriever = lafg_jax.load_retriever(_WORKDIR.value)
  (dataset,) = datasets.load_splits(retriever.config.data, ("test",)).values()
  with np.load(os.path.join(_WORKDIR.value, "embeddings.npz"), allow_pickle=False) as npz:
    vectors = npz["vectors"]
  queries = ((np.arange(_QUERIES.value) + 0.5) * len(vectors) / _QUERIES.value).astype(int)
  _, found = knn.search(vectors[queries], vectors, 300)
  pairs = []
  for query, near in zip(queries, found, strict=True):
    for same in (True, False):
      alike = dataset.labels[near] == dataset.labels[query]
      pairs.append((query, near[(alike == same) & (near != query)][0]))
  sheet = _draw(retriever, dataset, pairs)
  sheet.quantize(128).save(_OUT.value, optimize=True)
  print(f"{_OUT.value}: {os.path.getsize(_OUT.value) / 1000:.0f} KB")


def _draw(retriever: lafg_jax.Retriever, dataset: datasets.Dataset, pairs: list) -> Image.Image:
  """One line a pair: both images, both with heat, and what is shared and what differs."""
  height = _SIDE + _LABEL + _GAP
  left_of_words = 4 * (_SIDE + _GAP) + _GAP
  sheet = Image.new("RGB", (left_of_words + _WORDS, _TOP + len(pairs) * height), "white")
  draw, small, bold = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(16)
  heads = ("An image", "Another", "Where they show it", "")
  for at, text in enumerate(heads):
    draw.text((at * (_SIDE + _GAP) + _GAP / 2, 8), text, "black", bold)
  draw.text((left_of_words, 8), "What they show", "black", bold)
  for line, pair in enumerate(pairs):
    top = _TOP + line * height
    shown = [images.of_dataset(dataset, int(row)).convert("RGB") for row in pair]
    crops = retriever.crops(shown)
    said = retriever.explain(*shown)
    heat = [
      Image.fromarray(_large(crop)) if found is None else overlay.over(_large(crop), found)
      for crop, found in zip(crops, said.heat, strict=True)
    ]
    for at, tile in enumerate([*map(Image.fromarray, map(_large, crops)), *heat]):
      sheet.paste(tile, (at * (_SIDE + _GAP) + _GAP // 2, top))
    for at, row in enumerate(pair):
      name = dataset.class_names[dataset.labels[row]]
      place = (at * (_SIDE + _GAP) + _GAP // 2, top + _SIDE + 3)
      draw.multiline_text(place, "\n".join(textwrap.wrap(name, 22)), "black", small)
    about = "\n".join(textwrap.wrap(said.shown or "no heat: nothing shared decides", 44))
    draw.multiline_text((2 * (_SIDE + _GAP) + _GAP // 2, top + _SIDE + 3), about, "black", small)
    text = "\n".join(_lines(said, pair, dataset))
    draw.multiline_text((left_of_words, top), text, "black", small, spacing=5)
  return sheet


def _large(crop: np.ndarray) -> np.ndarray:
  return np.asarray(Image.fromarray(crop).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def _lines(said, pair: tuple[int, int], dataset: datasets.Dataset) -> list[str]:
  same = dataset.labels[pair[0]] == dataset.labels[pair[1]]
  lines = [f"cosine {said.score:.2f}; {'the same class' if same else 'another class'}"]
  lists = (("both show", said.shared), ("the first alone", said.differ[0]))
  for head, entries in (*lists, ("the second alone", said.differ[1])):
    names = "; ".join(entry.name for entry in entries[:_MOST]) or "nothing above the floors"
    lines += textwrap.wrap(f"{head}: {names}", 52, subsequent_indent="   ")
  return lines


if __name__ == "__main__":
  app.run(main)
