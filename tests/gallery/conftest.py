"""Galleries of small files, whose vectors of 8 numbers are made of their bytes.

They lie in files of Milvus Lite, or, where LAFG_MILVUS is set to its URL, in a Milvus server, in a
database each. Tests marked `file_only` are skipped there.
"""

import contextlib
import hashlib
import importlib
import os
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from absl import logging as absl_logging

if find_spec("pymilvus") is None:
  # Not imported here: in a collection of all tests that would end pytest.
  collect_ignore_glob = ["test_*.py"]

from lafg_jax.gallery import building, sources, store
from lafg_jax.gallery.model import Model


@pytest.fixture(scope="session", autouse=True)
def milvus_client():
  """Imports Milvus' client, which sets up logging anew and closes the streams of handlers.

  absl's stream would be a file of pytest's by now; those that it has as sys.stderr stay open.
  """
  if find_spec("pymilvus") is not None:
    absl_logging.get_absl_handler().python_handler.stream = sys.stderr
    importlib.import_module("pymilvus")


def vector_of(content: bytes) -> np.ndarray:
  seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
  x = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
  return x / np.linalg.norm(x)


class Fake:
  """A retriever without a model: what begins with 'broken' cannot be read."""

  embedding_dim = 8

  def __init__(self):
    self.embedded = []

  def embed_readable(self, paths):
    vectors, rows, reasons = [np.zeros((0, 8), np.float32)], [], {}
    for row, path in enumerate(paths):
      content = Path(path).read_bytes()
      if content.startswith(b"broken"):
        reasons[row] = f"cannot read image {path}"
      else:
        self.embedded.append(path)
        rows.append(row)
        vectors.append(vector_of(content)[None])
    return np.concatenate(vectors), np.array(rows, np.int32), reasons

  def embed(self, image):
    return vector_of(Path(image).read_bytes())[None]

  def embed_text(self, texts):
    texts = [texts] if isinstance(texts, str) else texts
    return np.stack([vector_of(text.encode()) for text in texts])


FAKE = Model(Fake(), "0123456789abcdef", "class_retrieval", 8, 3, True, "/a/model", "newest")


@pytest.fixture
def fake():
  return FAKE._replace(retriever=Fake())


def files_of_classes(folder, count, classes):
  """`count` files in folders of so many classes."""
  for k in range(count):
    path = folder / f"class {k % classes}" / f"{k}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"image %d" % k)
  return folder


@pytest.fixture
def photos(tmp_path):
  return files_of_classes(tmp_path / "photos", 30, 3)


@contextlib.contextmanager
def a_place(folder):
  """Where a new gallery may lie."""
  server = os.environ.get("LAFG_MILVUS")
  if not server:
    yield str(folder / "g.db")
    return
  from pymilvus import MilvusClient

  client, name = MilvusClient(server), f"test_{uuid.uuid4().hex[:12]}"
  client.create_database(name)
  yield f"{server}/{name}"
  inside = MilvusClient(f"{server}/{name}")
  for collection in inside.list_collections():
    inside.drop_collection(collection)
  inside.close()
  client.drop_database(name)
  client.close()


file_only = pytest.mark.skipif("LAFG_MILVUS" in os.environ, reason="of files alone")


@pytest.fixture
def place(tmp_path):
  with a_place(tmp_path) as found:
    yield found


@pytest.fixture
def index(place, fake):
  """`index(folder or manifest)`: the facts and counts of one run."""

  def run(images, model=fake, **more):
    return building.build(place, model, sources.read(str(images)), **more)

  return run


@pytest.fixture
def rows(place):
  """`rows()`: {path: (hit, vector)} of all that the gallery holds."""

  def read(where=""):
    with store.opened(place) as gallery:
      hits, vectors = store.everything(gallery, where)
    assert len({hit.path for hit in hits}) == len(hits)
    return {hit.path: (hit, x) for hit, x in zip(hits, vectors, strict=True)}

  return read
