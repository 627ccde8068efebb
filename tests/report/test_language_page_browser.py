"""language.html in a real headless browser: what a person finds, and that there is a map to see."""

import html
import io
import json
import re
import shutil
import subprocess
from urllib.parse import quote, unquote

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from lafg_jax.report import language_page

BROWSER = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
  *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
  *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
  *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1"),
)

pytestmark = pytest.mark.skipif(
  BROWSER is None, reason="needs chromium or google-chrome on PATH: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
  """(page, hash, picture or None) -> the document after its script ran."""
  profile = tmp_path_factory.mktemp("profile")

  def run(page, address="", picture=None, size="1280,1600"):
    wanted = "--dump-dom" if picture is None else f"--screenshot={picture}"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size}"]
    done = subprocess.run(
      [*command, wanted, f"file://{page}#{address}"], capture_output=True, text=True, timeout=1000
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  return run


@pytest.fixture
def finches(inspected):
  """(path of the page, what it holds)."""
  page = inspected / "language.html"
  return page, json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def rows(dom):
  """Names of the classes in the list, in order."""
  return [unquote(n) for n in re.findall(r'<a href="#class=([^"&]*)[^>]*role="option"', dom)]


def count(dom):
  return re.search(r'<p id="count"[^>]*>([^<]*)', dom)[1]


def block(dom, name):
  """The element of that id, up to the next one that has an id."""
  return re.search(rf'id="{name}"(.*?)(?= id="|$)', dom, re.DOTALL)[1]


def fractions(texts):
  """What percentages with one decimal stand for."""
  assert all(re.fullmatch(r"\d+\.\d%", text) for text in texts)
  return pytest.approx([float(text[:-1]) / 100 for text in texts], abs=5.1e-4)


def test_a_search_and_a_deep_link_show_exactly_that(finches, browse):
  page, data = finches
  words = ("rufous", "tail")
  chosen = data["classes"][17]
  dom = browse(page, f"class={quote(chosen['name'])}&search={quote(' '.join(words).upper())}")
  said = [row["descriptions"] for row in data["words"]]
  texts = {c["name"]: " ".join([c["name"], *said[c["words"]]]).lower() for c in data["classes"]}
  expected = {name for name, text in texts.items() if all(word in text for word in words)}
  assert set(rows(dom)) == expected and len(rows(dom)) == len(expected)
  assert 0 < len(expected) < len(texts) and count(dom) == f"{len(expected)} of 32 classes"
  assert html.escape(chosen["name"]) in re.search(r"<article.*?</h2>", dom, re.DOTALL)[0]
  attends = re.findall(r"<li>.*?<span>([\d.]+%)</span>.*?>#(\d+)<", block(dom, "attends"))
  assert [int(n) for _, n in attends] == [n for n, _ in chosen["attributes"]]
  assert [weight for _, weight in chosen["attributes"]] == fractions([text for text, _ in attends])
  assert len(re.findall("<li>", block(dom, "descriptions"))) == len(said[chosen["words"]])
  near = re.findall(r'<li data-class="([^"]*)">(.*?)</li>', block(dom, "near"))
  assert [name for name, _ in near] == [data["classes"][k]["name"] for k, _, _ in chosen["nearest"]]
  for (_, found), (k, _, shared) in zip(near, chosen["nearest"], strict=True):
    table = re.findall(r'<tr data-attribute="(\d+)">.*?<td>(.*?)</td><td>(.*?)</td></tr>', found)
    this, that = dict(chosen["attributes"]), dict(data["classes"][k]["attributes"])
    assert [int(n) for n, _, _ in table] == shared
    assert [this[n] for n in shared] == fractions([text for _, text, _ in table])
    assert [that[n] for n in shared] == fractions([text for _, _, text in table])
  tiles = block(dom, "tiles")
  assert "<dd>32</dd>" in tiles and f"<dd>{data['stats']['num_sentences']}</dd>" in tiles
  assert re.search(r'<p id="warning"[^>]* hidden', dom)


def test_an_attribute_shows_who_attends_to_it(finches, browse):
  page, data = finches
  by_use = [
    [(c["name"], weight) for c in data["classes"] for m, weight in c["attributes"] if m == n]
    for n in range(64)
  ]
  n = max(range(64), key=lambda n: len(by_use[n]))
  dom = browse(page, f"attribute={n}")
  found = re.findall(r'<li data-class="(.*?)">.*?<span>([\d.]+%)</span>', block(dom, "users"))
  expected = sorted(by_use[n], key=lambda pair: -pair[1])
  assert [weight for _, weight in expected] == fractions([text for _, text in found])
  assert {name for name, _ in found} == {name for name, _ in expected}
  assert count(dom) == "64 attributes"
  for sentence in data["attributes"][n]["sentences"]:
    assert html.escape(sentence, quote=False) in block(dom, "sentences")


def large(count, names):
  """A page of `count` classes that no arrays stand behind."""
  classes = [
    {
      "name": names.get(i, f"product {i}"),
      "split": "",
      "words": i,
      "attributes": [[0, 1.0]],
      "nearest": [[(i + 1) % count, 0.5, [0]]],
      "at": [i % 101, i % 89],
    }
    for i in range(count)
  ]
  spread = {"min": 1, "median": 1.0, "max": 1}
  stats = {
    **{"num_classes": count, "num_sentences": count, "num_attributes": 1, "top_k": 1},
    **{"tau_k": 1, "dropped_sentences": 0, "classes_per_attribute": spread},
    "effective_attributes": {"mean": 1.0},
    "pairwise_cosine": {"raw": None, "centred": None},
  }
  return {
    **{
      "name": "products",
      "encoder": "/some/where/model",
      "covers_all": True,
      "stats": stats,
      "note": "Of names.",
    },
    **{"figures": {}, "sources": ["file:x"], "classes": classes},
    "words": [
      {"name": c["name"], "descriptions": [names.get(i, f"has part {i % 97}")], "own": [0]}
      for i, c in enumerate(classes)
    ],
    "variance": {"prototypes": [0.5, 0.25], "attributes": [0, 0]},
    "attributes": [{"sentences": list(names.values())[:5], "size": count, "at": [0, 0]}],
  }


def test_eleven_thousand_classes_with_hostile_names_stay_few_rows_and_plain_text(tmp_path, browse):
  bad = '</script><img src=x onerror="document.body.innerHTML=1"><b>${1}</b> 100% a&b=c+d'
  page = tmp_path / "page.html"
  page.write_text(language_page.document(large(11_000, {5: bad, 10_999: "__proto__"})))
  dom = browse(page, f"class={quote(bad, safe='')}")
  assert count(dom) == "11,000 classes" and 10 < len(rows(dom)) < 100
  assert dom.count("<") < 1500 and "<img" not in re.sub(r'"[^"]*"', "", dom)
  assert html.escape(bad, quote=False) in re.search(r"<article.*?</h2>", dom, re.DOTALL)[0]
  assert not re.search(r'<p id="warning"[^>]* hidden', dom) and "training must not see" in dom
  assert "are unchanged. Of names.</p>" in dom
  assert "/some/where" not in block(dom, "about") and "where/model" in block(dom, "about")
  assert len(re.findall("data-class", block(dom, "near"))) == 1
  dom = browse(page, "search=__PROTO__")
  assert rows(dom) == ["__proto__"] and count(dom) == "1 of 11,000 classes"


def test_the_screenshot_shows_the_page_and_its_map(finches, browse, tmp_path):
  page, data = finches
  browse(page, f"class={quote(data['classes'][3]['name'])}", picture=tmp_path / "shot.png")
  pixels = np.asarray(Image.open(io.BytesIO((tmp_path / "shot.png").read_bytes())).convert("RGB"))
  assert pixels.shape == (1600, 1280, 3)
  # Right of the list and below the legend: the canvas, whatever the fonts' height.
  area = pixels[260:600, 420:1240].astype(int)
  red, _, blue = np.moveaxis(area, -1, 0)
  for kind, coloured in (("class", blue - red > 50), ("attribute", red - blue > 50)):
    places, _ = ndimage.label(coloured)
    sizes = np.bincount(places.ravel())[1:]
    assert np.sum(sizes > 12) > 10, kind
  assert coloured.mean() < 0.2 and np.ptp(np.nonzero(blue - red > 50)[1]) > 400
