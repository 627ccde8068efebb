"""The page of class retrieval, as a browser's parser reads it; frame, colours and thumbnails."""

import base64
import html.parser
import io
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from lafg_jax.report import comparison, curves, frame, run_page, thumbnails
from lafg_jax.report.frame import Chart, Series
from lafg_jax.report.run_page import Apart, ClassRow, Entry, Neighbour, Page, Pair, Query
from lafg_jax.utils.errors import UserError

# Names that would end an element, an attribute or a script, or be filled into the template.
BAD = '</script><img src=x onerror="document.title=1"><b>\'"&amp;{{BODY}}'
METRICS = {"recall@1": 0.5, "recall@2": 0.75, "map@r": 0.25, "r_precision": 0.3}
RESULT = METRICS | {
  **{"dataset": f"birds {BAD}", "split": "test", "source": "checkpoint", "step": 4},
  **{"num_queries": 4, "num_gallery": 4, "num_classes": 2, "num_unreadable": 1, "partial": True},
  "untrained": {name: value / 2 for name, value in METRICS.items()},
  "chance": {name: value / 10 for name, value in METRICS.items()},
}
VOID = ("meta", "img", "br", "input", "link")


class Parsed(html.parser.HTMLParser):
  """Tags and texts; fails on tags that do not match. The content of scripts is left out."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.text = [], [], ""
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ("script", "style"):
      self.text += data

  def of(self, tag, name):
    return [attrs[name] for found, attrs in self.tags if found == tag and name in attrs]


def made(count=4, bad=BAD, mapped=True):
  """A page of `count` images of two classes, even rows the first."""
  labels = [k % 2 for k in range(count)]
  near = tuple(
    Neighbour(row, 0.9 - row / 10, labels[row] == 0, ("red crown", f"bar {bad}")[: row % 3])
    for row in (1, 2, 3)
  )
  query = Query(0, 2, 0.5, near)
  drawn = {}
  if mapped:
    sheet = np.zeros((48, 768, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG")
    data = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    each = {"side": 48, "columns": 16, "per_sheet": 256, "sheets": [data] * (1 + count // 256)}
    angles = np.arange(count) * 2.4
    radius = np.sqrt(np.arange(count) / count)
    drawn = each | {
      **{"x": (radius * np.cos(angles)).tolist(), "y": (radius * np.sin(angles)).tolist()},
      **{"label": labels, "right": [k % 3 % 2 for k in range(count)]},
      **{"nearest_label": labels[::-1], "classes": [bad, "siskin"]},
      "ids": [f"{k}/{bad}" for k in range(count)],
    }
  return Page(
    result=RESULT,
    ids=[f"{k}/{bad}" for k in range(count)],
    labels=labels,
    class_names=(bad, "siskin"),
    intervals={"recall@1": (0.4, 0.6), "map@r": None},
    recalls={"this run": [(1.0, 0.5), (2.0, 0.75)], "chance": [(1.0, 0.05), (2.0, 0.1)]},
    spaced=[query],
    best=[query],
    worst=[query._replace(rank=0, precision=0.0)],
    classes=[ClassRow(0, 2, 0.25, 0.125, ((1, 3),)), ClassRow(1, 2, 1.0, 0.75, ())],
    pairs=[
      Pair((0, 1), (2, 1), (4, 5), (0, 1), (Apart(f"tail {bad}", (0.25, -0.5), -1.25),)),
      Pair((1, 0), (1, 0), (5, 4), (1, 0), ()),
    ],
    entries=[Entry(f"crown {bad}", (f"a crown {bad}",), ((bad, 0.625),), 3, (2, 3))],
    about_attributes="They are read.",
    map=drawn,
    about_map="By t-SNE.",
    picture=lambda row: np.full((run_page.TILE, run_page.TILE, 3), 60 * (row % 4), np.uint8),
    training=[Chart("training-0", "Loss", "training step", "loss, nats",
                    [Series("this run", [(1, 2.0), (2, 1.0)]), Series(bad, [(1, 3.0)])])],
  )  # fmt: skip


def document(page, compared=None):
  return run_page.document(page, compared, curves.section(page.training))


@pytest.fixture(scope="module")
def page():
  return Parsed(document(made()))


def test_texts_are_texts_and_nothing_is_asked_of_a_network(page):
  assert "b" in {tag for tag, _ in page.tags}  # of the headline alone
  assert [attrs for tag, attrs in page.tags if tag == "b"] == [{}] * 2
  assert {attrs.get("onerror") for _, attrs in page.tags} == {None}
  assert len(page.of("script", "type")) == 1 and not page.of("script", "src")
  for before in ("", "bar ", "tail ", "crown ", "a crown ", "0/"):
    assert f"{before}{BAD}" in page.text
  assert all(source.startswith("data:image/jpeg;base64,") for source in page.of("img", "src"))
  assert all(href.startswith("#") for href in page.of("a", "href")) and not page.of("link", "href")
  policy = page.of("meta", "content")[1]
  assert "default-src 'none'" in policy and "http" not in policy
  assert len(re.findall("'sha256-[^']+'", policy)) == 3


def test_figures_stand_beside_their_controls(page):
  text = " ".join(page.text.split())
  assert "R@1 50.0 %".replace(" ", "") in text.replace(" ", "")
  for said in ("95% interval40.0 to 60.0", "before training25.0", "chance5.0"):
    assert said in text
  for said in ("recall@125.050.05.040.0 to 60.0", "map@r12.525.02.5"):
    assert said in text
  assert "a partial copy of the dataset" in text and "1 image that could not be read" in text


def test_right_and_wrong_are_told_by_sign_word_and_line(page):
  kinds = [x for x in page.of("li", "class") if x in ("right", "wrong", "asked")]
  assert kinds == ["asked", "wrong", "right", "wrong"] * 3
  for said in ("1. \N{MULTIPLICATION SIGN} wrong", "2. \N{CHECK MARK} right"):
    assert page.text.count(said) == 3
  assert page.text.count("no shared attribute") == 3 and "0.700" in page.text
  assert "the first right image at place 2, AP@R\n50.0 %" in page.text
  assert "no right image among the first 3, AP@R\n0.0 %" in page.text
  style = frame.TEMPLATE[1].read_text()
  assert "dashed" in re.search(r"\.tiles \.wrong[^}]*}", style)[0]


def test_classes_pairs_and_attributes_have_their_numbers(page):
  text = " ".join(page.text.split())
  assert f"{BAD}225.012.5siskin 3" in text and "siskin2100.075.0none" in text
  assert f"2 of 4 queries of {BAD} and 1 of 5 queries of siskin find the other first." in text
  assert f"tail {BAD}0.25-0.50-1.2" in text
  assert "No attribute is read that tells them apart." in text
  assert f"3{BAD} 62 %" in text


def test_tables_and_charts_can_be_read_without_eyes(page):
  heads = [attrs for tag, attrs in page.tags if tag == "th"]
  assert heads and all(attrs["scope"] in ("row", "col") for attrs in heads)
  assert all(page.of("img", "alt"))
  labelled = {attrs["id"] for tag, attrs in page.tags if "id" in attrs}
  assert {*page.of("section", "aria-labelledby")} <= labelled
  assert {*page.of("label", "for")} <= labelled
  plots = [attrs for _, attrs in page.tags if attrs.get("class") == "plot"]
  assert len(plots) == 2
  assert all(attrs["role"] == "img" and " by " in attrs["aria-label"] for attrs in plots)
  assert [href[1:] for href in page.of("a", "href")][0] == "main"
  ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
  assert len(ids) == len({*ids})


def test_what_is_not_there_is_left_out():
  few = made(mapped=False)._replace(entries=[], pairs=[], best=[], intervals={}, training=[])
  page = Parsed(document(few))
  assert "map" not in page.of("div", "id") and not page.of("a", "data-label")
  assert "no shared attribute" not in page.text and "They are read." in page.text
  assert "95% interval" not in page.text and "No query finds another class first." in page.text


def data_of(text):
  return json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def test_the_script_has_the_numbers_of_charts_and_map():
  found = data_of(document(made()))
  recall, loss = found["charts"]
  assert recall["series"][0] == {"name": "this run", "x": [1, 2], "y": [50, 75]}
  assert loss["y"] == "loss, nats" and loss["series"][1]["name"] == BAD
  assert found["map"]["classes"] == [BAD, "siskin"] and len(found["map"]["x"]) == 4


def test_long_lines_are_thinned_from_end_to_end():
  points = [(k, k * k) for k in range(5001)]
  few = frame.thinned(points, 600)
  assert len(few) == 600 and few[0] == (0, 0) and few[-1] == (5000, 5000**2)
  assert max(b[0] - a[0] for a, b in itertools.pairwise(few)) <= 9
  assert frame.thinned(points[:3], 600) == points[:3] and frame.thinned([], 600) == []
  chart = Chart("a", "t", "step", "loss", [Series("one", points), Series("two", points[:1])])
  place = Parsed(frame.place_of(chart))
  assert len([tag for tag, _ in place.tags if tag == "tr"]) == 1 + frame.MOST_ROWS


def luminance(colour):
  parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
  linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
  return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_texts_and_lines_have_the_contrast_of_wcag():
  """4.5 to 1 for texts and 3 to 1 for lines of charts (WCAG 2.1, 1.4.3 and 1.4.11)."""
  style = frame.TEMPLATE[1].read_text()
  for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
    of = {k: v if len(v) == 7 else "#" + "".join(2 * x for x in v[1:])
          for k, v in re.findall(r"--([\w-]+): (#\w+)", block)}  # fmt: skip
    pairs = [(ink, on, 4.5) for ink in ("ink", "soft", "link", "right", "near", "wrong")
             for on in ("card", "ground")]  # fmt: skip
    pairs += [("ink", on, 4.5) for on in ("warn", "chosen", "hover")]
    pairs += [(f"s{k}", "card", 3) for k in range(6)] + [("other", "card", 3), ("bar", "card", 3)]
    for ink, on, least in pairs:
      a, b = sorted((luminance(of[ink]), luminance(of[on])))
      assert (b + 0.05) / (a + 0.05) >= least, (ink, on)


def colours(sheet, count):
  image = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
  return [int(image[k // 16 * 48 + 24, k % 16 * 48 + 24, 0]) for k in range(count)]


def test_thumbnails_lie_in_the_page_until_they_are_many(tmp_path):
  def shade(row):
    return np.full((48, 48, 3), row % 200, np.uint8)

  rows = list(range(3, 303))
  inside = thumbnails.written(str(tmp_path), rows, shade)
  assert inside["per_sheet"] == 256 and len(inside["sheets"]) == 2
  first, second = (base64.b64decode(sheet.partition(",")[2]) for sheet in inside["sheets"])
  np.testing.assert_allclose(colours(first, 256), [row % 200 for row in rows[:256]], atol=3)
  np.testing.assert_allclose(colours(second, 44), [row % 200 for row in rows[256:]], atol=3)
  assert not (tmp_path / "report_files").exists()
  beside = thumbnails.written(str(tmp_path), rows, shade, inline=1000)
  written = [(tmp_path / sheet).read_bytes() for sheet in beside["sheets"]]
  assert written == [first, second]
  # Those of an earlier page go; another file of the folder stays.
  (tmp_path / "report_files" / "notes.txt").write_text("mine")
  fewer = thumbnails.written(str(tmp_path), rows[:2], shade, inline=10)
  names = {path.name for path in (tmp_path / "report_files").iterdir()}
  assert names == {"notes.txt", fewer["sheets"][0].rpartition("/")[2]}


@pytest.fixture
def other(tmp_path):
  """`other(name, **changes)`: a workdir with an evaluation."""

  def make(name, **changes):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "evaluation.json").write_text(json.dumps(RESULT | changes))
    return str(tmp_path / name)

  return make


def test_other_runs_stand_beside_with_their_differences(other):
  runs = comparison.read((other("a/one", **{"recall@1": 0.375}), other("two <b>")), RESULT)
  assert [run.name for run in runs] == ["one", "two <b>"]
  change = comparison.Change("recall@1", {BAD: (0.25, 0.75), "siskin": (1.0, 0.5)}, (-0.1, 0.2))
  page = Parsed(comparison.section(RESULT, runs, [[change], []]).body)
  assert "recall@150.037.5+12.550.0+0.0" in page.text and "b" not in {tag for tag, _ in page.tags}
  assert "R@1: 1 of 2 classes gained, 1 lost." in page.text and "-10.0 to +20.0" in page.text
  assert f"{BAD}25.075.0\N{UPWARDS ARROW} +50.0" in page.text
  assert "siskin100.050.0\N{DOWNWARDS ARROW} -50.0" in page.text
  assert comparison.section(RESULT, []) is None


def test_runs_on_other_data_are_refused(other, tmp_path):
  for workdir, said in (
    (other("x", num_queries=5), "other data .num_queries: 5, here 4"),
    (other("y", split="val"), "split: val, here test"),
    (str(tmp_path / "none"), "no such folder"),
    (str(tmp_path), "does not exist: run --stage=evaluate first"),
  ):
    with pytest.raises(UserError, match=said):
      comparison.read((workdir,), RESULT)


def test_runs_of_one_name_are_told_apart():
  assert comparison.names_of(["a/run", "b/run/"]) == ["a/run", "b/run/"]
  assert comparison.names_of(["a/this run", "b"]) == ["another this run", "b"]
