"""The demo end to end: the command, its page in headless Chromium, and no network.

One page is walked through by each test from its start. Names in the gallery are hostile on purpose.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

import lafg_jax
from experiments import headless
from lafg_jax.demo_page import uploads
from lafg_jax.gallery import building, sources
from lafg_jax.gallery import model as models

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ROOT / "tests/gallery/hostile.py"
TAG = "<img src=x onerror=document.title='harmed'>"
LIMIT = 100_000
pytestmark = [
  pytest.mark.long,
  pytest.mark.skipif(headless.BROWSER is None, reason="needs chromium: apt-get install chromium"),
  pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs gradio"),
]


@pytest.fixture(scope="module")
def birds(tmp_path_factory, dataset):
  """Finches in folders of their classes, and a table with a column; some names mean harm."""
  folder = tmp_path_factory.mktemp("birds")
  rows = ["path,class,note"]
  for row in range(0, len(dataset.images), 40):
    name = dataset.class_names[dataset.labels[row]]
    (folder / name).mkdir(exist_ok=True)
    Image.fromarray(dataset.images[row]).save(folder / name / f"{row}.png")
    rows.append(f"{name}/{row}.png,{name},{row}")
  for number, name in enumerate((f"{TAG}.png", "{{7*7}}${7*7}.png", "' onload='x.png")):
    shutil.copy(folder / rows[1].split(",")[0], folder / name)
    label = ("<b>${document.title='harmed'}</b>", "{{value}}", TAG)[number]
    rows.append(f"{name},{label},-1")
  (folder / "images.csv").write_text("\n".join(rows) + "\n")
  return folder


@pytest.fixture(scope="module")
def gallery(birds, text_model, tmp_path_factory):
  place = str(tmp_path_factory.mktemp("gallery") / "g.db")
  building.build(place, models.read(str(text_model)), sources.read(str(birds / "images.csv")))
  return place


def start(gallery, *flags):
  """The process of the demo, and the address that it prints."""
  # Of a user whose settings and proxies mean the opposite.
  wrong = {"GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}
  wrong |= {"GRADIO_SERVER_NAME": "0.0.0.0", "HTTP_PROXY": "http://192.0.2.1:1"}
  process = subprocess.Popen(
    [sys.executable, "-m", "lafg_jax.demo", f"--gallery={gallery}", "--port=0", *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=ROOT,
    env=os.environ | wrong | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    text=True,
  )
  line = process.stdout.readline()
  assert line.startswith("Open http://127.0.0.1:"), process.communicate()[1]
  return process, re.search(r"http://127\.0\.0\.1:\d+", line)[0]


@pytest.fixture(scope="module")
def url(gallery):
  process, address = start(gallery, f"--max_megabytes={LIMIT / 1e6}", "--max_megapixels=1")
  yield address
  process.terminate()
  assert process.wait(30) == 75


@pytest.fixture
def page(url, tmp_path):
  """The opened page; at its end it has asked this machine alone, and reported no error."""
  with headless.Page(tmp_path) as page:
    page.open(url)
    page.wait("document.querySelector('#hits') && document.querySelector('input[type=file]')")
    yield page
    here = (f"{url}/", "data:", "blob:")
    assert [x for x in page.requests if not x.startswith(here)] == []
    assert page.errors == []
    assert page.run("document.title") == "Search g.db"


def hits(page):
  return page.run("[...document.querySelectorAll('.lafg-hit')].map((x) => x.innerText)")


def text_of(page, name):
  return page.run(f"document.querySelector('#{name}').innerText")


def waited(page, name, wanted):
  page.wait(f"document.querySelector('#{name}').innerText.includes({json.dumps(wanted)})")


FIELD = "[...document.querySelectorAll('textarea, input')]"


def field(page, label):
  """Marks the field with a label, and returns its selector."""
  name = re.sub(r"\W", "", label).lower()
  found = page.run(
    f"{FIELD}.filter((x) => (x.closest('label') || x.closest('.block') || x).innerText"
    f".startsWith({json.dumps(label)}))[0]?.setAttribute('data-test', '{name}') ?? 'done'"
  )
  assert found == "done"
  return f"[data-test={name}]"


def search(page):
  page.run("[...document.querySelectorAll('button')].find((x) => x.innerText === 'Search').click()")


def anew(page):
  """Nothing is asked any more."""
  page.run(
    "[...document.querySelectorAll('button')].find((x) => x.innerText === 'Start anew').click()"
  )
  page.wait("document.querySelector('#news').innerText === ''")
  page.wait("document.querySelector('input[type=file]')")


def test_an_image_a_click_words_and_filters(page, birds):
  first = next(p for p in sorted(birds.rglob("*.png")) if p.parent != birds)
  page.upload("input[type=file]", first)
  waited(page, "news", "20 nearest, by image")
  found = hits(page)
  # Itself and its copies, whose names are shown as they are.
  assert found[0].startswith("1: 1.000") and len(found) == 20
  shown = "\n".join(found)
  assert "{{7*7}}${7*7}.png" in shown and TAG in shown and "{{value}}" in shown
  page.click(".lafg-hit:nth-child(6) .lafg-why")
  waited(page, "why", "Why this one?")
  page.click(".lafg-hit:nth-child(6) .lafg-on")
  name = next(line for line in found[5].splitlines() if line.endswith(".png"))
  waited(page, "query", f"Query: {name}")
  assert hits(page)[0].startswith("1: 1.000") and name in hits(page)[0]

  page.type(field(page, "Words"), "a bird with a blue body")
  page.press("Enter", 13)
  waited(page, "news", "by image and text")
  anew(page)
  page.type(field(page, "Words"), "a bird with a blue body")
  search(page)
  page.wait("document.querySelector('.lafg-hit')")
  # The floor of texts decides which.
  assert "by text" in text_of(page, "news") or "nothing similar" in text_of(page, "news")

  page.type(field(page, "Filter"), "note < 0")
  search(page)
  page.wait("document.querySelectorAll('.lafg-hit').length === 3")
  page.type(field(page, "Filter"), "nota < 0")
  search(page)
  waited(page, "news", "did you mean note?")
  page.type(field(page, "Filter"), "")
  # The list of classes.
  label = first.parent.name
  page.type(field(page, "Class"), label)
  page.press("Enter", 13)
  search(page)
  # The hits of the question before stand there until the answer comes.
  page.wait(
    "[...document.querySelectorAll('.lafg-hit')].length > 0 && "
    f"[...document.querySelectorAll('.lafg-hit')].every(x => x.innerText.includes({label!r}))"
  )
  assert all(label in hit for hit in hits(page))


def test_hostile_uploads_are_refused_one_by_one(page, tmp_path):
  spec = importlib.util.spec_from_file_location("hostile", HOSTILE)
  hostile = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(hostile)
  files = [p for p in hostile.uploads(tmp_path / "hostile") if os.path.getsize(p) < LIMIT]
  assert len(files) > 20
  for path in files:
    page.upload("input[type=file]", path)
    waited(page, "news", "the upload ")
    assert "\n" not in text_of(page, "news") and hits(page) == []
    anew(page)


def test_too_many_bytes_or_pixels_are_refused(page, tmp_path):
  Image.new("RGB", (2000, 600)).save(tmp_path / "wide.png")
  page.upload("input[type=file]", tmp_path / "wide.png")
  waited(page, "news", "2,000 x 600 pixels, and 1,000,000 in all are allowed")
  assert uploads.Limits().pixels > 1_000_000


def asked(url, path, **more):
  try:
    with urllib.request.urlopen(urllib.request.Request(url + path, **more), timeout=120) as found:
      return found.status, found.read()
  except urllib.error.HTTPError as error:
    return error.code, error.read()


def test_nothing_but_the_page_is_served(url, birds, gallery):
  assert asked(url, "/")[0] == 200
  first = next(birds.rglob("*.png"))
  for path in (first, f"{gallery}/LOCK", "/etc/passwd", ROOT / "README.md", "http://127.0.0.1:1/"):
    for route in (
      "/gradio_api/file=",
      "/file=",
      "/gradio_api/file/",
      "/gradio_api/proxy=",
      "/static/",
    ):
      status, content = asked(url, f"{route}{urllib.request.quote(str(path))}")
      assert status in (403, 404) and b"root:" not in content and b"lafg_jax" not in content
  for path in ("/gradio_api/info", "/docs", "/openapi.json", "/gradio_api/startup-events", "/runs"):
    assert asked(url, path)[0] == 404
  assert asked(url, "/", headers={"Host": "evil.example"})[0] == 403
  assert asked(url, "/gradio_api/upload", data=bytes(LIMIT * 3), method="POST")[0] == 413
  # An event that names a file or address as its upload gets neither.
  config = json.loads(asked(url, "/config")[1])
  given = next(x for x in config["dependencies"] if ["upload"] == [t[1] for t in x["targets"]])
  for path in ("/etc/passwd", str(first), "http://192.0.2.1/x.png"):
    file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
    event = {
      "data": [file, "", "any class", "", 5, ""],
      "fn_index": given["id"],
      "session_hash": "a1",
    }
    asked(
      url,
      "/gradio_api/queue/join",
      data=json.dumps(event).encode(),
      headers={"Content-Type": "application/json"},
    )
    status, said = asked(url, "/gradio_api/queue/data?session_hash=a1")
    assert status == 200 and b'"success":false' in said and b"lafg-hit" not in said


def test_a_model_of_class_retrieval_is_not_asked_for_words(birds, trained_run, tmp_path):
  place = str(tmp_path / "g.db")
  building.build(place, models.read(str(trained_run)), sources.read(str(birds / "images.csv")))
  process, address = start(place)
  try:
    with headless.Page(tmp_path / "profile") as page:
      page.open(address)
      page.wait("document.querySelector('input[type=file]')")
      assert "reads no words" in page.run("document.body.innerText")
      shown = page.run("document.body.innerText")
      assert "Words" not in shown and "What you look for" not in shown
      page.upload("input[type=file]", next(birds.rglob("*.png")))
      waited(page, "news", "nearest, by image")
      assert page.errors == []
    # Another process has it open.
    command = [sys.executable, "-m", "lafg_jax.search", "info", f"--gallery={place}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "another process has it open" in done.stderr
    # A port that is taken.
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "lafg_jax.demo", f"--gallery={place}", f"--port={port}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "--port=0 takes a free one" in done.stderr
    assert done.stderr.count("\n") == 1
  finally:
    process.terminate()
    began = time.monotonic()
    process.wait(30)
  assert time.monotonic() - began < 10


def test_a_model_that_composes_reads_an_image_words_and_a_description(
  birds, composed_model, tmp_path
):
  place, asked_for = str(tmp_path / "g.db"), "What you look for"
  building.build(place, models.read(str(composed_model)), sources.read(str(birds / "images.csv")))
  photos = sorted(str(p) for p in birds.rglob("*.png"))
  first = next(p for p in photos if Path(p).parent != birds)
  retriever = lafg_jax.load_retriever(str(composed_model))
  gallery = retriever.embed(photos)

  def nearest(**query):
    scores, _ = retriever.search(gallery=gallery, k=20, **query)
    return [f"{place + 1}: {score:.3f}" for place, score in enumerate(scores[0])]

  def scores(page):
    return [hit.splitlines()[0] for hit in hits(page)]

  process, address = start(place)
  try:
    with headless.Page(tmp_path / "profile") as page:
      page.open(address)
      page.wait("document.querySelector('input[type=file]')")
      said = page.run("document.body.innerText")
      assert 'go on "a photo of this that ..."' in said and "weight 0.5 of 1" in said
      assert "baseline" not in said
      page.upload("input[type=file]", first)
      waited(page, "news", "nearest, by image")
      page.type(field(page, "Words"), "has a red crown")
      page.press("Enter", 13)
      waited(page, "news", "by image and text")
      assert scores(page) == nearest(image=first, text="has a red crown")
      without = scores(page)
      page.type(field(page, asked_for), "a finch with a red crown")
      page.press("Enter", 13)
      wanted = nearest(image=first, text="has a red crown", edited="a finch with a red crown")
      assert wanted != without
      page.wait(f"document.querySelector('.lafg-score').innerText === {wanted[0]!r}")
      assert scores(page) == wanted
      page.click(".lafg-hit:nth-child(2) .lafg-why")
      waited(page, "why", "the words of the query are no part of it")
      # What is searched on with has no words.
      page.click(".lafg-hit:nth-child(2) .lafg-on")
      waited(page, "news", "nearest, by image")
      page.wait("document.querySelector('.lafg-score').innerText === '1: 1.000'")
      assert "by image and text" not in text_of(page, "news")
      anew(page)
      page.type(field(page, asked_for), "a finch with a red crown")
      search(page)
      waited(page, "news", "nothing asked")
      page.type(field(page, "Words"), "has a red crown")
      search(page)
      waited(page, "news", "what you look for is said beside an image and words")
      assert page.errors == []
  finally:
    process.terminate()
    process.wait(30)
