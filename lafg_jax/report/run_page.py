"""The page report.html of class retrieval: what `Page` holds, as sections.

Its numbers are made in `tasks/class_retrieval/readings.py`; here they are only drawn.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lafg_jax.evaluate import results
from lafg_jax.evaluate.intervals import Interval
from lafg_jax.report import frame, pictures
from lafg_jax.report.frame import Chart, Section, Series
from lafg_jax.utils.counted import counted

FILE, PICTURE = frame.FILE, "retrieval.png"
TILE, SMALL = 112, 64
MOST_CLASSES, MOST_ENTRIES = 200, 300
MARKS = {
  True: ("right", "\N{CHECK MARK}", "right"),
  False: ("wrong", "\N{MULTIPLICATION SIGN}", "wrong"),
}


class Neighbour(NamedTuple):
  """An image that a query found. why: names of attributes that both show, the clearest first."""

  row: int
  similarity: float
  right: bool
  why: tuple[str, ...] = ()


class Query(NamedTuple):
  """A query with its nearest images. rank: of the first right one; precision: its AP@R."""

  row: int
  rank: int
  precision: float
  neighbours: tuple[Neighbour, ...]


class ClassRow(NamedTuple):
  """A class and its figures, fractions. confused: (class, how often a query finds it first)."""

  label: int
  num_queries: int
  recall: float
  precision: float
  confused: tuple[tuple[int, int], ...]


class Apart(NamedTuple):
  """An attribute that tells two classes apart: the mean score of either, and their distance in
  standard deviations within the classes; positive where the first has more."""

  name: str
  means: tuple[float, float]
  distance: float


class Pair(NamedTuple):
  """Two classes that are confused. errors: queries of either whose nearest image is of the other,
  of `queries`. example: (query, the wrong nearest image)."""

  labels: tuple[int, int]
  errors: tuple[int, int]
  queries: tuple[int, int]
  example: tuple[int, int]
  apart: tuple[Apart, ...]


class Entry(NamedTuple):
  """An attribute of the vocabulary. classes: training classes that attend to it, with weights.
  shown: images in which it is read; examples: those with the highest scores."""

  name: str
  sentences: tuple[str, ...]
  classes: tuple[tuple[str, float], ...]
  shown: int
  examples: tuple[int, ...]


class Page(NamedTuple):
  """What `sections` draws; rows are those of embeddings.npz.

  intervals: of metrics of the result. recalls: {name: [(K, fraction)]}. spaced, best, worst:
  queries. classes: hardest first. about_attributes: what is said of them, such as why there are
  none. map: what the script reads, {} without one; about_map: how it was made. picture: row ->
  uint8 [TILE, TILE, 3]. training: its charts.
  """

  result: dict[str, Any]
  ids: Sequence[str]
  labels: Sequence[int]
  class_names: Sequence[str]
  intervals: dict[str, Interval | None]
  recalls: Mapping[str, Sequence[tuple[float, float]]]
  spaced: Sequence[Query]
  best: Sequence[Query]
  worst: Sequence[Query]
  classes: Sequence[ClassRow]
  pairs: Sequence[Pair]
  entries: Sequence[Entry]
  about_attributes: str
  map: dict[str, Any]
  about_map: str
  picture: Callable[[int], np.ndarray]
  training: Sequence[Chart] = ()


def document(page: Page, compared: Section | None, training: Section) -> str:
  """The HTML of the page. compared: the section about other runs."""
  result = page.result
  recall = Chart(
    "recall",
    "Recall@K",
    "K, images that are looked at",
    "queries with a right image, %",
    [Series(name, [(k, 100 * x) for k, x in of]) for name, of in page.recalls.items()],
    (0, 105),
  )
  sections = [
    _figures(page, recall),
    *([compared] if compared else []),
    _found(page),
    _extremes(page),
    _pairs(page),
    _classes(page),
    *([_map(page)] if page.map else []),
    _vocabulary(page),
    training,
  ]
  charts, data = [recall, *page.training], {"map": page.map} if page.map else {}
  return frame.page(f"lafg_jax: {result['dataset']}", _lead(result), sections, charts, data)


def _lead(result: dict[str, Any]) -> str:
  kind = "that training never saw" if result["split"] == "test" else "held out of training"
  classes = counted(result["num_classes"], "class")
  notes = [f"{counted(result['num_queries'], 'image')} of {classes} {kind}"]
  if result.get("box_crop"):
    notes.append("images cut to their boxes (data.box_crop)")
  if result.get("partial"):
    notes.append("a partial copy of the dataset: not comparable with published figures")
  if result["dataset"] == "features":
    notes.append("the data set holds features and no images, for which grey tiles stand")
  if result.get("num_unreadable"):
    notes.append(f"left out: {counted(result['num_unreadable'], 'image')} that could not be read")
  warning = results.warning_of(result)
  told = f'<ul class="problems"><li>{html.escape(warning)}</li></ul>' if warning else ""
  return f"<p>{html.escape('; '.join(notes))}.</p>{told}"


def _figures(page: Page, recall: Chart) -> Section:
  result = page.result
  columns = results.columns_of(result)
  controls = {name: of for name, of in columns.items() if of is not result}
  tiles = "".join(
    _figure(results.TITLES[metric], metric, page, controls)
    for metric in results.TITLES
    if metric in result
  )
  rows = results.rows_of(result)
  if any(page.intervals.values()):
    ranges = [_range(page.intervals.get(row[0])) for row in rows[1:]]
    rows = [
      [*rows[0], "95% interval"],
      *([*row, of] for row, of in zip(rows[1:], ranges, strict=True)),
    ]
  body = f"""<div class="tiles-of-figures">{tiles}</div>{frame.table(rows)}
