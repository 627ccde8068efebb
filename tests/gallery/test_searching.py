"""Searches against NumPy, filters against plain Python, floors against their definition."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest

from lafg_jax.gallery import building, columns, searching, sources, statistics, store
from lafg_jax.utils.errors import UserError

from .conftest import FAKE, a_place, file_only  # isort: skip

COLOURS = ["red", 'it\'s "blue"', "a\\b", "line\nbreak", "<b>", ""]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The place of a gallery of 30 images with columns, and its rows as dicts."""
  folder = tmp_path_factory.mktemp("made")
  manifest, rows = folder / "m.csv", []
  for k in range(30):
    path = folder / f"{k}.jpg"
    path.write_bytes(b"image %d" % k)
    row = {"path": str(path), "class": f"class {k % 3}", "colour": COLOURS[k % 6]}
    rows.append(row | {"year": "" if k % 5 == 4 else 1990 + k, "price": k / 4})
  with open(manifest, "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  with a_place(folder) as place:
    building.build(place, FAKE, sources.read(str(manifest)))
    for row in rows:
      row["year"] = None if row["year"] == "" else row["year"]
      row["colour"] = row["colour"] or None
    yield place, rows


@pytest.fixture(scope="module")
def gallery(made):
  with store.opened(made[0]) as found:
    yield found


def test_filters_find_what_python_finds(made, gallery):
  quoted, made = columns.literal, made[1]
  cases = [(f"colour == {quoted(x)}", lambda r, x=x: r["colour"] == x) for x in COLOURS if x]
  cases += [
    ("class == 'class 1'", lambda r: r["class"] == "class 1"),
    ("year > 2000 and year <= 2010", lambda r: r["year"] is not None and 2000 < r["year"] <= 2010),
    ("price < 2.5 or class in ['class 0', 'class 2']",
     lambda r: r["price"] < 2.5 or r["class"] in ("class 0", "class 2")),
    ("not (class == 'class 1')", lambda r: r["class"] != "class 1"),
    ("year is null", lambda r: r["year"] is None),
    ("colour is not null and price >= 1", lambda r: r["colour"] is not None and r["price"] >= 1),
    ("path like '%/1%.jpg'", lambda r: os.path.basename(r["path"]).startswith("1")),
    ("class != \"class 0\" && !(price > 3)",
     lambda r: r["class"] != "class 0" and not r["price"] > 3),
  ]  # fmt: skip
  if "LAFG_MILVUS" in os.environ:
    # Milvus 2.5 is the first server that has them.
    cases = [(where, passes) for where, passes in cases if "null" not in where]
  for where, passes in cases:
    columns.check(where, gallery.facts.own_columns())
    found = {hit.path for hit in store.everything(gallery, where)[0]}
    assert found == {r["path"] for r in made if passes(r)}, where
    by_index = store.search(gallery, np.eye(8, dtype=np.float32)[:1], 30, where)[0]
    assert {hit.path for hit in by_index} == found, where


@pytest.mark.parametrize(
  ("where", "said"),
  [
    ("clas == 'x'", "no column 'clas' .did you mean class"),
    ("class == 'x' and kind == 3", "no column 'kind'"),
    ("class = 'x'", "Milvus says: unexpected character '='"),
    ("class == 'x", "Milvus says"),
    ("class == 'x' or", "Milvus says"),
    ("'; drop", "Milvus says"),
  ],
)
def test_a_filter_that_says_nothing_is_one_line(gallery, fake, where, said):
  with pytest.raises(UserError, match=said) as error:
    searching.query(gallery, fake, 3, text="x", where=where)
  assert "\n" not in str(error.value)


def test_words_in_quotes_and_numbers_are_no_columns():
  columns.check('class == \'and colour\' or class == "it\\"s b" and year > 1e5', ["year"])
  columns.check('array_length(tags) > 2 and $meta["x"] == 1 and year IN [1, 2]', ["tags", "year"])


def test_both_searches_are_numpys(gallery, fake):
  hits, vectors = store.everything(gallery)
  query = fake.retriever.embed_text("words")
  scores = vectors @ query[0]
  order = np.argsort(-scores)[:7]
  # Of an index that may miss something, all vectors are read.
  misses = gallery._replace(facts=gallery.facts._replace(index_type="HNSW"))
  for asked, exact in ((gallery, False), (gallery, True), (misses, True)):
    answer = searching.query(asked, fake, 7, text="words", exact=exact)
    assert [hit.path for hit in answer.hits] == [hits[row].path for row in order]
    np.testing.assert_allclose([x.score for x in answer.hits], scores[order], atol=1e-5)
    assert answer.hits[0].metadata == hits[order[0]].metadata and answer.of == "text"
  path = hits[3].path
  assert searching.query(gallery, fake, 1, image=path).hits[0].path == path
  assert len(searching.query(gallery, fake, 100, text="a", where="year == 1990").hits) == 1
  assert len(searching.query(misses, fake, 20_000, text="a", exact=True).hits) == 30


def test_an_exact_query_reads_all_vectors_only_where_the_index_may_miss(gallery, fake, monkeypatch):
  def reads(*unused):
    raise AssertionError("all vectors were read")

  monkeypatch.setattr(store, "everything", reads)
  assert len(searching.query(gallery, fake, 3, text="words", exact=True).hits) == 3
  misses = gallery._replace(facts=gallery.facts._replace(index_type="HNSW"))
  with pytest.raises(AssertionError, match="all vectors were read"):
    searching.query(misses, fake, 3, text="words", exact=True)


def test_an_expanded_query_is_numpys(gallery, fake):
  hits, vectors = store.everything(gallery)
  query = fake.retriever.embed_text("words")[0]
  scores = vectors @ query
  first = np.argsort(-scores)[:4]
  drawn = query + sum(max(scores[row], 0) ** 2.0 * vectors[row] for row in first)
  scores = vectors @ (drawn / np.linalg.norm(drawn))
  order = np.argsort(-scores)[:7]
  for exact in (False, True):
    more = {"text": "words", "exact": exact}
    answer = searching.query(gallery, fake, 7, expand=4, alpha=2.0, **more)
    assert [hit.path for hit in answer.hits] == [hits[row].path for row in order]
    np.testing.assert_allclose([x.score for x in answer.hits], scores[order], atol=1e-5)
    assert answer.floor is None
    plain = searching.query(gallery, fake, 7, **more)
    assert plain.floor is not None and plain.hits[0].score < answer.hits[0].score
  # No hit to be drawn to.
  assert not searching.query(gallery, fake, 3, text="a", where="year == 5", expand=3).hits
  with pytest.raises(UserError, match="expand is -1"):
    searching.query(gallery, fake, 3, text="x", expand=-1)
  with pytest.raises(UserError, match="alpha is -1"):
    searching.query(gallery, fake, 3, text="x", expand=1, alpha=-1.0)


def test_no_query_and_no_k_are_one_line(gallery, fake):
  with pytest.raises(UserError, match="pass --image=FILE, --text"):
    searching.query(gallery, fake, 3)
  with pytest.raises(UserError, match="k is 0"):
    searching.query(gallery, fake, 0, text="x")
  with pytest.raises(UserError, match="16,384 at most"):
    searching.query(gallery, fake, 20_000, text="x")
  with pytest.raises(UserError, match="--edited is for an image with a text"):
    searching.query(gallery, fake, 3, text="x", edited="y")


@file_only
def test_every_index_of_milvus_lite_finds_what_numpy_finds(photos, index, place):
  index(photos)
  for kind in store.LITE:
    # The index is built where the gallery is closed, and read where it is opened again.
    facts, counts = index(photos, kind=kind)
    assert (facts.index_type, counts.kept) == (kind, 30)
    with store.opened(place) as gallery:
      assert gallery.client.describe_index(store.IMAGES, "embedding")["index_type"] == kind
      share, queries = searching.recall(gallery, 5, effort=128)
      # 30 images are few enough for each of them; 8 bits a number change the order of near ones.
      assert queries == 30 and share >= (0.9 if "SQ" in kind else 1.0)


def test_recall_counts_what_a_bad_index_misses(gallery, monkeypatch):
  good = store.search

  def bad(*args, **more):
    return [hits[:2] for hits in good(*args, **more)]

  monkeypatch.setattr(store, "search", bad)
  assert searching.recall(gallery, 5)[0] == pytest.approx(0.4)


def test_floors_are_the_quantiles_that_the_module_names(gallery, fake):
  _, vectors = store.everything(gallery)
  cosines = vectors @ vectors.T
  pairs = cosines[np.triu_indices(30, 1)]
  near = np.quantile(np.where(np.eye(30), -2, cosines).max(1), 0.05)
  floors = gallery.facts.floors
  assert floors["image"] == pytest.approx(max(near, np.quantile(pairs, 0.99)), abs=1e-5)
  said = fake.retriever.embed_text(list(statistics.EVERYDAY))
  scores = said @ vectors.T
  reached = np.quantile(scores.max(1) - scores.mean(1), 0.75)
  assert floors["text"] == pytest.approx(reached, abs=2e-4)
  assert (floors["images"], floors["sample"]) == (30, 30)


def test_a_text_that_is_near_to_all_images_is_judged_by_what_stands_out(gallery, fake):
  answer = searching.query(gallery, fake, 3, text="a bird")
  vector, (_, vectors) = fake.retriever.embed_text("a bird"), store.everything(gallery)
  wanted = gallery.facts.floors["text"] + float((vector @ vectors.T).mean())
  assert answer.floor == pytest.approx(wanted, abs=2e-4)
  # One that is as near to every image as to the nearest: its best score is no sign of anything.
  floors = {"text": 0.1, "mean": [0.6, 0.0]}
  assert statistics.floor_of(floors, "text", np.array([[1.0, 0.0]])) == pytest.approx(0.7)
  assert statistics.floor_of(floors, "text", np.array([[0.0, 1.0]])) == pytest.approx(0.1)
  assert statistics.floor_of(floors, "image", np.array([[1.0, 0.0]])) is None
  # Of a gallery that was indexed before: one floor for all texts.
  assert statistics.floor_of({"text": 0.3}, "text", np.array([[1.0, 0.0]])) == 0.3


def test_a_floor_tells_what_is_alone_from_what_has_a_neighbour():
  rng = np.random.default_rng(0)

  def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  centres = unit(rng.standard_normal((40, 64)))
  images = unit(np.repeat(centres, 5, 0) + 0.05 * rng.standard_normal((200, 64)))
  nearest = np.where(np.eye(200), -2, images @ images.T).max(1)
  floor = statistics.of_images(images, nearest)["image"]
  inside = unit(centres + 0.05 * rng.standard_normal((40, 64)))
  outside = unit(rng.standard_normal((40, 64)))
  assert np.mean((inside @ images.T).max(1) >= floor) > 0.85
  assert np.mean((outside @ images.T).max(1) >= floor) < 0.05


def test_a_small_gallery_and_a_model_without_texts_have_no_such_floor(photos, index, fake, place):
  assert "text" not in index(photos, model=fake._replace(reads_texts=False))[0].floors
  for path in list(photos.rglob("*.jpg"))[12:]:
    path.unlink()
  assert index(photos)[0].floors == {}


# In a process of its own: in this one, pytorch-metric-learning may have replaced methods of faiss
# by such as take no NumPy, and Milvus Lite calls them.
SERVER = """
import sys
from milvus_lite.adapter.grpc.server import start_server_in_thread
server, db, port = start_server_in_thread(sys.argv[1], "127.0.0.1", 0)
print(port, flush=True)
sys.stdin.read()
server.stop(grace=0)
db.close()
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
  """The URL of a server: Milvus Lite behind a port."""
  # A proxy of the environment is not asked for this machine.
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  command = [sys.executable, "-c", SERVER, str(tmp_path / "served")]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  with subprocess.Popen(command, **pipes) as process:
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.stdin.close()
    process.wait(30)


def test_the_same_code_speaks_to_a_server(photos, fake, server):
  """Milvus Lite behind a port is no cluster, but it has a URL, and nothing of a file."""
  source = sources.read(str(photos))
  facts, counts = building.build(server, fake, source)
  assert (facts.index_type, counts.added) == ("AUTOINDEX", 30)
  assert building.build(server, fake, source)[1].kept == 30
  with store.opened(server) as gallery:
    assert store.count(gallery) == 30
    assert len(searching.query(gallery, fake, 3, text="x", where="class == 'class 1'").hits) == 3
    store.drop(gallery, [store.key_of(str(next(photos.rglob("*.jpg"))))])
    assert store.count(gallery) == 29


@file_only
def test_a_proxy_of_the_environment_is_not_asked_for_a_file(photos, index, rows, monkeypatch):
  for name in ("no_proxy", "NO_PROXY"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
  index(photos)
  assert len(rows()) == 30
