"""Broken and hostile files: each is skipped with a reason, counted, and harmless wherever named."""

import html.parser
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin

from lafg_jax.data import images, listing
from lafg_jax.gallery import building, indexing, searching, sheet, sources, store
from lafg_jax.gallery.store import Entry, Gallery, Hit
from lafg_jax.report import pictures
from tests.gallery import hostile

from .conftest import FAKE, Fake, vector_of  # isort: skip


class Reader(Fake):
  """A retriever that reads images as the real one does, and makes vectors of their bytes."""

  def embed_readable(self, paths):
    broken = {}
    for row, path in enumerate(paths):
      try:
        images.open_image(path)
      except images.UnreadableImage as error:
        broken[row] = str(error)
    rows = [row for row in range(len(paths)) if row not in broken]
    vectors = [vector_of(Path(paths[row]).read_bytes()) for row in rows]
    return np.array(vectors, np.float32).reshape(len(rows), 8), rows, broken


class Tags(html.parser.HTMLParser):
  """All tags of a page, and whether one would run or load something."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.text = [], ""
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    for name, value in attrs:
      assert not name.startswith("on"), (tag, name)
      assert name not in ("src", "href") or value.startswith("data:image/"), (tag, value)

  def handle_data(self, data):
    self.text += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """What an index of hostile and readable files says: folder, both lists, facts, counts, place."""
  folder = tmp_path_factory.mktemp("hostile")
  bad, good = hostile.make(folder / "images"), hostile.readable(folder / "images")
  model = FAKE._replace(retriever=Reader())
  place = str(folder / "g.db")
  facts, counts = building.build(place, model, sources.read(str(folder / "images")))
  return folder / "images", bad, good, facts, counts, place


NAMES = sorted([*hostile.FILES, "latin\udce9.jpg"])


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_each_is_skipped_with_a_reason(made, name):
  folder, _, _, _, counts, _ = made
  path = str(folder / name).encode("utf-8", "backslashreplace").decode()
  reason = counts.skipped[path]
  assert reason and len(reason) < 2000
  line = f"{listing.shown(path)}: {' '.join(reason.split())}"
  # What the log and `info` print of it steers no terminal.
  assert listing.shown(line).count("\n") == 0 and "\x1b" not in listing.shown(line)


def test_all_are_counted_and_what_is_readable_is_there(made):
  folder, bad, good, facts, counts, place = made
  assert len(bad) >= 30 and len(set(bad.values())) == len(bad)
  assert len(counts.skipped) == len(bad) and facts.skipped["count"] == len(bad)
  assert counts.added == len(good) and facts.complete
  with store.opened(place) as gallery:
    assert {hit.path for hit in store.everything(gallery)[0]} == set(good)
  # Nothing was run, unpacked or followed.
  assert not os.path.exists("/tmp/hostile") and not os.path.exists("hostile")
  assert not (folder.parent.parent / "escape.jpg").exists()
  json.dumps(indexing.shortened(counts.skipped)).encode("utf-8")


def test_postscript_is_not_given_to_ghostscript_whatever_it_is_called(tmp_path, monkeypatch):
  ran = tmp_path / "ran"
  program = tmp_path / "bin/gs"
  program.parent.mkdir()
  program.write_text(f"#!/bin/sh\ntouch {ran}\n")
  program.chmod(0o755)
  monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
  monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
  for name in ("a.eps", "a.jpg"):
    (tmp_path / name).write_bytes(hostile.EPS)
    with pytest.raises(images.UnreadableImage, match="EPS is read by other software alone"):
      images.open_image(tmp_path / name)
  with pytest.raises(images.UnreadableImage, match="other software"):
    images.open_image(hostile.EPS)
  assert not ran.exists()


def test_answers_with_such_names_are_harmless_as_page_table_and_json(made):
  folder, bad, good, _, _, place = made
  cell = hostile.TAG + hostile.SCRIPT
  with store.opened(place) as gallery:
    hits = searching.exactly(gallery, vector_of(b"x")[None], 20)
  assert len(hits) == len(good)
  # Those that are skipped too: they may have become so after they were indexed.
  hits = [hit._replace(label=cell, metadata={cell: cell}) for hit in hits]
  hits += [Hit(path, 0.1, cell, {"note": cell}) for path in bad if path.isprintable()]
  answer = searching.Answer(hits, 0.5, "text")
  page = sheet.page(answer, [f"text: {cell}"], str(folder / f"{hostile.TAG}.jpg"))
  found = Tags(page)
  plain = Tags(pictures.page("Search", sheet._STYLE))
  assert found.tags.count("script") == plain.tags.count("script")
  assert found.tags.count("img") == len(good) and found.tags.count("svg") == 0
  assert found.text.count(cell) == 1 + 3 * len(good) + 2 * (len(hits) - len(good))
  table = sheet.table(searching.Answer([Hit(x, 0.1, "\x1b[2J", {}) for x in bad], None, "text"))
  assert len(table.splitlines()) == 1 + len(bad) and "\x1b" not in table
  table.encode("utf-8")
  facts = store.Facts("id", "task", 8, 1, "/m", "newest", "FLAT")
  said = sheet.as_json(answer, Gallery(None, "g.db", facts))
  assert [x["path"] for x in json.loads(said)["hits"]] == [x.path for x in hits]
  assert said.isascii()


def test_a_manifest_of_them_skips_each(tmp_path):
  bad = hostile.make(tmp_path / "images")
  names = [Path(path).name for path in bad]
  names = [name for name in names if not {"\n", "\udce9", '"'} & set(name)]
  rows = [*names, "../../../../etc/passwd", "/etc/hostname", "https://example.org/a.jpg", "up"]
  text = "path\n" + "".join(f'"{name}"\n' for name in rows)
  (tmp_path / "images/m.csv").write_text(text, "utf-8")
  source = sources.read(str(tmp_path / "images/m.csv"))
  work, _ = indexing._compared(source, {}, skipped := dict(source.skipped))
  model = Reader()
  _, read, broken = model.embed_readable([one.item.path for one in work])
  assert not len(read) and len(skipped) + len(broken) == len(rows)
  assert isinstance(work[0].entry, Entry)


def test_uploads_are_files_with_content(tmp_path):
  found = hostile.uploads(tmp_path)
  assert len(found) >= 30 and all(os.path.isfile(path) for path in found)
  for path in found:
    with pytest.raises(images.UnreadableImage):
      images.open_image(Path(path).read_bytes())
