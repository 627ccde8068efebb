"""The data stage as a command, on a small tree in the layout of Stanford Online Products."""

import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafg_jax.report import data_page
from lafg_jax.tasks.class_retrieval import default

ROOT = Path(__file__).resolve().parents[2]


def photograph(seed):
  coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 9, 3), np.uint8))
  return coarse.resize((90, 70), Image.Resampling.BICUBIC)


@pytest.fixture
def products(tmp_path):
  folder = tmp_path / "<data> & more"
  (folder / "chair_final").mkdir(parents=True)
  for split, first in (("train", 1), ("test", 4)):
    lines = ["image_id class_id super_class_id path"]
    for item in range(first, first + 3):
      for k in range(2):
        path = f"chair_final/{item}_{k}.JPG"
        photograph(10 * item + k).save(folder / path, "JPEG")
        lines.append(f"{len(lines)} {item} 1 {path}")
    (folder / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")
  # Item 5 is sold twice; one picture is half there.
  Image.open(folder / "chair_final/2_0.JPG").save(folder / "chair_final/5_1.JPG", quality=50)
  whole = (folder / "chair_final/6_1.JPG").read_bytes()
  (folder / "chair_final/6_1.JPG").write_bytes(whole[: len(whole) // 2])
  return folder


class Page(html.parser.HTMLParser):
  """Text and addresses of a page; fails on tags that do not match."""

  def __init__(self):
    super().__init__()
    self.text, self.sources, self.open = "", [], []

  def handle_starttag(self, tag, attrs):
    if tag not in ("meta", "img", "br", "rect", "polyline"):
      self.open.append(tag)
    self.sources += [value for name, value in attrs if name in ("src", "href")]

  def handle_startendtag(self, tag, attrs):
    del tag, attrs

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def run(products, workdir, *args):
  command = [sys.executable, "-m", "lafg_jax.main", "--config", "configs/cars.py", "--stage=data"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  return subprocess.run(
    [*command, "--config.data.name=sop", f"--config.data.root={products}",
     f"--workdir={workdir}", *args],
    cwd=ROOT, env=environment, capture_output=True, text=True,
  )  # fmt: skip


def test_the_stage_prints_what_it_finds_and_writes_its_page(products, tmp_path):
  workdir = tmp_path / "run"
  done = run(products, workdir, "--config.data.expect_counts=False")
  assert done.returncode == 0, done.stderr
  assert "1 image cannot be read, such as chair_final/6_1.JPG" in done.stdout
  assert "2 images with a near duplicate in another split" in done.stdout
  findings = json.loads((workdir / "data.json").read_text())
  assert findings["splits"]["train"]["images"] == findings["splits"]["test"]["images"] == 6
  (pair,) = findings["near_duplicates"]["across_splits"]["pairs"]
  assert {each["image"] for each in pair["images"]} == {
    "chair_final/2_0.JPG",
    "chair_final/5_1.JPG",
  }

  page = Page()
  page.feed((workdir / "data.html").read_text())
  assert not page.open
  assert str(products) in page.text and "chair_final/6_1.JPG" in page.text
  assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
  # The contact sheet and the pair.
  assert len(page.sources) == 2

  sheet = Image.open(workdir / "data.png")
  line = data_page.TILE + 24
  assert sheet.size[1] == 6 * line + 4
  # Of two images a line, the third place is empty.
  first, third = (sheet.getpixel((4 + k * 108 + 50, 24 + 50)) for k in (0, 2))
  assert third == (255, 255, 255) != first


def test_wrong_counts_are_one_line(products, tmp_path):
  done = run(products, tmp_path / "run")
  assert done.returncode == 2 and "expect_counts=False" in done.stderr.splitlines()[-1]


def test_bars_are_as_high_as_their_counts():
  svg = data_page.bars({"counts": [1, 4, 0], "first": 7, "step": 2}, "some")
  heights = [float(x) for x in re.findall(r'<rect[^>]* height="([\d.]+)"', svg)]
  assert heights == [25, 100, 0] and "highest bar 4" in svg
  assert ">7<" in svg and ">12<" in svg
  assert data_page.bars({"counts": [], "first": 0, "step": 1}, "none") == ""


@pytest.mark.parametrize("root", [False, True])
def test_the_page_says_which_manifest_it_read(products, tmp_path, root):
  config = default.get_config()
  file = (tmp_path if root else products) / "list & more.csv"
  file.write_text("path,class\nchair_final/1_0.JPG,a\nchair_final/3_0.JPG,b\n")
  config.data.name, config.data.manifest = "manifest", str(file)
  config.data.root = str(products) if root else ""
  data_page.run(config, str(tmp_path))
  page = Page()
  page.feed((tmp_path / "data.html").read_text())
  shown = f"{file}; {products}; 2 JPEG RGB" if root else f"{file}; 2 JPEG RGB"
  assert shown in page.text and "in memory" not in page.text
  findings = json.loads((tmp_path / "data.json").read_text())
  assert findings["source"] == str(file) and findings["root"] == config.data.root
