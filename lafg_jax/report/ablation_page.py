"""What people read of a comparison: a Markdown text, and one HTML file with a plot."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lafg_jax.report import axes, curves
from lafg_jax.utils.errors import UserError

STYLE = Path(__file__).parent / "page" / "ablation.css"
METRICS = {"recall@1": "R@1", "map@r": "MAP@R"}
_NOTE = (
  "In %, differences in points of %. The best R@1 stands first; sd is over seeds. A difference "
  "A - B is of the seeds that both have, paired: its 95% t-interval is over seeds, for these test "
  "classes; its 95% bootstrap interval is over test classes, for these seeds. Above 0: A is better "
  "than B."
)
_SWEPT = (
  "One value at a time, the rest as in the variant that is named or with what that value takes "
  "(configs/ablation.py). A dot is a seed; the panels of a metric have one axis."
)
_MARKS = (
  "In the plots a dot is a seed, a bar the mean on its 95% t-interval, the dashed line the mean of "
  "{}."
)
# Of the plots, in pixels: a line's height, a panel's width, the gap, the top, and the width of a
# character of a name.
_LINE, _PANEL, _GAP, _TOP, _CHARACTER = 30, 360, 44, 34, 7
# {unit: the least and the greatest that a figure can be}.
_POSSIBLE = {"%": (0.0, 1.0), "points of %": (-1.0, 1.0)}
# What a mark's class in page.css is called in the legend; '{}' is the variant compared with.
_OF_MEANS = (
  ("seed", "a seed"), ("mean", "mean"), ("interval", "its 95% t-interval"),
  ("reference", "mean of {}"),
)  # fmt: skip
_OF_DIFFERENCES = (
  ("mean", "mean difference"), ("interval", "95% t-interval over seeds"),
  ("bootstrap", "95% bootstrap interval over test classes"), ("reference", "no difference"),
)  # fmt: skip


# What stands above this line in ablation.md is people's, and kept.
WRITTEN = "<!-- Below: written by python -m lafg_jax.ablate. -->"


def markdown(tables: Sequence[dict[str, Any]], reference: str, old: str = "") -> str:
  """The tables of `results.summarise` as Markdown, below what people wrote above `old`'s.

  Raises:
    UserError: nothing tells `old`'s tables from what people wrote.
  """
  if old and WRITTEN not in old:
    raise UserError(f"ablation.md lacks the line {WRITTEN!r}: put it above the tables")
  people = old.partition(WRITTEN)[0] or "# Ablation\n\n"
  parts = [f"{people}{WRITTEN}\n", f"{_NOTE} {_MARKS.format(reference)}\n"]
  for table in tables:
    parts.append(f"## {title(table)}\n")
    parts.append(f"{about(table)}\n")
    if table["rows"]:
      parts.append(f"![Means over seeds, {title(table)}]({picture_name(table)})\n")
    parts += [_markdown_table(rows(table)), _markdown_table(differences(table))]
    if table["sweeps"]:
      parts.append(f"{_SWEPT}\n")
      parts.append(f"![Sweeps, {title(table)}]({picture_name(table, 'sweeps')})\n")
      parts += [_markdown_table(lines) for lines in curves.tables(table["sweeps"], METRICS)]
  return "\n".join(parts)


def picture_name(table: dict[str, Any], of: str = "") -> str:
  """The file of a picture; `of` is 'sweeps', or nothing for that of the means."""
  return f"ablation_{table['dataset']}_{table['start']}{of and '_' + of}.svg"


def pictures(table: dict[str, Any], reference: str) -> dict[str, str]:
  """{name: SVG file}: every seed of every variant with mean and interval; the sweeps, if any."""
  style = STYLE.read_text(encoding="utf-8")
  style += "svg { background: var(--back); font-family: system-ui, sans-serif; }"
  style = f"<style>{style}</style>"
  found = {}
  if table["rows"]:
    lines, zeros = _lines_of_means(table, reference)
    drawn = _drawing(lines, zeros, f"Means, {title(table)}", "%", style)
    found[picture_name(table)] = drawn + "\n"
  if table["sweeps"]:
    drawn = curves.drawing(table["sweeps"], METRICS, f"Sweeps, {title(table)}", style)
    found[picture_name(table, "sweeps")] = drawn + "\n"
  return found


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
  kinds = ("diff", "95% t", "95% bootstrap")
  head = [f"{name}: {kind}" for name in METRICS.values() for kind in kinds]
  found = [["A - B", "seeds", *head]]
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
  """One HTML file that asks for nothing else: plots and the tables of each dataset and start."""
  body = "".join(
    f"<h2>{html.escape(title(t))}</h2><p>{html.escape(about(t))}</p>"
    f"{_means(t, reference)}{_html_table(rows(t))}{_differences(t)}{_html_table(differences(t))}"
    f"{_sweeps(t)}"
    for t in tables
  )
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lafg_jax: ablation</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><h1>Ablation</h1>"
    f'<p class="note">{html.escape(_NOTE)}</p>{body}</body></html>\n'
  )


def _html_table(lines: Sequence[Sequence[str]]) -> str:
  if len(lines) < 2:
    return ""
  head = "".join(f"<th>{html.escape(x)}</th>" for x in lines[0])
  body = "".join(
    "<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in line) + "</tr>" for line in lines[1:]
  )
  return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _sweeps(table: dict[str, Any]) -> str:
  """Curves and tables of the sweeps; nothing where there are none."""
  if not table["sweeps"]:
    return ""
  drawn = curves.drawing(table["sweeps"], METRICS, f"Sweeps, {title(table)}")
  lines = "".join(_html_table(x) for x in curves.tables(table["sweeps"], METRICS))
  return f'<p>{html.escape(_SWEPT)}</p><div class="wide">{drawn}</div>{lines}'


def _means(table: dict[str, Any], reference: str) -> str:
  """Every seed of every variant, with the mean and its interval."""
  lines, zeros = _lines_of_means(table, reference)
  legend = [(kind, text.format(reference)) for kind, text in _OF_MEANS if zeros or "{}" not in text]
  return _plot(lines, zeros, legend, f"Means, {title(table)}", "%")


def _lines_of_means(
  table: dict[str, Any], reference: str
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, float]]:
  """(name, row) of each variant, and the reference's means."""
  lines = [(row["variant"], row) for row in table["rows"]]
  at = dict(lines).get(reference, {})
  return lines, {metric: at[metric]["mean"] for metric in METRICS if metric in at}


