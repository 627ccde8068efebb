"""Answers as table, JSON and page: every name and cell is harmless."""

import html.parser
import json

from PIL import Image

from lafg_jax.gallery import sheet, store
from lafg_jax.gallery.searching import Answer
from lafg_jax.gallery.store import Gallery, Hit

NASTY = "<script>alert('x')</script>\"&\n\x1b[31m{{BODY}}"


class Tags(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.tags, self.text, self.links = [], "", []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [x for name, x in attrs if name in ("src", "href")]
    assert not any(name.startswith("on") for name, _ in attrs)

  def handle_data(self, data):
    self.text += data


def answer(folder, floor=0.5):
  Image.new("RGB", (600, 300), "red").save(folder / "<b>'\".png")
  hits = [
    Hit(str(folder / "<b>'\".png"), 0.75, NASTY, {"note": NASTY, "n": 3}),
    Hit(f"/gone/{NASTY}.jpg", 0.25, "", {}),
  ]
  return Answer(hits, floor, "text")


def test_the_page_has_no_tag_of_a_name_and_asks_for_nothing_elsewhere(tmp_path):
  page = sheet.page(answer(tmp_path), [f"text: {NASTY}"], str(tmp_path / "none.png"))
  found = Tags()
  found.feed(page)
  assert "script" not in found.tags and found.tags.count("img") == 1
  assert all(link.startswith("data:image/jpeg;base64,") for link in found.links)
  assert found.text.count(NASTY) == 4 and "cannot be read any more" in found.text
  assert "(below the floor)" in found.text and "nothing similar" not in found.text


def test_the_table_is_a_line_a_hit_and_marks_what_is_far(tmp_path):
  lines = sheet.table(answer(tmp_path)).splitlines()
  assert len(lines) == 3 and "\x1b" not in "".join(lines)
  assert lines[1].startswith("1 ") and "n=3" in lines[1] and lines[2].startswith("2- ")
  far = sheet.table(answer(tmp_path, 0.9)).splitlines()[-1]
  assert far.startswith("nothing similar: the best score is 0.750, and the floor of such a query")
  assert far.endswith(" in this gallery is 0.900")
  assert sheet.verdict(answer(tmp_path, None)) == ""
  assert "nothing found" in sheet.table(Answer([], 0.5, "text"))


def test_json_has_every_cell_as_it_is(tmp_path):
  facts = store.Facts("id", "task", 8, 1, "/m", "newest", "FLAT")
  found = json.loads(sheet.as_json(answer(tmp_path, 0.9), Gallery(None, "g.db", facts)))
  assert found["nothing_similar"] and found["floor"] == 0.9 and found["model"] == "id"
  assert found["hits"][0]["metadata"] == {"note": NASTY, "n": 3}
  assert [hit["similar"] for hit in found["hits"]] == [False, False]
