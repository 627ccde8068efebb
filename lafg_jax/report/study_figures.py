"""Figures of the study as SVG files: means with their intervals, and sweeps. By matplotlib."""

import io
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from lafg_jax.evaluate.results import percent
from lafg_jax.report.study_tables import Labels, label, title

# Drawn in these; ink then becomes the colour of the text around, light or dark. The others are of
# Okabe and Ito's palette, which the colour-blind tell apart, and readable on white and black.
_INK, _BLUE, _ORANGE = "#123456", "#0072b2", "#d55e00"
_LINES = (_BLUE, _ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", _INK)
_MARKERS = "osD^vPX"
_CSS = (
  "svg { color: #1f2328; background: #fff; } "
  "@media (prefers-color-scheme: dark) { svg { color: #e6edf3; background: #0d1117; } }"
)
# 600 points are 800 pixels of a browser; 9 points are 12.
_WIDTH_IN = 600 / 72
_Names = Collection[str]
# Panels beside each other: more are too narrow to read.
_PANELS = 2
_OFF = ("axes.spines.top", "axes.spines.right", "xtick.bottom", "ytick.left", "legend.frameon")
_ON = ("axes.grid", "figure.constrained_layout.use", "savefig.transparent")
_INKED = ("text.color", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
_STYLE: dict[Any, Any] = {
  **{"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9},
  **{"axes.titlesize": 10, "grid.alpha": 0.15, "svg.fonttype": "none", "svg.hashsalt": "lafg_jax"},
  **dict.fromkeys(_OFF, False) | dict.fromkeys(_ON, True) | dict.fromkeys(_INKED, _INK),
}


def means(
  table: Mapping[str, Any], labels: Labels, *, shown: _Names, reference: str, controls: _Names
) -> str:
  """SVG: for each variant and metric the seeds, their mean, and its 95% t-interval.

  Args:
    table, labels: as `study_tables.markdown` takes them.
    shown: variants to draw; all of the table where it has none of them.
    reference: its mean is drawn as a line. controls: variants with a mark of their own.

  Returns:
    The file's text, or '' where the table has no variants beside sweeps.
  """
  rows = [row for row in table["rows"] if row["variant"] in shown] or table["rows"]
  of = (rows, labels, _drawn(table), reference, controls)
  return _svg(f"Means, {title(table)}", _draw_means, *of) if rows else ""


def sweeps(table: Mapping[str, Any], labels: Labels) -> str:
  """SVG: a panel for each swept key and metric, with a line for each variant; '' without sweeps."""
  found = table["sweeps"]
  of = (found, labels, _drawn(table))
  return _svg(f"Sweeps, {title(table)}", _draw_sweeps, *of) if found else ""


def _drawn(table: Mapping[str, Any]) -> Labels:
  """The metrics that have a panel, the first ones."""
  return dict(list(table["titles"].items())[:_PANELS])


def _draw_means(
  rows: list[dict[str, Any]], labels: Labels, titles: Labels, reference: str, controls: _Names
) -> Any:
  from matplotlib.figure import Figure

  names = [textwrap.fill(label(row["variant"], labels), 30) for row in rows]
  lines = sum(1 + name.count("\n") for name in names)
  figure = Figure(figsize=(_WIDTH_IN, 1.3 + 0.13 * len(rows) + 0.17 * lines))
  panels = figure.subplots(1, len(titles), sharey=True)
  kinds = {False: ("o", _BLUE, "variant"), True: ("s", _ORANGE, "control")}
  for axes, (metric, of) in zip(panels, titles.items(), strict=True):
    axes.set_title(f"{of}, %", loc="left")
    for y, row in enumerate(rows):
      if metric not in row:
        continue
      mean = 100 * row[metric]["mean"]
      marker, colour, kind = kinds[row["variant"] in controls]
      if row["variant"] == reference:
        marker, colour, kind = "D", _INK, "reference; dashed: its mean"
        axes.axvline(mean, color=_INK, ls="--", lw=1)
      _seeds(axes, row[metric], y + 0.28, colour, across=True)
      bar, text_at = _interval(row[metric]), axes.get_yaxis_transform()
      axes.errorbar(mean, y, xerr=bar, fmt=marker, color=colour, ms=5, lw=2, label=kind)
      axes.text(1.03, y, percent(row[metric]["mean"]), transform=text_at, va="center")
    axes.set_yticks(range(len(rows)), names)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
  panels[0].set_ylim(len(rows) - 0.4, -0.6)
  _legend(figure, panels, "Mean with its 95% t-interval over seeds; below it each seed", 3)
  return figure


def _draw_sweeps(found: list[dict[str, Any]], labels: Labels, titles: Labels) -> Any:
  """Two keys in a row. The panels of a metric share an axis, so that keys can be compared."""
  from matplotlib.figure import Figure

  names = list(dict.fromkeys(name for sweep in found for name in sweep["lines"]))
  looks = {n: (_LINES[k % len(_LINES)], _MARKERS[k % len(_MARKERS)]) for k, n in enumerate(names)}
  count, height = len(titles), -(-len(found) // 2)
  figure = Figure(figsize=(_WIDTH_IN, 0.6 + 1.75 * height + 0.2 * -(-len(names) // 2)))
  panels = figure.subplots(height, 2 * count, squeeze=False).ravel()
  limits = {metric: _limits(found, metric) for metric in titles}
  for number, axes in enumerate(panels):
    if number >= count * len(found):
      axes.set_visible(False)
      continue
    sweep, metric = found[number // count], list(titles)[number % count]
    key = labels.get(f"@{sweep['key']}", sweep["key"])
    axes.set_title((f"{key}\n" if number % count == 0 else "") + f"{titles[metric]}, %", loc="left")
    axes.set_ylim(limits[metric])
    axes.set_xticks(range(len(sweep["values"])), sweep["values"])
    axes.set_xlim(-0.4, len(sweep["values"]) - 0.6)
    axes.grid(axis="x", visible=False)
    for name, line in sweep["lines"].items():
      colour, marker = looks[name]
      rows = {x: line[v] for x, v in enumerate(sweep["values"]) if metric in line.get(v, {})}
      means = [100 * row[metric]["mean"] for row in rows.values()]
      look = {"color": colour, "lw": 1.5}
      axes.plot([*rows], means, marker=marker, ms=4, label=label(name, labels), **look)
      for (x, row), mean in zip(rows.items(), means, strict=True):
        if (bar := _interval(row[metric])) is not None:
          axes.errorbar(x, mean, yerr=bar, fmt="none", **look)
          _seeds(axes, row[metric], x, colour, across=False)
  _legend(figure, panels, "Mean; where a value has several seeds, each and the 95% t-interval", 2)
  return figure


def _seeds(axes: Any, found: Mapping[str, Any], at: float, colour: str, *, across: bool) -> None:
  percents = [100 * value for value in found["values"]]
  points = (percents, [at] * len(percents))
  look = {"ls": "", "marker": "o", "ms": 3, "mew": 0, "color": colour, "alpha": 0.45}
  axes.plot(*(points if across else points[::-1]), **look)


def _interval(found: Mapping[str, Any]) -> list[list[float]] | None:
  """How far the t-interval reaches below and above the mean in %, ended at 0 and 100."""
  if found["t"] is None:
    return None
  low, high = max(found["t"][0], 0.0), min(found["t"][1], 1.0)
  return [[100 * (found["mean"] - low)], [100 * (high - found["mean"])]]


def _limits(found: list[dict[str, Any]], metric: str) -> tuple[float, float]:
  """Of the values: the interval of few seeds may be cut."""
  rows = [row for sweep in found for line in sweep["lines"].values() for row in line.values()]
  values = [100 * v for row in rows if metric in row for v in row[metric]["values"]] or [0.0, 100.0]
  pad = 0.06 * (max(values) - min(values)) or 1.0
  return min(values) - pad, max(values) + pad


def _legend(figure: Any, panels: Iterable[Any], what: str, columns: int) -> None:
  entries: dict[str, Any] = {}
  for axes in panels:
    entries |= {text: mark for mark, text in zip(*axes.get_legend_handles_labels(), strict=True)}
  look = {"loc": "outside lower left", "ncols": columns, "alignment": "left"}
  figure.legend(entries.values(), entries.keys(), title=what, **look)


def _svg(name: str, draw: Callable[..., Any], *of: Any) -> str:
  """The file of `draw(*of)`: the same text for the same figure, without date and random ids."""
  import matplotlib

  buffer = io.StringIO()
  with matplotlib.rc_context(_STYLE):
    metadata = {"Date": None, "Creator": None, "Title": name}
    draw(*of).savefig(buffer, format="svg", metadata=metadata)
  text = buffer.getvalue().replace(_INK, "currentColor")
  return text.replace("</style>", f"{_CSS}</style>", 1)