<p class="note">In percent. chance: what random rankings of these images give. before training: the
same network as it starts. Intervals are over classes (bootstrap), for this one training.</p>
<div class="charts">{frame.place_of(recall)}</div>"""
  return Section("figures", "Figures", body)


def _figure(title: str, metric: str, page: Page, controls: dict[str, dict[str, float]]) -> str:
  lines = "".join(
    f"<dt>{html.escape(name)}</dt><dd>{results.percent(of[metric])}</dd>"
    for name, of in controls.items()
  )
  if said := _range(page.intervals.get(metric)):
    lines = f"<dt>95% interval</dt><dd>{said}</dd>{lines}"
  value = results.percent(page.result[metric])
  return f'<div class="figure">{html.escape(title)}<b>{value} %</b><dl>{lines}</dl></div>'


def _range(interval: Interval | None) -> str:
  return "" if interval is None else " to ".join(results.percent(x) for x in interval)


def _found(page: Page) -> Section:
  why = html.escape(page.about_attributes)
  if page.entries:
    why = """Below a neighbour stands why it may have matched: the attributes that the model reads
in both images (<a href="#attributes">how they are read</a>)."""
  body = f"""<p class="note">Evenly spaced queries, not picked ones, and the images nearest to each.
{_legend()} {why}</p>{_queries(page, page.spaced)}"""
  return Section("found", "What is found", body)


def _extremes(page: Page) -> Section:
  body = f"""<p class="note">By AP@R, the precision over as many places as there are right images;
at most one query a class. {_legend()}</p>
<h3>Worst queries</h3>{_queries(page, page.worst)}
<h3>Best queries</h3>{_queries(page, page.best)}"""
  return Section("extremes", "Best and worst queries", body)


def _legend() -> str:
  return " ".join(f"{sign} {word}" for _, sign, word in MARKS.values()) + "."


def _queries(page: Page, queries: Sequence[Query]) -> str:
  return "".join(_query(page, query) for query in queries) or "<p>None.</p>"


def _query(page: Page, query: Query) -> str:
  found = f"no right image among the first {len(query.neighbours)}"
  if query.rank:
    found = f"the first right image at place {query.rank}"
  tiles = "".join(_neighbour(page, k, one) for k, one in enumerate(query.neighbours, 1))
  return f"""<div class="query"><p class="note">{html.escape(page.ids[query.row])}: {found}, AP@R
{results.percent(query.precision)} %</p><ul class="tiles"><li class="asked">
{_tile(page, query.row)}<span class="mark">the query</span><br>
{_name(page, page.labels[query.row])}</li>{tiles}</ul></div>"""


def _neighbour(page: Page, place: int, one: Neighbour) -> str:
  kind, sign, word = MARKS[one.right]
  why = "".join(f"<li>{html.escape(name)}</li>" for name in one.why)
  if page.entries:
    why = f'<ul class="why">{why or """<li class="none">no shared attribute</li>"""}</ul>'
  return (
    f'<li class="{kind}">{_tile(page, one.row)}<span class="mark">{place}. {sign} {word}</span> '
    f'<span class="score">{one.similarity:.3f}</span><br>{_name(page, page.labels[one.row])}'
    f"{why}</li>"
  )


def _tile(page: Page, row: int, side: int = TILE) -> str:
  about = f"{page.ids[row]}, {page.class_names[page.labels[row]]}"
  tile = Image.fromarray(page.picture(row))
  return pictures.inline(tile if side == TILE else tile.resize((side, side)), about, "JPEG")


def _name(page: Page, label: int) -> str:
  """A class's name, which leads to its images on the map."""
  name = html.escape(page.class_names[label])
  return f'<a href="#map-of-images" data-label="{label}">{name}</a>' if page.map else name


def _classes(page: Page) -> Section:
  head = ["class", "queries", "R@1, %", "MAP@R, %", "wrongly found first"]
  rows = [
    [
      *(_name(page, of.label), f"{of.num_queries:,}", results.percent(of.recall)),
      results.percent(of.precision),
      ", ".join(f"{_name(page, other)} {count:,}" for other, count in of.confused) or "none",
    ]
    for of in page.classes
  ]
  most = rows[:MOST_CLASSES]
  left = f" The {len(most)} hardest of {len(rows):,}." if len(rows) > len(most) else ""
  chance = results.percent(page.result["chance"]["recall@1"])
  body = f"""<p class="note">Hardest first, by MAP@R. By chance R@1 is {chance} %. The last column
counts queries whose nearest image is of another class.{left}</p>
{_filter("classes-table", "Find a class")}
{frame.table_of_html(head, most, words=(4,), id="classes-table")}"""
  return Section("classes", "Hardest classes", body)


