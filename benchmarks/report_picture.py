"""docs/images/report.png: the top of a run's report.html, as a headless Chromium shows it.

  python benchmarks/report_picture.py --workdir=runs/demo

It takes a finished run of configs/synthetic.py (`make demo`), and chromium on PATH.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "report.png"
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
  *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
  *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
  *("--force-device-scale-factor=1", "--virtual-time-budget=20000"),
)


def main() -> None:
  """Takes the picture."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", default="runs/demo")
  parser.add_argument("--out", type=Path, default=OUT)
  parser.add_argument("--size", default="1280,1760")
  args = parser.parse_args()
  page = Path(args.workdir, "report.html").resolve()
  browser = next(filter(None, map(shutil.which, NAMES)), None)
  if browser is None or not page.is_file():
    sys.exit(f"needs chromium on PATH, and {page}: run make demo first")
  with tempfile.TemporaryDirectory() as folder:
    shot = Path(folder, "shot.png")
    command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={args.size}"]
    subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True)
    # 128 colours are enough for a page, and a third of the bytes.
    picture = Image.open(shot).convert("RGB").quantize(128, dither=Image.Dither.NONE)
  picture.save(args.out, optimize=True)
  print(f"{args.out}: {picture.size[0]} x {picture.size[1]}, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
  main()
