"""The page of composed retrieval, as a browser's parser reads it."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from lafg_jax.report import composed_page, term_bars
from lafg_jax.report.composed_page import Answer, Shown
from lafg_jax.report.term_bars import Term

TERMS = (Term("m", "edited <description>", 0.6), Term("f", "text with the image", 0.4))
TABLES = [
  ("by method", [["%", "R@1", "R@10"], ["sum <&>", "12.34", "56.78"], ["chance", "0.91", "9.10"]]),
  ("by kind", [["kind", "R@1"], ["negation", "3.21"]]),
]


class Page(html.parser.HTMLParser):
  """Tags and texts; fails on tags that do not match. `within` is the classes around each text."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.text, self.within = [], [], "", []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append((tag, attrs))
    if tag not in ("meta", "img", "br", "input"):
      self.open.append((tag, attrs.get("class", "")))

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop()[0] == tag

  def handle_data(self, data):
    if self.open and self.open[-1][0] in ("script", "style"):
      return
    self.text += data
    self.within.append((self.open[-1][1] if self.open else "", data))

  def of(self, tag, name):
    return [attrs[name] for found, attrs in self.tags if found == tag and name in attrs]

  def said(self, name):
    return [data for found, data in self.within if found == name and data.strip()]


def picture(part, image):
  """Each image has one colour."""
  return np.full((112, 112, 3), 20 * (ord(image[0]) - ord("a")), np.uint8)


QUERIES = (
  Shown(
    *("7", "birds", "a<1>", "a red <b>crown</b> & no bar", ("negation", "addition")),
    answers=(
      Answer(1, "b", "near", 0.9, (0.7, 0.2), "another <tail>"),
      Answer(2, "c", "right", 0.5, (0.6, -0.1)),
      Answer(3, "a<1>", "reference", 0.25, (0.15, 0.1)),
      Answer(4, "d", "wrong", 0.1, (-0.1, 0.2)),
    ),
    rank=2,
    ranked=50,
    num_targets=3,
    captions=("one", "two", "three", "four & more", "five"),
    edited=("a bird with a <red> crown",),
    added="a crown",
  ),
  Shown(
    "8",
    "birds",
    "b",
    "at night",
    ("viewpoint",),
    (Answer(1, "d", "wrong", 0.3), Answer(0, "f", "right", None)),
    0,
    50,
    1,
  ),
  Shown("9", "birds", "c", "more", (), (Answer(1, "e", "unknown", 0.3),), None, 50),
)


@pytest.fixture
def page(tmp_path):
  def make(**changes):
    found = composed_page.Page(
      name="finches <i>",
      notes=["2 queries", "gallery: original & whole"],
      tables=TABLES,
      terms=TERMS,
      shown=QUERIES,
      share={"negation": (12, 40), "viewpoint": (0, 3)},
      picture=picture,
    )
    composed_page.run(str(tmp_path), found._replace(**changes))
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

  return make


def test_every_picture_is_there_and_nothing_is_asked_of_a_network(page):
  found = page()
  sources, about = found.of("img", "src"), found.of("img", "alt")
  shades = [
    np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))[50, 50, 0]
    for source in sources
  ]
  wanted = "abcadbdfce"  # reference, then answers, of each query
  np.testing.assert_allclose(shades, [20 * (ord(x) - ord("a")) for x in wanted], atol=2)
  assert about[:3] == ["reference a<1>", "place 1: b", "place 2: c"]
  assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
  assert not found.of("link", "href") + found.of("script", "src")
  assert all(href.startswith("#") for href in found.of("a", "href"))


def test_every_number_is_there(page):
  found = page()
  for _, (_, *rows) in TABLES:
    for _, *cells in rows:
      assert all(cell in found.text for cell in cells)
  assert "sum <&>" in found.text
  assert found.said("score") == ["0.900", "0.500", "0.250", "0.100", "0.300", "0.300"]
  labels = [x for x in found.of("svg", "aria-label") if x.startswith("m ")]
  assert labels == ["m +0.700 f +0.200", "m +0.600 f -0.100", "m +0.150 f +0.100",
                    "m -0.100 f +0.200"]  # fmt: skip
  assert all(part in found.text for label in labels for part in (label[:8], label[9:]))
  assert "negation: 12 of 40 found a right image first" in found.text
  assert "viewpoint: 0 of 3" in found.text
  assert found.said("verdict") == [
    "Right image at place 2 (3 right images).",
    "No right image among the first 50.",
    "Right answers are secret.",
  ]
  assert "weight 0.60" in found.text and "weight 0.40" in found.text


def test_answers_are_marked_in_words_and_signs(page):
  found = page()
  wanted = ["near", "right", "reference", "wrong", "wrong", "right", "unknown"]
  assert [x for x in found.of("figure", "class") if x != "chart"] == wanted
  assert found.said("mark") == [
    *("1. ≈ near miss", "2. ✓ right", "3. ↺ the reference", "4. × wrong", "1. × wrong"),
    *("beyond: ✓ right", "1. ? not known"),
  ]
  # Only the signs that are used are explained.
  few = page(shown=QUERIES[1:2])
  assert "× wrong." in few.text and "near miss" not in few.text


def test_texts_are_texts(page):
  found = page()
  assert not {"b", "i", "red", "description"} & {tag for tag, _ in found.tags}
  for text in ("a red <b>crown</b> & no bar", "a bird with a <red> crown", "edited <description>",
               "four & more", "another <tail>", "gallery: original & whole",
               "finches <i>"):  # fmt: skip
    assert text in found.text
  # One caption, the others folded.
  assert "its captions: one" in found.text and "4 more" in found.text
  assert all(text in found.text for text in QUERIES[0].captions)
  assert "added: a crown" in found.text


def test_what_each_term_gives_to_right_and_to_other_answers(page):
  found = page()
  cells = re.split(r"edited <description>", found.text)[-1]
  # Right: 0.6. Others: (0.7 + 0.15 - 0.1) / 3 = 0.25.
  assert cells.startswith("0.600.6000.250+0.350")
  assert "over the\n1 right and 3 other answers" in found.text
  assert "What each term contributes" not in page(shown=QUERIES[1:]).text


def rects(bar):
  return [
    tuple(map(float, x)) for x in re.findall(r'rect x="([\d.]+)" y="0" width="([\d.]+)"', bar)
  ]


def test_bars_share_a_scale_and_go_left_below_zero():
  parts = [(0.6, 0.2), (0.4, -0.2), ()]
  first, second, none = term_bars.bars(parts, TERMS)
  # 112 pixels from -0.2 to 0.8; zero stands at 22.4.
  assert rects(first) == [(22.4, 67.2), (89.6, 22.4)]
  assert rects(second) == [(22.4, 44.8), (0.0, 22.4)]
  assert none == "" and 'aria-label="m +0.600 f +0.200"' in first
  assert term_bars.bars([(0.0, 0.0)], TERMS)[0].count("<rect") == 2
  assert term_bars.legend(()) == ""
