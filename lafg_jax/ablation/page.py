"""What people read of a comparison: a Markdown text, and one HTML file with a plot."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STYLE = Path(__file__).parent / "page.css"
METRICS = {"recall@1": "R@1", "map@r": "MAP@R"}
_NOTE = (
  "In %. sd: over seeds. Differences are paired by seed; first the 95% t-interval over seeds, then "
  "the 95% bootstrap interval over test classes. An interval above 0 holds for these test classes "
  "(t), or for these seeds (bootstrap)."
)
# Of the plot, in pixels: a line's height, the names' and a panel's width, and the gap.
_LINE, _LEFT, _PANEL, _GAP, _TOP = 26, 190, 330, 36, 34


def markdown(tables: Sequence[dict[str, Any]], reference: str) -> str:
  """The tables of `results.summarise` as Markdown."""
  parts = ["# Ablation\n", f"{_NOTE}\n"]
  for table in tables:
    parts.append(f"## {title(table)}\n")
    parts.append(f"{about(table)}\n")
    parts += [_markdown_table(rows(table)), _markdown_table(differences(table))]
  return "\n".join(parts)


def title(table: dict[str, Any]) -> str:
  """'synthetic, from scratch' and the like."""
  start = "from scratch" if table["start"] == "scratch" else f"{table['start']} start"
  return f"{table['dataset']}, {start}"


def about(table: dict[str, Any]) -> str:
  """What was measured, in a sentence."""
  kind = "classes never seen" if table["split"] == "test" else "held-out training classes"
  text = (
    f"{table['num_queries']} images of {table['num_classes']} {kind}; {table['steps']} steps for "
    "every variant."
  )
  return text + (" A partial copy of the dataset." if table["partial"] else "")


def rows(table: dict[str, Any]) -> list[list[str]]:
  """Head and lines of means and standard deviations."""
  found = [["variant", "seeds", *(f"{name} (sd)" for name in METRICS.values())]]
  for row in table["rows"]:
    cells = [_mean(row.get(metric)) for metric in METRICS]
    found.append([row["variant"], str(len(row["seeds"])), *cells])
  return found


def differences(table: dict[str, Any]) -> list[list[str]]:
  """Head and lines of paired differences with both intervals."""
  head = [f"{name}: {what}" for name in METRICS.values() for what in ("diff", "t", "bootstrap")]
  found = [["difference", "seeds", *head]]
  for row in table["differences"]:
    cells: list[str] = []
    for metric in METRICS:
      x = row.get(metric)
      cells += (
        [f"{100 * x['mean']:+.1f}", _interval(x["t"]), _interval(x["bootstrap"])]
        if x
        else (["", "", ""])
      )
    found.append([f"{row['variant']} - {row['against']}", str(len(row["seeds"])), *cells])
  return found


def _mean(x: dict[str, Any] | None) -> str:
  if x is None:
    return ""
  return f"{100 * x['mean']:.1f}" + (f" ({100 * x['sd']:.1f})" if x["sd"] is not None else "")


def _interval(interval: tuple[float, float] | None) -> str:
  return "" if interval is None else f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
  if len(lines) < 2:
    return ""
  rule = ["---"] + ["---:"] * (len(lines[0]) - 1)
  return "\n".join("| " + " | ".join(x) + " |" for x in (lines[0], rule, *lines[1:])) + "\n"


def document(tables: Sequence[dict[str, Any]], reference: str) -> str:
  """One HTML file that asks for nothing else: a plot and the tables of each dataset and start."""
  body = "".join(
    f"<h2>{html.escape(title(t))}</h2><p>{html.escape(about(t))}</p>"
    f"{_plot(t, reference)}{_html_table(rows(t))}{_html_table(differences(t))}"
    for t in tables
  )
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lafg_jax: ablation</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><h1>Ablation</h1>"
    f'<p class="note">{html.escape(_NOTE)} In the plots: a dot a seed, a bar the mean, a line its '
    f"95% t-interval; the dashed line is {html.escape(reference)}.</p>{body}</body></html>\n"
  )


def _html_table(lines: Sequence[Sequence[str]]) -> str:
  if len(lines) < 2:
    return ""
  head = "".join(f"<th>{html.escape(x)}</th>" for x in lines[0])
  body = "".join(
    "<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in line) + "</tr>" for line in lines[1:]
  )
  return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _plot(table: dict[str, Any], reference: str) -> str:
  lines = table["rows"]
  height = _TOP + _LINE * len(lines) + 30
  width = _LEFT + len(METRICS) * (_PANEL + _GAP)
  parts = [
    f'<text class="name" x="{_LEFT - 12}" y="{_centre(k) + 4}">{html.escape(row["variant"])}</text>'
    for k, row in enumerate(lines)
  ]
  for number, metric in enumerate(METRICS):
    parts.append(_panel(table, metric, _LEFT + number * (_PANEL + _GAP), reference))
  label = html.escape(f"R@1 and MAP@R of {len(lines)} variants, {title(table)}")
  return (
    f'<div class="wide"><svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
    f'aria-label="{label}">{"".join(parts)}</svg></div>'
  )


def _centre(line: int) -> float:
  return _TOP + _LINE * (line + 0.5)


def _panel(table: dict[str, Any], metric: str, left: float, reference: str) -> str:
  """One metric: dots of the seeds, the mean and its interval, on an axis in percent."""
  of = {row["variant"]: (k, row[metric]) for k, row in enumerate(table["rows"]) if metric in row}
  if not of:
    return ""
  values = [v for _, x in of.values() for v in (*x["values"], *(x["t"] or ()))]
  low, high, step = _axis(100 * max(min(values), 0.0), 100 * min(max(values), 1.0))

  def at(value: float) -> float:
    share = (100 * value - low) / (high - low)
    return round(left + _PANEL * min(max(share, 0.0), 1.0), 1)

  bottom = _TOP + _LINE * len(table["rows"])
  parts = [f'<text class="title" x="{left}" y="16">{METRICS[metric]}, %</text>']
  tick = low
  while tick <= high + 1e-9:
    x = at(tick / 100)
    parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
    parts.append(f'<text class="tick" x="{x}" y="{bottom + 18}">{tick:g}</text>')
    tick += step
  if reference in of:
    x = at(of[reference][1]["mean"])
    parts.append(f'<line class="reference" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
  for name, (k, found) in of.items():
    parts.append(_marks(name, found, _centre(k), at))
  return "".join(parts)


def _marks(name: str, found: dict[str, Any], y: float, at: Any) -> str:
  parts = []
  if found["t"]:
    ends = [at(x) for x in found["t"]]
    parts.append(f'<line class="interval" x1="{ends[0]}" x2="{ends[1]}" y1="{y}" y2="{y}"/>')
  parts += [f'<circle class="seed" cx="{at(v)}" cy="{y}" r="3.5"/>' for v in found["values"]]
  x = at(found["mean"])
  parts.append(f'<line class="mean" x1="{x}" x2="{x}" y1="{y - 8}" y2="{y + 8}"/>')
  said = html.escape(f"{name}: {_mean(found)}, {len(found['values'])} seeds")
  return f"<g><title>{said}</title>{''.join(parts)}</g>"


def _axis(low: float, high: float) -> tuple[float, float, float]:
  """(first, last, step) of round ticks that cover low to high, 3 to 8 of them."""
  span = max(high - low, 1.0)
  step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if span / s <= 6)
  first = step * (low // step)
  return first, step * -(-high // step) if high > first else first + step, step