def _filter(table: str, about: str) -> str:
  return (
    f'<div class="tools"><label for="{table}-filter">{about}</label><input type="search" '
    f'id="{table}-filter" data-filter="{table}" autocomplete="off"><span class="count" '
    f'data-count="{table}" role="status"></span></div>'
  )


def _pairs(page: Page) -> Section:
  told = ""
  if page.entries:
    told = """ Beside them the attributes that the model reads more clearly in one of them: the mean
score (cosine) in either class, and the difference in standard deviations within the classes."""
  body = (
    "".join(_pair(page, pair) for pair in page.pairs)
    or "<p>No query finds another class first.</p>"
  )
  return Section(
    "pairs",
    "Most confused pairs of classes",
    '<p class="note">By the share of queries of both whose nearest image is of the other.'
    f"{told}</p>{body}",
  )


def _pair(page: Page, pair: Pair) -> str:
  names = [_name(page, label) for label in pair.labels]
  plain = [page.class_names[label] for label in pair.labels]
  said = " and ".join(
    f"{errors:,} of {counted(queries, 'query')} of {html.escape(name)}"
    for errors, queries, name in zip(pair.errors, pair.queries, plain, strict=True)
  )
  tiles = "".join(
    f'<figure class="{kind}">{_tile(page, row)}<figcaption>{what}<br>'
    f"{html.escape(page.class_names[page.labels[row]])}</figcaption></figure>"
    for row, kind, what in zip(
      pair.example, ("asked", "wrong"), ("a query", "what it found"), strict=True
    )
  )
  rows = [["attribute", *plain, "apart"]]
  rows += [[x.name, *(f"{mean:.2f}" for mean in x.means), f"{x.distance:+.1f}"] for x in pair.apart]
  table = frame.table(rows) if pair.apart else ""
  if page.entries and not pair.apart:
    table = '<p class="note">No attribute is read that tells them apart.</p>'
  return f"""<div class="pair"><h3>{names[0]} and {names[1]}</h3><div class="tiles">{tiles}</div>
<div><p>{said} find the other first.</p>{table}</div></div>"""


def _map(page: Page) -> Section:
  body = f"""<p class="note">{html.escape(page.about_map)} A dot is an image whose nearest image is
of its class, a cross one whose nearest is not. What is near here may be far in the space of the
embeddings.</p>
<ul class="key"><li><span class="swatch"></span>nearest image right</li>
<li><span class="swatch wrong">&times;</span>nearest image wrong</li></ul>
<div class="tools"><label for="map-search">Find a class</label>
<input id="map-search" type="search" autocomplete="off" placeholder="then Enter; Escape for none">
<button type="button" id="map-zoom-in">Zoom in</button>
<button type="button" id="map-zoom-out">Zoom out</button>
<button type="button" id="map-zoom-reset">Reset</button></div>
<div class="mapbox"><div id="map" role="img" aria-label="Map of the embeddings. The buttons below
show the images of a class."></div><div id="map-tip" hidden></div></div>
<p class="count" id="map-number" role="status"></p>
<div id="map-found" role="group" aria-label="Classes"></div>
<p id="map-chosen" role="status"></p>
<div id="map-strip" role="group" aria-label="Images of the class"></div>"""
  return Section("map-of-images", "Map of embeddings", body)


def _vocabulary(page: Page) -> Section:
  about = f'<p class="note">{html.escape(page.about_attributes)}</p>'
  if not page.entries:
    return Section("attributes", "Attributes", about)
  head = ["attribute", "read in", "training classes that attend to it", "images that show it most"]
  rows = [
    [
      html.escape(of.name) + _sentences(of),
      f"{of.shown:,}",
      ", ".join(f"{html.escape(name)} {100 * weight:.0f} %" for name, weight in of.classes),
      f'<div class="examples">{"".join(_tile(page, row, SMALL) for row in of.examples)}</div>',
    ]
    for of in page.entries[:MOST_ENTRIES]
  ]
  left = ""
  if len(page.entries) > MOST_ENTRIES:
    left = f"<p>The {MOST_ENTRIES} of {len(page.entries):,} that are read most often.</p>"
  table = frame.table_of_html(head, rows, words=(2, 3), id="attributes-table")
  body = f"{about}{left}{_filter('attributes-table', 'Find an attribute')}{table}"
  return Section("attributes", "Attributes", body)


def _sentences(of: Entry) -> str:
  listed = "".join(f"<li>{html.escape(text)}</li>" for text in of.sentences)
  return frame.folded("its sentences", f"<ul>{listed}</ul>") if listed else ""
