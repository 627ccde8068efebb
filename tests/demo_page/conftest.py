"""A gallery of plain colours, whose model reads an image's mean colour, and names of colours."""

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

if find_spec("pymilvus") is None:
  # Not imported here: in a collection of all tests that would end pytest.
  collect_ignore_glob = ["test_*.py"]

from lafg_jax.data import images
from lafg_jax.demo_page import desk, uploads
from lafg_jax.explain.records import Explanation, Named
from lafg_jax.gallery import building, sources, store
from lafg_jax.gallery.model import Model
from tests.gallery.conftest import milvus_client  # noqa: F401

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


def unit(x):
  return (np.asarray(x, np.float32) / np.linalg.norm(x))[None]


class Colours:
  """A retriever that sees the mean colour."""

  embedding_dim = 3

  def embed(self, image):
    return unit(np.asarray(images.open_any(image), np.float32).mean((0, 1)))

  def embed_readable(self, paths):
    return np.concatenate([self.embed(x) for x in paths]), np.arange(len(paths)), {}

  def embed_text(self, texts):
    texts = [texts] if isinstance(texts, str) else texts
    return np.concatenate([unit(COLOURS.get(x.split()[-1], (128, 128, 128))) for x in texts])

  def embed_query(self, image, text, edited=None):
    return unit(self.embed(image)[0] + self.embed_text(text)[0])

  def crops(self, given):
    return np.stack([np.asarray(images.open_any(x).resize((24, 24))) for x in given])

  def explain(self, a, b=None, text=None):
    """Each image shows its strongest colour; heat is of the upper half."""
    del text
    shown = [
      [Named(int(np.argmax(self.embed(x))), list(COLOURS)[int(np.argmax(self.embed(x)))], 0.9, 0.1)]
      for x in (a, b)
      if x is not None
    ]
    same = len(shown) == 2 and shown[0] == shown[1]
    shared = shown[0] if same else []
    differ = ([], []) if same or len(shown) < 2 else (shown[0], shown[1])
    heat = [np.repeat([[1.0], [0.0]], 2, axis=1) for _ in shown]
    return Explanation(0.5, shown, shared, differ, heat, "occlusion", "")


READS = Model(
  Colours(), "0123456789abcdef", "image_text_retrieval", 3, 7, True, "/a/model", "newest"
)


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
  """A folder of 8 images of each colour, each a little different, and a table of them."""
  folder = tmp_path_factory.mktemp("colours")
  rows = ["path,class,shade"]
  for name, colour in COLOURS.items():
    (folder / name).mkdir()
    for k in range(8):
      shown = tuple(min(255, x + 4 * k) for x in colour)
      Image.new("RGB", (40, 30), shown).save(folder / name / f"{k}.png")
      rows.append(f"{name}/{k}.png,{name},{k}")
  (folder / "images.csv").write_text("\n".join(rows) + "\n")
  return folder


@pytest.fixture(scope="session")
def served(colours, tmp_path_factory):
  """An open desk on that gallery, of a model that reads texts."""
  place = str(tmp_path_factory.mktemp("gallery") / "g.db")
  building.build(place, READS, sources.read(str(colours / "images.csv")))
  with store.opened(place) as gallery:
    yield desk.opened(gallery, READS, uploads.Limits(100_000, 1_000_000))
