"""Draws what the other scripts kept in results/, as log-log plots for the site.

  python benchmarks/plots.py [--to docs/images]

scaling.svg: seconds over image size, batch, devices and gallery (scaling.py). search.svg: seconds
and memory of a search over the size of the gallery (knn.py --size million). evaluation.svg:
seconds of an evaluation over the size of the set, beside the peers (knn.py, --size cub and sop). A
plot whose results are absent is left out, with a line.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import side_by_side

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import ticker  # noqa: E402

# Words stay words, so that files are small; equal results give equal files.
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "lafg_jax", "font.size": 9}
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def read(name: str) -> dict[str, Any] | None:
  path = side_by_side.RESULTS / f"{name}.json"
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def draw(ax: Any, line: Mapping[str, float], x: str, y: str, name: str | None = None) -> None:
  """One line over the numbers that are the keys of `line`."""
  places = [int(key) for key in line]
  ax.loglog(places, list(line.values()), marker="o", label=name)
  ax.set(xlabel=x, ylabel=y)
  ax.set_xticks(places, [short(place) for place in places])
  ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda at, _: f"{at:,.5g}"))
  ax.minorticks_off()
  # Less than a decade would show noise as growth.
  low, high = ax.get_ylim()
  if (missing := 10 * low / high) > 1:
    ax.set_ylim(low / missing**0.5, high * missing**0.5)
  ax.grid(alpha=0.3)


def short(n: int) -> str:
  return f"{n // 1_000_000}M" if n >= 1_000_000 else f"{n // 1000}k" if n >= 10_000 else str(n)


def canvas(panels: int, width: float = 3.0) -> tuple[Any, Any]:
  return plt.subplots(1, panels, figsize=(width * panels, 2.8), layout="constrained", squeeze=False)


def scaling() -> Any:
  if (found := read("scaling")) is None:
    return None
  lines = found["seconds"]
  figure, axes = canvas(len(lines), 2.7)
  for ax, (title, line) in zip(axes[0], lines.items(), strict=True):
    draw(ax, line, title, "seconds")
  return figure


def search() -> Any:
  if (found := read("knn-million")) is None:
    return None
  figure, axes = canvas(2, 3.6)
  seconds = {count: min(x) for count, x in found["seconds"].items()}
  draw(axes[0][0], seconds, "rows of the gallery", "seconds, 10,000 queries")
  draw(axes[0][1], found["MiB"], "rows of the gallery", "MiB beside the embeddings")
  return figure


def evaluation() -> Any:
  sets = [x for x in (read("knn-cub"), read("knn-sop")) if x is not None]
  if len(sets) < 2:
    return None
  figure, axes = canvas(1, 5)
  for job in sets[0]["seconds"]:
    kept = {str(x["rows"]): statistics.median(x["seconds"][job]) for x in sets}
    draw(axes[0][0], kept, "rows of the set", "seconds", job)
  axes[0][0].legend(fontsize=7)
  return figure


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", type=Path, default=IMAGES)
  args = parser.parse_args()
  args.to.mkdir(parents=True, exist_ok=True)
  for plot in (scaling, search, evaluation):
    if (figure := plot()) is None:
      print(f"{plot.__name__}.svg is left out: its results are not there")
      continue
    path = args.to / f"{plot.__name__}.svg"
    figure.savefig(path, metadata={"Date": None})
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
  main()