def _differences(table: dict[str, Any]) -> str:
  """Paired differences of trained variants; one to the untrained model would fill the axis."""
  lines = [(f"{x['variant']} - {x['against']}", x) for x in table["differences"] if x["trained"]]
  zeros = dict.fromkeys(METRICS, 0.0)
  return _plot(lines, zeros, _OF_DIFFERENCES, f"Differences, {title(table)}", "points of %")


def _plot(
  lines: Sequence[tuple[str, dict[str, Any]]],
  zeros: dict[str, float],
  legend: Sequence[tuple[str, str]],
  label: str,
  unit: str,
) -> str:
  """A panel for each metric; `zeros` {metric: where its dashed line is}."""
  if not lines:
    return ""
  drawing = _drawing(lines, zeros, label, unit)
  return f'{_legend(legend)}<div class="wide">{drawing}</div>'


def _drawing(
  lines: Sequence[tuple[str, dict[str, Any]]],
  zeros: dict[str, float],
  label: str,
  unit: str,
  style: str = "",
) -> str:
  """The SVG element; with a style, one that is a file of its own."""
  alone = ' xmlns="http://www.w3.org/2000/svg"' if style else ""
  names = 28 + _CHARACTER * max(len(name) for name, _ in lines)
  height, width = _TOP + _LINE * len(lines) + 30, names + len(METRICS) * (_PANEL + _GAP)
  parts = [
    f'<text class="name" x="{names - 14}" y="{_centre(k) + 4}">{html.escape(name)}</text>'
    for k, (name, _) in enumerate(lines)
  ]
  for number, metric in enumerate(METRICS):
    left = names + number * (_PANEL + _GAP)
    parts.append(f'<text class="title" x="{left}" y="16">{METRICS[metric]}, {unit}</text>')
    parts.append(_panel(lines, metric, left, zeros.get(metric), _POSSIBLE[unit]))
  return (
    f'<svg{alone} viewBox="0 0 {width} {height}" width="{width}" role="img" '
    f'aria-label="{html.escape(label)}">{style}{"".join(parts)}</svg>'
  )


