"""The frame of report.html, the same for all tasks: sections, tables and charts in one file.

The charts are drawn by BokehJS, which lies in the page. Only its files are read: importing bokeh
would take a second.
"""

import base64
import functools
import hashlib
import html
import json
import os
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from lafg_jax.utils import files, packages

FILE = "report.html"
_FOLDER = Path(__file__).parent / "page"
TEMPLATE = tuple(_FOLDER / f"report.{kind}" for kind in ("html", "css", "js"))
# Points of a line in a chart, and rows of the table beside it, evenly spaced.
MOST_POINTS, MOST_ROWS = 600, 12


class Series(NamedTuple):
  """A line of a chart, `points` (x, y) in the order of x."""

  name: str
  points: Sequence[tuple[float, float]]


class Chart(NamedTuple):
  """A chart. id: of a few letters, unique in its page. x, y: what the axes are, with units.

  range: of the y axis; None is that of the points.
  """

  id: str
  title: str
  x: str
  y: str
  series: Sequence[Series]
  range: tuple[float, float] | None = None


class Section(NamedTuple):
  """A part of the page: its title, in plain text, and its HTML."""

  id: str
  title: str
  body: str


def write(workdir: str, text: str) -> None:
  """Writes `report.html`."""
  path = os.path.join(workdir, FILE)
  with files.replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8")
  logging.info("report: %s, %.1f MB", path, len(text) / 1e6)


def page(
  title: str,
  lead: str,
  sections: Sequence[Section],
  charts: Sequence[Chart] = (),
  data: dict[str, Any] | None = None,
) -> str:
  """One HTML file that works offline.

  Args:
    title: plain text.
    lead: HTML below the title.
    charts: those that the sections have a place for (`place_of`).
    data: what else the script reads, as JSON.
  """
  said = {"charts": [_drawn(chart) for chart in charts]} | (data or {})
  # No byte of the data can end its element or begin another one.
  text = json.dumps(said, separators=(",", ":"), allow_nan=False)
  text = text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"})
  frame, style, script = (path.read_text(encoding="utf-8") for path in TEMPLATE)
  scripts = [*_library(), script]
  allowed = (base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for x in scripts)
  drawn = f'<script type="application/json" id="data">{text}</script>'
  drawn += "".join(f"<script>{x}</script>" for x in scripts)
  names = "".join(f'<li><a href="#{x.id}">{html.escape(x.title)}</a></li>' for x in sections)
  body = "\n".join(
    f'<section id="{x.id}" aria-labelledby="{x.id}-title"><h2 id="{x.id}-title">'
    f"{html.escape(x.title)}</h2>{x.body}</section>"
    for x in sections
  )
  parts = {"ALLOWED": " ".join(f"'sha256-{x}'" for x in allowed), "STYLE": style}
  parts |= {"TITLE": html.escape(title), "NAV": names, "LEAD": lead, "BODY": body}
  # In one pass: a text may hold the mark of another part.
  pieces = frame.split("{{")
  filled = [pieces[0]]
  for piece in pieces[1:]:
    name, rest = piece.split("}}", 1)
    filled += [(parts | {"SCRIPTS": drawn})[name], rest]
  return "".join(filled)


def place_of(chart: Chart) -> str:
  """Where a chart stands: its title, its key where it has several lines, and its figures."""
  key = ""
  if len(chart.series) > 1:
    lines = (
      f'<li><i class="s{k % 6}"></i>{html.escape(x.name)}</li>' for k, x in enumerate(chart.series)
    )
    key = f'<ul class="key">{"".join(lines)}</ul>'
  about = html.escape(f"{chart.title}: {chart.y} by {chart.x}. The same figures are in the table.")
  return f"""<figure class="chart"><h3>{html.escape(chart.title)}</h3>{key}
<div class="plot" id="chart-{chart.id}" role="img" aria-label="{about}"></div>
<details><summary>as a table</summary>{table(_rows(chart))}</details></figure>"""


def table(rows: Sequence[Sequence[str]], about: str = "", words: Sequence[int] = ()) -> str:
  """A table of plain texts; the first row and the first column are heads.

  about: what it is, for those who do not see it. words: columns of texts, which begin at the left.
  """
  head, *others = [[html.escape(cell) for cell in row] for row in rows]
  return table_of_html(head, others, about, words)


def table_of_html(
  head: Sequence[str],
  rows: Sequence[Sequence[str]],
  about: str = "",
  words: Sequence[int] = (),
  id: str = "",
) -> str:
  """`table` of cells that are HTML already."""

  def kind(k: int) -> str:
    return ' class="words"' if k in words else ""

  top = "".join(f'<th scope="col"{kind(k)}>{cell}</th>' for k, cell in enumerate(head))
  body = "".join(
    f'<tr><th scope="row">{row[0]}</th>'
    + "".join(f"<td{kind(k)}>{cell}</td>" for k, cell in enumerate(row[1:], 1))
    + "</tr>"
    for row in rows
  )
  caption = f"<caption>{html.escape(about)}</caption>" if about else ""
  named = f' id="{id}"' if id else ""
  return (
    f'<div class="scroll" tabindex="0"><table{named}>{caption}<thead><tr>{top}</tr></thead>'
    f"<tbody>{body}</tbody></table></div>"
  )


def folded(title: str, body: str) -> str:
  """What is shown when somebody asks for it; `title` is plain text."""
  return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
  """At most so many of the points, evenly spaced, the first and the last among them."""
  last, count = len(points) - 1, min(most, len(points))
  return [points[round(k * last / max(count - 1, 1))] for k in range(count)]


def _drawn(chart: Chart) -> dict[str, Any]:
  series = []
  for one in chart.series:
    points = thinned(one.points, MOST_POINTS)
    x, y = ([float(f"{point[axis]:.6g}") for point in points] for axis in (0, 1))
    series.append({"name": one.name, "x": x, "y": y})
  found = {"id": chart.id, "x": chart.x, "y": chart.y, "series": series}
  return found | ({"range": chart.range} if chart.range else {})


def _rows(chart: Chart) -> list[list[str]]:
  """The chart as a table: a row for some of the places of x, a column a line."""
  values = [{x: y for x, y in one.points} for one in chart.series]
  places = sorted({x for of in values for x in of})
  chosen = [x for x, _ in thinned([(x, 0.0) for x in places], MOST_ROWS)]
  return [
    [chart.x, *(one.name for one in chart.series)],
    *([f"{x:g}", *(f"{of[x]:.4g}" if x in of else "" for of in values)] for x in chosen),
  ]


@functools.cache
def _library() -> tuple[str, ...]:
  """BokehJS and its plotting interface."""
  packages.require("train", "bokeh")
  spec = util.find_spec("bokeh")
  assert spec is not None and spec.origin is not None
  folder = Path(spec.origin).parent / "server" / "static" / "js"
  return tuple((folder / f"{x}.min.js").read_text(encoding="utf-8") for x in ("bokeh", "bokeh-api"))
