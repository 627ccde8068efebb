"""Draws the picture of docs/guide/demo.md: the demo on the gallery of `make demo`, in Chromium.

  python experiments/draw_demo.py --gallery=runs/demo/finches.db --image=FILE.png

It starts the demo, sends it an image, asks why the second hit matched, and takes a picture of what
the window shows. Needs chromium on PATH.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import headless
from absl import app, flags
from PIL import Image

_GALLERY = flags.DEFINE_string("gallery", "runs/demo/finches.db", "The gallery.")
_IMAGE = flags.DEFINE_string("image", None, "The query; without one, --text asks.")
_TEXT = flags.DEFINE_string("text", None, "Words of the query.")
_WHY = flags.DEFINE_integer("why", 2, "The hit that is explained; 0 for none.")
_OUT = flags.DEFINE_string("out", "docs/images/demo.png", "PNG to write.")
_HEIGHT = flags.DEFINE_integer("height", 1000, "Of the window, in pixels; it is 1,280 wide.")


def main(unused: list[str]) -> None:
  del unused
  command = [sys.executable, "-m", "lafg_jax.demo", f"--gallery={_GALLERY.value}", "--port=0"]
  with (
    tempfile.TemporaryDirectory() as profile,
    subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
  ):
    try:
      assert process.stdout
      found = re.search(r"http://\S+", process.stdout.readline())
      assert found, "the demo did not start"
      with headless.Page(Path(profile), (1280, _HEIGHT.value)) as page:
        _walk(page, found[0])
        page.picture(_OUT.value)
    finally:
      process.terminate()
  with Image.open(_OUT.value) as picture:
    picture.convert("RGB").quantize(192).save(_OUT.value, optimize=True)
  print(f"{_OUT.value}: {os.path.getsize(_OUT.value) / 1000:.0f} KB")


def _walk(page: headless.Page, url: str) -> None:
  page.open(url)
  page.wait("document.querySelector('input[type=file]')")
  if _TEXT.value:
    page.type("textarea", _TEXT.value)
    page.press("Enter", 13)
    page.wait("document.querySelector('.lafg-hit')")
  if _IMAGE.value:
    page.upload("input[type=file]", os.path.abspath(_IMAGE.value))
    page.wait("document.querySelector('.lafg-query') && document.querySelector('.lafg-hit')")
  if _WHY.value:
    page.click(f".lafg-hit:nth-child({_WHY.value}) .lafg-why")
    page.wait("document.querySelector('#why .lafg-pair')")


if __name__ == "__main__":
  app.run(main)
