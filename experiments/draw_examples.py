"""Draws README's picture: queries with class names, their nearest images, attributes in words.

  python experiments/draw_examples.py --workdir=runs/demo --out=docs/images/examples.png

It takes a workdir that was trained with words and evaluated. The queries are evenly spaced over the
test images, not chosen. Each is followed by its nearest images, with a green frame where the class
is the same and a red one where it is another, and by the attributes that are nearest to it: of each
the one description of a training class that is nearest to the attribute.
"""

import os
import textwrap

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw, ImageFont

import lafg_jax
from lafg_jax.data import datasets, images
from lafg_jax.evaluate import knn
from lafg_jax.report.pictures import QUERY, RIGHT, WRONG

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Trained with words, and evaluated.")
_OUT = flags.DEFINE_string("out", "docs/images/examples.png", "PNG to write.")
_QUERIES = flags.DEFINE_integer("queries", 4, "How many queries.")
_FOUND = flags.DEFINE_integer("found", 4, "How many images are found for each.")
_SIDE, _FRAME, _GAP, _TOP, _LABEL, _WORDS = 132, 5, 16, 40, 44, 420


def main(unused: list[str]) -> None:
  del unused
  retriever = lafg_jax.load_retriever(_WORKDIR.value)
  (dataset,) = datasets.load_splits(retriever.config.data, ("test",)).values()
  with np.load(os.path.join(_WORKDIR.value, "embeddings.npz"), allow_pickle=False) as npz:
    vectors = npz["vectors"]
  # The middle of equal parts, so that neither the first nor the last class is always among them.
  queries = (np.arange(_QUERIES.value) + 0.5) * len(vectors) // _QUERIES.value
  queries = queries.astype(int)
  # The image itself is the nearest to itself.
  _, found = knn.search(vectors[queries], vectors, _FOUND.value + 1)
  rows = [
    [query, *[row for row in near if row != query][: _FOUND.value]]
    for query, near in zip(queries, found, strict=True)
  ]
  attributes = retriever.attributes(vectors[queries], k=3)
  words = [[entry.sentences[0] for entry in entries] for entries in attributes]
  _draw(dataset, rows, words).quantize(96).save(_OUT.value, optimize=True)
  print(f"{_OUT.value}: {os.path.getsize(_OUT.value) / 1000:.0f} KB")


def _draw(dataset: datasets.Dataset, rows: list[list[int]], words: list[list[str]]) -> Image.Image:
  """One line a query: image and name, the images found with theirs, and sentences."""
  cell = _SIDE + _GAP
  left_of_words = (1 + _FOUND.value) * cell + 2 * _GAP
  size = (left_of_words + _WORDS, _TOP + len(rows) * (_SIDE + _LABEL + _GAP))
  sheet = Image.new("RGB", size, "white")
  draw, small, bold = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(16)
  said = "The attributes nearest to the query, in words"
  heads = (("Query", 0), ("Nearest images", cell + _GAP), (said, left_of_words))
  for text, x in heads:
    draw.text((x + _GAP / 2, 10), text, "black", bold)
  for line, row in enumerate(rows):
    top = _TOP + line * (_SIDE + _LABEL + _GAP)
    for at, index in enumerate(row):
      same = dataset.labels[index] == dataset.labels[row[0]]
      colour = (RIGHT if same else WRONG) if at else QUERY
      left = at * cell + (_GAP if at else 0) + _GAP // 2
      draw.rectangle((left, top, left + _SIDE, top + _SIDE), fill=colour)
      tile = images.of_dataset(dataset, index).convert("RGB")
      inner = _SIDE - 2 * _FRAME
      sheet.paste(
        tile.resize((inner, inner), Image.Resampling.BICUBIC), (left + _FRAME, top + _FRAME)
      )
      name = "\n".join(textwrap.wrap(dataset.class_names[dataset.labels[index]], 18))
      draw.multiline_text((left, top + _SIDE + 4), name, colour, small)
    said = "\n".join(line for text in words[line] for line in textwrap.wrap(f"- {text}", 54))
    draw.multiline_text((left_of_words + _GAP / 2, top + 4), said, "black", small, spacing=6)
  return sheet


if __name__ == "__main__":
  app.run(main)
