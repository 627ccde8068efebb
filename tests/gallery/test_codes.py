"""Binary codes against NumPy: signs of a rotation, Hamming distances, and full vectors after."""

import os
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.gallery import codes, searching, store
from lafg_jax.utils.errors import UserError

from .conftest import file_only, files_of_classes, vector_of  # isort: skip

pytest.importorskip("faiss")
pytestmark = file_only


@pytest.fixture
def many(tmp_path):
  return files_of_classes(tmp_path / "many", 200, 4)


def test_the_rotation_is_one_and_its_signs_halve_the_quantisation_of_no_rotation():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2000, 16)).astype(np.float32) * np.linspace(3, 0.3, 16, dtype=np.float32)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  rotation, mean = codes.learn(x, 16)
  np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-4)
  np.testing.assert_allclose(mean, x.mean(0), atol=1e-4)
  found = codes.Codes(np.array([]), np.array([]), np.zeros((0, 2), np.uint8), rotation, mean)
  wanted = ((x - x.mean(0)) @ rotation.T > 0).astype(np.uint8)
  assert np.mean(np.unpackbits(found.of(x), axis=1) == wanted) > 0.999

  def recall(signs):
    hamming = (signs[:100, None] != signs[None]).sum(-1)
    near = np.argsort(hamming, 1, kind="stable")[:, :50]
    exact = np.argsort(-x[:100] @ x.T, 1)[:, :10]
    return np.mean([len({*a} & {*b}) / 10 for a, b in zip(near, exact, strict=True)])

  assert recall(wanted) > 1.1 * recall(x > 0)


def test_a_search_is_hamming_then_the_full_vectors(many, index, place, fake):
  index(many, bits=8)
  known = codes.read(place)
  with store.opened(place) as gallery:
    hits, vectors = store.everything(gallery)
    rows = {store.key_of(hit.path): row for row, hit in enumerate(hits)}
    order = [rows[key] for key in known.keys]
    np.testing.assert_array_equal(known.bits, known.of(vectors[order]))
    query = fake.retriever.embed_text("words")
    hamming = np.unpackbits(known.of(query) ^ known.bits, axis=1).sum(1)
    answer = searching.query(gallery, fake, 3, text="words", rerank=5)
    # Ties at the end of the 15 nearest codes may fall either way.
    last = np.sort(hamming)[14]
    sure = {order[row] for row in np.flatnonzero(hamming < last)}
    may = {order[row] for row in np.flatnonzero(hamming <= last)}
    scores = vectors @ query[0]
    found = [rows[store.key_of(hit.path)] for hit in answer.hits]
    assert set(found) <= may
    np.testing.assert_allclose([x.score for x in answer.hits], scores[found], atol=1e-5)
    best = max(sure, key=lambda row: scores[row])
    assert answer.hits[0].score >= scores[best] - 1e-6
    # All candidates are all images: as exact as the product, with a filter too.
    exact = searching.query(gallery, fake, 5, text="words", exact=True)
    whole = searching.query(gallery, fake, 5, text="words", rerank=200)
    assert [x.path for x in whole.hits] == [x.path for x in exact.hits]
    assert whole.hits[0].label and whole.floor == exact.floor
    where = {"where": "class == 'class 2'", "text": "words"}
    assert [x.path for x in searching.query(gallery, fake, 5, rerank=200, **where).hits] == [
      x.path for x in searching.query(gallery, fake, 5, exact=True, **where).hits
    ]
    shares = [searching.recall(gallery, 5, rerank=rerank)[0] for rerank in (1, 6, 40)]
    assert shares[0] < shares[1] <= shares[2] == 1
    with pytest.raises(UserError, match="pass one of them"):
      searching.query(gallery, fake, 5, text="words", rerank=3, exact=True)
    with pytest.raises(UserError, match="--rerank=-1"):
      searching.query(gallery, fake, 5, text="words", rerank=-1)


def test_codes_follow_the_gallery(many, index, place, monkeypatch):
  index(many, bits=8)
  rotation = codes.read(place).rotation
  (many / "class 0/0.jpg").write_bytes(b"another")
  (many / "class 1/1.jpg").unlink()
  (many / "class 1/new.jpg").write_bytes(b"new")
  asked = []
  vectors_of = store.vectors_of
  monkeypatch.setattr(
    store, "vectors_of", lambda g, keys: asked.append(list(keys)) or vectors_of(g, keys)
  )
  index(many)
  assert sorted(map(len, asked))[0] == 2, "all vectors were read again"
  known = codes.read(place)
  np.testing.assert_array_equal(known.rotation, rotation)
  files = {store.key_of(str(path)): path for path in many.rglob("*.jpg")}
  assert sorted(known.keys) == sorted(files) and len(files) == 200
  for key, bits in zip(known.keys, known.bits, strict=True):
    wanted = known.of(vector_of(Path(files[key]).read_bytes())[None])[0]
    assert (bits == wanted).all()


def test_what_cannot_have_codes_is_one_line(photos, index, place, fake):
  with pytest.raises(UserError, match="30 images are too few to learn codes of 8 numbers: 32"):
    index(photos, bits=8)
  # The gallery says that it is not complete, and the next run completes it.
  with store.opened(place) as gallery:
    assert not gallery.facts.complete and not os.path.exists(codes.file_of(place))
    with pytest.raises(UserError, match="has no codes: make them with index --bits"):
      searching.query(gallery, fake, 3, text="x", rerank=3)
  assert index(photos)[0].complete
  with pytest.raises(UserError, match="--bits=12: it takes a multiple of 8"):
    codes.check(place, 12)
  with pytest.raises(UserError, match="codes are for a FILE.db"):
    codes.check("http://127.0.0.1:19530", 64)
  with pytest.raises(UserError, match="the vectors have 8 numbers"):
    codes.learn(np.zeros((100, 8), np.float32), 16)
