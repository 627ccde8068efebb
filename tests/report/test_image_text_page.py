"""The page of image-text retrieval, as a browser's parser reads it."""

import html.parser
import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from lafg_jax.data.captions import Captioned
from lafg_jax.finches.text import Span
from lafg_jax.report import image_text_page
from lafg_jax.utils.errors import UserError

CAPTIONS = ["a red <b>finch</b>", "a blue finch & wing", "a red <b>finch</b>", "a dark siskin"]
TABLES = [("headline", [["%", "R@1"], ["text <to> image", "12.5"]]), ("all", [["%"], ["more"]])]
WEIGHTS = {
  0: [("a", 0.5), ("red", 2.0), ("finch", 1.0)],
  3: [("a", 0.5), ("dark", 0.7), ("siskin", 3.0)],
}


DATA = re.compile(r'id="data">(.*?)</script>')


class Page(html.parser.HTMLParser):
  """Tags and texts by class; fails on tags that do not match."""

  def __init__(self, text):
    super().__init__()
    self.open, self.found, self.sources, self.text = [], [], [], ""
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.found.append((tag, attrs))
    links = [attrs[name] for name in ("src", "href") if name in attrs]
    self.sources += [link for link in links if not link.startswith("#")]
    if tag not in ("meta", "img", "br", "input"):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "script" not in self.open:
      self.text += data

  def classes(self, tag):
    return [attrs["class"] for name, attrs in self.found if name == tag and "class" in attrs]

  def answers(self, tag):
    """The classes of answers: charts and navigation have such tags too."""
    kinds = ("right", "class", "wrong", "other")
    return [name for name in self.classes(tag) if name in kinds]


@pytest.fixture
def captioned():
  image = np.random.default_rng(0).integers(0, 255, (4, 9, 9, 3), np.uint8)
  return Captioned(
    images=image,
    captions=CAPTIONS,
    labels=np.array([0, 0, 0, 1], np.int32),
    class_names=("finch", "siskin"),
    ids=('a".png', "b.png", "c.png", "d.png"),
    split="test",
    image_of=np.arange(4, dtype=np.int32),
    negatives=None,
    spans=[[Span(2, 5, "body")], [], [], [Span(2, 6, "body"), Span(7, 13, "class")]],
    name="table",
    content="0",
  )


@pytest.fixture
def evaluated(tmp_path, captioned):
  """Image 3 finds the first string, and its own caption last."""
  texts = np.eye(4, dtype=np.float32)[[0, 1, 0, 2]]
  images = np.eye(4, dtype=np.float32)[[0, 1, 0, 0]] + np.float32([[0, 0.1, -0.1, 0]])
  np.savez(tmp_path / "embeddings.npz", vectors=images, texts=texts, captions=np.array(CAPTIONS))
  result = {"dataset": "table", "split": "test", "source": "checkpoint", "chance": {}}
  result |= {"num_images": 4, "num_texts": 4, "num_strings": 3, "num_classes": 2}
  (tmp_path / "evaluation.json").write_text(json.dumps(result))
  lines = [{"step": step, "loss": 1 / step, "l_con": 2.0} for step in (1, 2, 3)]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  return tmp_path


CONFIG = ConfigDict({"evaluate": {"split": "test", "source": "checkpoint", "compare": ()}})


def made(workdir, captioned, weights=None):
  image_text_page.run(CONFIG, str(workdir), captioned, TABLES, weights)
  return Page((workdir / "report.html").read_text())


def test_answers_are_marked_in_words_and_signs(evaluated, captioned):
  page = made(evaluated, captioned)
  # Three strings an image, nearest first.
  lines = page.answers("li")
  assert len(lines) == 4 * 3
  assert lines[:3] == ["right", "class", "wrong"]
  assert lines[9:] == ["wrong", "wrong", "right"]
  tiles = page.answers("figure")
  assert len(tiles) == 4 * 4
  # Images 0 and 2 have one caption, and image 3 looks the same.
  assert tiles[:4] == ["right", "right", "wrong", "class"]
  assert tiles[4:8] == ["right", "class", "class", "wrong"]
  marks = [attrs for tag, attrs in page.found if attrs.get("class") == "mark"]
  assert len(marks) == len(lines) + len(tiles)
  for sign, word in (("\u2713", "its own"), ("\u2248", "same class"), ("\u00d7", "another class")):
    assert f"{sign} {word}" in page.text
  assert "1 caption equal to one before" in page.text


def test_the_page_needs_nothing_and_its_texts_are_texts(evaluated, captioned):
  page = made(evaluated, captioned, WEIGHTS)
  assert page.sources
  assert all(source.startswith("data:image/") for source in page.sources)
  assert "b" not in [tag for tag, _ in page.found]
  assert not [attrs for tag, attrs in page.found if tag == "script" and "src" in attrs]
  assert not [attrs for tag, attrs in page.found if tag == "link"]
  assert "a red <b>finch</b>" in page.text
  assert "a blue finch & wing" in page.text
  assert "text <to> image" in page.text
  assert 'image a".png' in [attrs.get("alt") for _, attrs in page.found]


def test_words_are_shaded_by_their_weight(evaluated, captioned):
  page = made(evaluated, captioned, WEIGHTS)
  shades = [(a["style"], a["title"]) for t, a in page.found if t == "span" and "style" in a]
  assert shades == [
    *(("--w:0.00", "0.50"), ("--w:1.00", "2.00"), ("--w:0.33", "1.00")),
    *(("--w:0.00", "0.50"), ("--w:0.08", "0.70"), ("--w:1.00", "3.00")),
  ]
  assert "heaviest: siskin 3.00, dark 0.70, a 0.50" in page.text
  assert "Attribute words" in page.text
  kinds = json.loads((evaluated / "word_weights.json").read_text())["kinds"]
  assert kinds["attributes"]["share_of_weight"] == pytest.approx(2.7 / 7.7)
  assert kinds["attributes"]["share_of_words"] == pytest.approx(2 / 6)
  # Where the truth is not known, there is no such table.
  page = made(evaluated, captioned._replace(spans=None), WEIGHTS)
  assert "Attribute words" not in page.text


def test_curves_and_what_is_left_out(evaluated, captioned):
  page = made(evaluated, captioned)
  charts = json.loads(DATA.search((evaluated / "report.html").read_text())[1])["charts"]
  assert [(chart["x"], chart["y"]) for chart in charts] == [
    ("training step", "loss, nats"),
    ("training step", "L_con, nats"),
  ]
  assert charts[0]["series"] == [{"name": "this run", "x": [1, 2, 3], "y": [1, 0.5, 0.333333]}]
  assert "Which words weigh most" not in page.text
  assert not (evaluated / "word_weights.json").exists()
  plain = captioned._replace(labels=np.full(4, -1, np.int32), class_names=())
  page = made(evaluated, plain)
  assert set(page.answers("li")) == {"right", "other"}
  assert "same class" not in page.text


def test_another_evaluation_is_refused(evaluated, captioned):
  with pytest.raises(UserError, match="other captions than table has in test"):
    made(evaluated, captioned._replace(captions=[*CAPTIONS[:3], "another"]))
  with pytest.raises(UserError, match="split: test -> val"):
    changed = ConfigDict({"evaluate": {"split": "val", "source": "checkpoint", "compare": ()}})
    image_text_page.run(changed, str(evaluated), captioned, TABLES)
