"""An exported gallery is the gallery, and its page runs as it stands."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

import lafg_jax
from lafg_jax.gallery import exporting, store
from lafg_jax.inference import index_card, index_files
from lafg_jax.utils.errors import UserError

from .conftest import Fake, vector_of  # isort: skip

FAISS = pytest.importorskip("faiss")


class Searcher(Fake):
  def embed(self, images):
    images = [images] if isinstance(images, str) else images
    return np.concatenate([Fake.embed(self, image) for image in images])

  def search(self, queries=None, gallery=None, k=10, *, text=None):
    vectors = self.embed_text(text) if text is not None else self.embed(queries)
    scores = vectors @ gallery.T
    rows = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


@pytest.fixture
def exported(photos, index, place, tmp_path, fake):
  """The folder of an export of 31 images, one with a name of tags, and its gallery's rows."""
  names = [*photos.rglob("*.jpg"), photos / "<b>'\"`.jpg"]
  names[-1].write_bytes(b"tagged")
  lines = [f'"{str(p).replace(chr(34), chr(34) * 2)}",{k % 4},{1990 + k}' for k, p in
           enumerate(names)]  # fmt: skip
  (tmp_path / "m.csv").write_text("path,class,year\n" + "\n".join(lines) + "\n")
  model = fake._replace(task="image_text_retrieval", source="/a/mo`del")
  index(tmp_path / "m.csv", model=model)
  out = tmp_path / "out"
  out.mkdir()
  with store.opened(place) as gallery:
    paths = exporting.export(gallery, str(out))
    assert sorted(paths) == sorted(map(str, out.iterdir()))
    # The same model again is no error.
    assert exporting.export(gallery, str(out)) == paths
    hits, vectors = store.everything(gallery)
  return out, hits, vectors


def test_it_has_every_vector_with_its_row_and_the_models_id(exported):
  out, hits, vectors = exported
  np.testing.assert_array_equal(load_file(out / exporting.VECTORS)["vectors"], vectors)
  rows = [json.loads(line) for line in (out / index_files.ROWS).read_text().splitlines()]
  assert rows == [{"path": x.path, "class": x.label, "metadata": x.metadata} for x in hits]
  assert all(row["metadata"]["year"] >= 1990 for row in rows)
  about = json.loads((out / index_files.ABOUT).read_text())
  assert (about["model"], about["dim"], about["rows"]) == ("0123456789abcdef", 8, 31)
  assert about["columns"] == ["year"] and about["floors"]["image"] < 1
  index = FAISS.read_index(str(out / index_files.INDEX))
  assert index.ntotal == 31
  page = (out / index_card.FILE).read_text()
  assert "`0123456789abcdef`" in page and "31 images" in page and "`year`" in page


def test_its_page_runs_as_it_stands(exported, tmp_path, monkeypatch, capsys):
  out, hits, _ = exported
  (out / "query.jpg").write_bytes(b"image 7")
  (out / "more_photos").mkdir()
  (out / "more_photos/new.jpg").write_bytes(b"new")
  monkeypatch.chdir(out)
  places = []
  monkeypatch.setattr(
    lafg_jax, "load_retriever", lambda place: places.append(place) or Searcher(), raising=False
  )
  page = (out / index_card.FILE).read_text()
  found = {}
  exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), found)
  assert places == ["/a/mo`del"]
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith(f"[{str(tmp_path / 'photos/class 1/7.jpg')!r}, ") and second != first
  assert [x.path for x in hits] == [row["path"] for row in found["rows"]][:31]
  np.testing.assert_allclose(load_file("gallery.safetensors")["vectors"][31], vector_of(b"new"))
  rows = (out / index_files.ROWS).read_text().splitlines()
  assert len(rows) == 32 and json.loads(rows[31])["path"].endswith("new.jpg")
  assert FAISS.read_index("gallery.faiss").ntotal == 32


def test_another_models_and_an_empty_one_are_refused(exported, place, tmp_path):
  out, _, _ = exported
  about = json.loads((out / index_files.ABOUT).read_text()) | {"model": "f" * 16}
  (out / index_files.ABOUT).write_text(json.dumps(about))
  with store.opened(place) as gallery:
    with pytest.raises(UserError, match="has an index of another model .ffff.*another --out"):
      exporting.export(gallery, str(out))
    store.drop(gallery, list(store.entries(gallery)))
    with pytest.raises(UserError, match="is empty: there is nothing to export"):
      exporting.export(gallery, str(tmp_path))


def test_without_faiss_there_is_no_word_of_it(exported, place, tmp_path, monkeypatch):
  monkeypatch.setattr(exporting, "find_spec", lambda name: None)
  out = tmp_path / "plain"
  out.mkdir()
  with store.opened(place) as gallery:
    exporting.export(gallery, str(out))
  assert "faiss" not in (out / index_card.FILE).read_text()
  assert not (out / index_files.INDEX).exists()
