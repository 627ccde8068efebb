"""The page report.html of composed retrieval: figures, and queries with what each term did."""

import html
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lafg_jax.report import curves, frame, pictures, term_bars
from lafg_jax.report.frame import Chart, Section
from lafg_jax.report.term_bars import Term
from lafg_jax.utils.counted import counted

FILE = frame.FILE
TILE, NUM_ANSWERS, NUM_KINDS = 112, 6, 12
# What an answer is: its sign and word beside its colour, for those who tell colours badly.
MARKS = {
  "right": ("\N{CHECK MARK}", "right"),
  "near": ("\N{ALMOST EQUAL TO}", "near miss"),
  "reference": ("\N{ANTICLOCKWISE OPEN CIRCLE ARROW}", "the reference"),
  "wrong": ("\N{MULTIPLICATION SIGN}", "wrong"),
  "unknown": ("?", "not known"),
}


class Answer(NamedTuple):
  """One place of a ranking.

  place: from 1 on; 0 beyond what was ranked. image: its id. kind: of `MARKS`. score: that it was
  ranked by; None where it is not known. terms: what each of `Page.terms` contributed to the score,
  their sum; () where it is not known. why: what makes it a near miss.
  """

  place: int
  image: str
  kind: str
  score: float | None
  terms: tuple[float, ...] = ()
  why: str = ""


class Shown(NamedTuple):
  """One query with the first places of its ranking, and the first right one behind them.

  id, part: its name. reference: id of its image. rank: of the first right answer, from 1 on; 0
  where none is among `ranked` places, None where the right answers are secret. captions: of the
  reference image. edited: descriptions of the image that is looked for. added: objects.
  """

  id: str
  part: str
  reference: str
  text: str
  kinds: tuple[str, ...]
  answers: tuple[Answer, ...]
  rank: int | None
  ranked: int
  num_targets: int = 0
  captions: tuple[str, ...] = ()
  edited: tuple[str, ...] = ()
  added: str = ""


class Page(NamedTuple):
  """What `run` writes.

  name: of the data set. notes: sentences about what was evaluated. tables: titles and rows of the
  figures, the first one on top. terms: of the query, with their weights. shown: the queries. share:
  {kind: (queries whose first answer is right, queries)} of all, {} where targets are secret.
  picture: of an image's id, uint8 [TILE, TILE, 3].
  training: its charts. compared: the section about other runs.
  """

  name: str
  notes: Sequence[str]
  tables: Sequence[tuple[str, Sequence[Sequence[str]]]]
  terms: Sequence[Term]
  shown: Sequence[Shown]
  share: dict[str, tuple[int, int]]
  picture: Callable[[str, str], np.ndarray]
  training: Sequence[Chart] = ()
  compared: Section | None = None


def run(workdir: str, page: Page) -> None:
  """Writes `report.html`."""
  lead = f"<p>{html.escape('; '.join(page.notes))}.</p>"
  title = f"lafg_jax: {page.name}, composed queries"
  frame.write(workdir, frame.page(title, lead, sections(page), page.training))


def sections(page: Page) -> list[Section]:
  """The parts of the page."""
  (_, first), *others = page.tables
  more = "".join(frame.folded(title, frame.table(rows)) for title, rows in others)
  figures = f"""{frame.table(first)}<p class="note">The first row is the method of this run. The
others are baselines, and the same with a part left out or replaced, on the same images and queries.
chance: random rankings.</p>{more}"""
  queries = f"""<p class="note">A reference image and a sentence, and what they find, best first.
They are evenly spaced among those that found a right image first and among those that did not, kind
by kind: half of what is shown are failures where there are as many. Where no right image is among
the first, the best one stands behind them. {_legend(page)}</p>
{term_bars.STYLE}{term_bars.legend(page.terms)}{_by_kind(page)}"""
  found = [Section("figures", "Figures", figures), *([page.compared] if page.compared else [])]
  found.append(Section("queries", "Queries", queries))
  if terms := _terms_of_all(page):
    found.append(Section("terms", "What each term contributes", terms))
  return [*found, *([curves.section(page.training)] if page.training else [])]


def _legend(page: Page) -> str:
  used = {answer.kind for shown in page.shown for answer in shown.answers}
  said = (f"{sign} {word}" for kind, (sign, word) in MARKS.items() if kind in used)
  return html.escape(", ".join(said)) + "."


