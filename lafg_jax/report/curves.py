"""Sweeps: variants that differ in one value, NAME@KEY=VALUE, as curves and as a line a NAME."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lafg_jax.report import axes

_SWEPT = re.compile(r"(?P<name>.+)@(?P<key>[^@=]+)=(?P<value>.+)")
# In pixels: a panel and what lies around it. Then the panels in a row: two keys of two metrics.
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _ACROSS = 196, 130, 48, 52, 34, 4
# Of page.css: line-0 to line-6, over again for more.
_COLOURS = 7


def parse(variant: str) -> tuple[str, str, str] | None:
  """'l_aux@classes=10' -> ('l_aux', 'classes', '10'); None for what is no value of a sweep."""
  found = _SWEPT.fullmatch(variant)
  return None if found is None else (found["name"], found["key"], found["value"])


def gather(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The sweeps of `results.summarise`'s rows, each value's in ascending order, words last.

  Args:
    rows: those whose variant `parse` knows.

  Returns:
    [{'key', 'values': [str], 'lines': {name: {value: row}}}] in the order of the keys' first rows.
  """
  found: dict[str, dict[str, Any]] = {}
  for row in rows:
    name, key, value = parse(row["variant"]) or ("", "", "")
    sweep = found.setdefault(key, {"key": key, "values": [], "lines": {}})
    sweep["lines"].setdefault(name, {})[value] = row
    if value not in sweep["values"]:
      sweep["values"].append(value)
  for sweep in found.values():
    sweep["values"].sort(key=_order)
  return list(found.values())


def _order(value: str) -> tuple[bool, float, str]:
  try:
    return False, float(value), value
  except ValueError:
    return True, 0.0, value


def tables(
  sweeps: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]
) -> list[list[list[str]]]:
  """Head and lines of each sweep: a line a name, a column a value, 'R@1 / MAP@R' in %.

  Where values have different numbers of seeds, those are told.
  """
  found = []
  for sweep in sweeps:
    lines = [[sweep["key"], *sweep["values"]]]
    counts = {len(row["seeds"]) for line in sweep["lines"].values() for row in line.values()}
    for name, rows in sweep["lines"].items():
      cells = [_means(rows.get(value), metrics, len(counts) > 1) for value in sweep["values"]]
      lines.append([f"{name}, {' / '.join(metrics.values())}", *cells])
    found.append(lines)
  return found


def _means(row: Mapping[str, Any] | None, metrics: Mapping[str, str], counted: bool) -> str:
  if row is None:
    return ""
  means = " / ".join(f"{100 * row[m]['mean']:.1f}" if m in row else "-" for m in metrics)
  seeds = len(row["seeds"])
  return f"{means} ({seeds} seed{'s' * (seeds > 1)})" if counted else means


def drawing(
  sweeps: Sequence[Mapping[str, Any]], metrics: Mapping[str, str], label: str, style: str = ""
) -> str:
  """The SVG element, a panel for each sweep and metric; with a style, one that is a file."""
  if not sweeps:
    return ""
  names = list(dict.fromkeys(name for sweep in sweeps for name in sweep["lines"]))
  colours = {name: f"line-{k % _COLOURS}" for k, name in enumerate(names)}
  panels = [(sweep, metric) for sweep in sweeps for metric in metrics]
  high, wide = _TOP + _HEIGHT + _BOTTOM, _LEFT + _WIDTH
  # On one axis: what a key matters is seen beside what the others do.
  scales = {metric: _scale(sweeps, metric) for metric in metrics}
  width = _ACROSS * wide + 24
  parts, above = _legend(colours, width)
  for number, (sweep, metric) in enumerate(panels):
    x, y = _LEFT + number % _ACROSS * wide, above + number // _ACROSS * high + _TOP
    if number % len(metrics) == 0:
      parts.append(f'<text class="title" x="{x}" y="{y - 28}">{html.escape(sweep["key"])}</text>')
    parts.append(f'<text x="{x}" y="{y - 10}">{metrics[metric]}, %</text>')
    parts.append(_panel(sweep, metric, scales[metric], (x, y), colours))
  height = above + high * -(-len(panels) // _ACROSS)
  alone = ' xmlns="http://www.w3.org/2000/svg"' if style else ""
  return (
    f'<svg{alone} viewBox="0 0 {width} {height}" width="{width}" role="img" '
    f'aria-label="{html.escape(label)}">{style}{"".join(parts)}</svg>'
  )


def _legend(colours: Mapping[str, str], width: int) -> tuple[list[str], int]:
  """Its pieces, in lines no longer than the width, and its height."""
  parts, x, y = [], _LEFT, 14
  for name, colour in colours.items():
    long = 60 + 7 * len(name)
    if x > _LEFT and x + long > width:
      x, y = _LEFT, y + 20
    parts.append(f'<line class="{colour}" x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}"/>')
    parts.append(f'<text x="{x + 30}" y="{y + 4}">{html.escape(name)}</text>')
    x += long
  return parts, y + 10


def _scale(sweeps: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float, float]:
  rows = [row for sweep in sweeps for line in sweep["lines"].values() for row in line.values()]
  values = [100 * v for row in rows if metric in row for v in row[metric]["values"]]
  return axes.round_ticks(min(values, default=0.0), max(values, default=1.0))


def _panel(
  sweep: Mapping[str, Any],
  metric: str,
  scale: tuple[float, float, float],
  corner: tuple[float, float],
  colours: Mapping[str, str],
) -> str:
  """Values of the key side by side, evenly; a dot a seed, a line through the means."""
  (low, high, step), (left, top) = scale, corner
  values = sweep["values"]
  across = {v: left + _WIDTH * (k + 0.5) / len(values) for k, v in enumerate(values)}

  def up(value: float) -> float:
    return round(top + _HEIGHT * (high - 100 * value) / (high - low), 1)

  parts = []
  for k in range(round((high - low) / step) + 1):
    y = up((low + k * step) / 100)
    parts.append(f'<line class="grid" x1="{left}" x2="{left + _WIDTH}" y1="{y}" y2="{y}"/>')
    parts.append(f'<text class="scale" x="{left - 6}" y="{y + 4}">{low + k * step:g}</text>')
  parts += [
    f'<text class="tick" x="{round(x, 1)}" y="{top + _HEIGHT + 18}">{html.escape(value)}</text>'
    for value, x in across.items()
  ]
  for name, line in sweep["lines"].items():
    at = [(v, round(across[v], 1), line[v][metric]) for v in values if metric in line.get(v, {})]
    points = " ".join(f"{x},{up(found['mean'])}" for _, x, found in at)
    dots = "".join(
      f'<circle class="dot {colours[name]}" cx="{x}" cy="{up(one)}" r="3.5"><title>'
      f"{html.escape(f'{name}, {value}: {100 * one:.1f}')}</title></circle>"
      for value, x, found in at
      for one in found["values"]
    )
    parts.append(f'<polyline class="{colours[name]}" points="{points}"/>{dots}')
  return "".join(parts)