def _legend(entries: Sequence[tuple[str, str]]) -> str:
  found = []
  for kind, text in entries:
    ends = 'x1="2" x2="26" y1="8" y2="8"' if kind != "mean" else 'x1="14" x2="14" y1="1" y2="15"'
    mark = '<circle class="seed" cx="14" cy="8" r="3.5"/>'
    mark = mark if kind == "seed" else f'<line class="{kind}" {ends}/>'
    drawn = f'<svg width="28" height="16" aria-hidden="true">{mark}</svg>'
    found.append(f"<span>{drawn}{html.escape(text)}</span>")
  return f'<p class="legend">{"".join(found)}</p>'


def _centre(line: int) -> float:
  return _TOP + _LINE * (line + 0.5)


def _panel(
  lines: Sequence[tuple[str, dict[str, Any]]],
  metric: str,
  left: float,
  zero: float | None,
  possible: tuple[float, float],
) -> str:
  """One metric on an axis in percent; a t-interval of few seeds ends where values do."""
  of = [(k, name, row[metric]) for k, (name, row) in enumerate(lines) if metric in row]
  kinds = ("values", "t", "bootstrap")
  values = [v for *_, x in of for kind in kinds for v in x.get(kind) or (x["mean"],)]
  if not of:
    return ""
  values += [] if zero is None else [zero]

  def cut(value: float) -> float:
    return 100 * min(max(value, possible[0]), possible[1])

  low, high, step = axes.round_ticks(cut(min(values)), cut(max(values)))

  def at(value: float) -> float:
    return round(left + _PANEL * (cut(value) - low) / (high - low), 1)

  bottom = _TOP + _LINE * len(lines)
  parts = []
  for k in range(round((high - low) / step) + 1):
    x = at((low + k * step) / 100)
    parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
    parts.append(f'<text class="tick" x="{x}" y="{bottom + 18}">{low + k * step:g}</text>')
  if zero is not None:
    x = at(zero)
    parts.append(f'<line class="reference" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
  return "".join(parts) + "".join(_marks(name, x, _centre(k), at) for k, name, x in of)


def _marks(name: str, found: dict[str, Any], y: float, at: Any) -> str:
  """The mean on its interval, and below it the seeds or the other interval."""
  parts, said = [], f"{name}: {100 * found['mean']:.1f}"
  for kind, style, where in (("t", "interval", y - 4), ("bootstrap", "bootstrap", y + 4)):
    if found.get(kind):
      ends = [at(x) for x in found[kind]]
      line = f'x1="{ends[0]}" x2="{ends[1]}" y1="{where}" y2="{where}"'
      parts.append(f'<line class="{style}" {line}/>')
      said += f", {kind} {_interval(found[kind])}"
  below = y + 6
  seeds = found.get("values", ())
  parts += [f'<circle class="seed" cx="{at(v)}" cy="{below}" r="3.5"/>' for v in seeds]
  x = at(found["mean"])
  parts.append(
    f'<line class="mean" x1="{x}" x2="{x}" y1="{y - 10}" y2="{y + (2, 10)[not seeds]}"/>'
  )
  return f"<g><title>{html.escape(said)}</title>{''.join(parts)}</g>"
