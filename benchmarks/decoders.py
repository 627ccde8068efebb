"""Would another JPEG decoder make the input pipeline faster? From a file's bytes to a crop.

  pip install simplejpeg opencv-python-headless
  python benchmarks/decoders.py

Milliseconds of processor time for an image, read from memory, to a random resized crop of 224 px.
Decoders take turns; the ratio is taken turn by turn. All crop and resize by Pillow, as the pipeline
does; those that are not installed are left out.
"""

import importlib.util
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from input_pipeline import photograph
from PIL import Image

from lafg_jax.data import decoders, images

ROUNDS = 9


def by_simplejpeg(content: bytes) -> Image.Image:
  import simplejpeg

  return Image.fromarray(simplejpeg.decode_jpeg(content, "RGB"))


def by_opencv(content: bytes) -> Image.Image:
  import cv2

  cv2.setNumThreads(1)
  pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
  return Image.fromarray(pixels)


def milliseconds(contents: list[bytes], open_: Callable[[bytes], Any]) -> float:
  rng = np.random.default_rng(0)
  begun = time.thread_time()
  for content in contents:
    images.random_resized_crop(open_(content), rng, 224)
  return 1000 * (time.thread_time() - begun) / len(contents)


def encoded(seed: int, width: int, height: int) -> bytes:
  buffer = io.BytesIO()
  photograph(seed, width, height).save(buffer, "JPEG", quality=90)
  return buffer.getvalue()


def main() -> None:
  openers: dict[str, Callable[[bytes], Any]] = {
    "Pillow, whole": decoders.opener(scaled=False),
    "Pillow, scaled": decoders.opener(scaled=True),
  }
  if importlib.util.find_spec("simplejpeg"):
    openers["simplejpeg, whole"] = by_simplejpeg
  if importlib.util.find_spec("cv2"):
    openers["OpenCV, whole"] = by_opencv
  print("| image | decoder | ms | speed, of Pillow whole |\n|---|---|---|---|")
  for width, height, count in ((500, 375, 48), (1024, 768, 16), (2048, 1536, 8)):
    contents = [encoded(seed, width, height) for seed in range(count)]
    times: dict[str, list[float]] = {name: [] for name in openers}
    for _ in range(ROUNDS):
      for name, open_ in openers.items():
        times[name].append(milliseconds(contents, open_))
    for name, values in times.items():
      ratios = [a / b for a, b in zip(times["Pillow, whole"], values, strict=True)]
      print(
        f"| {width} x {height} | {name} | {statistics.median(values):.2f} | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
        flush=True,
      )


if __name__ == "__main__":
  main()