def _by_kind(page: Page) -> str:
  """The queries under a heading for each kind of sentence; one of several kinds stands once."""
  kinds: dict[str, list[Shown]] = {}
  for shown in page.shown:
    kinds.setdefault(shown.kinds[0] if shown.kinds else "", []).append(shown)
  text = ""
  for kind, queries in kinds.items():
    if len(kinds) > 1 or kind:
      found = page.share.get(kind)
      of = f": {found[0]:,} of {found[1]:,} found a right image first" if found else ""
      text += f"<h3>{html.escape(kind.replace('_', ' ') or 'others')}{of}</h3>"
    text += "".join(_query(page, shown) for shown in queries)
  return text


def _query(page: Page, shown: Shown) -> str:
  bars = term_bars.bars([answer.terms for answer in shown.answers], page.terms)
  tiles = ""
  for answer, bar in zip(shown.answers, bars, strict=True):
    sign, word = MARKS[answer.kind]
    about = f"place {answer.place}: {answer.image}" if answer.place else answer.image
    number = f"{answer.place}." if answer.place else "beyond:"
    why = f'<div class="why">{html.escape(answer.why)}</div>' if answer.why else ""
    score = "" if answer.score is None else f'<div class="score">{answer.score:.3f}</div>'
    tiles += (
      f'<figure class="{answer.kind}">{_picture(page, shown.part, answer.image, about)}'
      f'<figcaption><span class="mark">{number} {sign} {word}</span>{why}{score}{bar}'
      "</figcaption></figure>"
    )
  reference = _picture(page, shown.part, shown.reference, f"reference {shown.reference}")
  name = f"{shown.part}, query {shown.id}"
  return f"""<div class="query composed" id="{html.escape(name)}"><figure>{reference}<figcaption>the
reference</figcaption></figure><div><p class="said">{html.escape(shown.text)}</p>
{_words("its captions", shown.captions)}{_words("edited", shown.edited)}
{_words("added", [shown.added] if shown.added else [])}
<p class="note"><span class="verdict">{_verdict(shown)}</span> {html.escape(name)}{_kinds(shown)}
</p></div><div class="tiles">{tiles}</div></div>"""


def _verdict(shown: Shown) -> str:
  if shown.rank is None:
    return "Right answers are secret."
  of = f" ({counted(shown.num_targets, 'right image')})" if shown.num_targets > 1 else ""
  if not shown.rank:
    return f"No right image among the first {shown.ranked:,}{of}."
  return f"Right image at place {shown.rank:,}{of}."


def _kinds(shown: Shown) -> str:
  said = ", ".join(kind.replace("_", " ") for kind in shown.kinds)
  return f" ({html.escape(said)})" if said else ""


def _words(title: str, said: Sequence[str]) -> str:
  """A line with the first text; the others are folded."""
  if not said:
    return ""
  rest = "".join(f"<li>{html.escape(text)}</li>" for text in said[1:])
  more = (
    f"<details><summary>{len(said) - 1} more</summary><ul>{rest}</ul></details>" if rest else ""
  )
  return f'<p><span class="note">{title}:</span> {html.escape(said[0])}</p>{more}'


def _picture(page: Page, part: str, image: str, about: str) -> str:
  from PIL import Image

  return pictures.inline(Image.fromarray(page.picture(part, image)), about, "JPEG")


def _terms_of_all(page: Page) -> str:
  """What each term gave to right and to other answers, over all queries that are shown."""
  answers = [answer for shown in page.shown for answer in shown.answers if answer.terms]
  right = [answer.terms for answer in answers if answer.kind == "right"]
  others = [answer.terms for answer in answers if answer.kind not in ("right", "unknown")]
  if not (right and others):
    return ""
  rows = [["term", "weight", "right answers", "other answers", "difference"]]
  means = zip(page.terms, np.mean(right, axis=0), np.mean(others, axis=0), strict=True)
  for term, a, b in means:
    rows.append([term.name, f"{term.weight:.2f}", f"{a:.3f}", f"{b:.3f}", f"{a - b:+.3f}"])
  return f"""<p class="note">The mean part of the score, over the
{len(right):,} right and {len(others):,} other answers above. A term tells right from wrong where
its difference is above 0. These are the queries that are shown, not all.</p>{frame.table(rows)}"""
