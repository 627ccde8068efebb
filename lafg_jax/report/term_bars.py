"""Small stacked bars: what each term of a query contributed to a score."""

import html
from collections.abc import Sequence
from typing import NamedTuple

# Told apart by those who tell colours badly (Okabe and Ito), and by their letters.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
_WIDTH, _HEIGHT = 112, 12
STYLE = """<style>
.terms { font-variant-numeric: tabular-nums; font-size: 11px; line-height: 1.3; }
.terms span { white-space: nowrap; margin-right: .3em; }
.score { font-variant-numeric: tabular-nums; }
.bar { display: block; margin: 2px 0; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
</style>"""


class Term(NamedTuple):
  """A term of the query: a letter for it, its name in words, and its weight."""

  letter: str
  name: str
  weight: float


def legend(terms: Sequence[Term]) -> str:
  """A line that says what the colours and letters of bars mean."""
  if not terms:
    return ""
  items = "".join(
    f'<li><span class="swatch" style="background:{_COLOURS[k]}"></span> '
    f"{html.escape(term.letter)}: {html.escape(term.name)}, weight {term.weight:.2f}</li>"
    for k, term in enumerate(terms)
  )
  return f"""<p class="note">The bar below an answer is its score, in parts: what each term of the
query, times its weight, contributed. Parts below 0 go to the left of the line.</p>
<ul class="legend">{items}</ul>"""


def bars(parts: Sequence[Sequence[float]], terms: Sequence[Term]) -> list[str]:
  """For each answer of a query the bar of its parts, all on one scale; '' without parts.

  Args:
    parts: of each answer, what each of `terms` contributed to its score.
    terms: at most four.
  """
  above = max([sum(x for x in of if x > 0) for of in parts], default=0.0)
  below = max([-sum(x for x in of if x < 0) for of in parts], default=0.0)
  scale = _WIDTH / max(above + below, 1e-9)
  return [_bar(of, terms, below * scale, scale) if of else "" for of in parts]


def _bar(of: Sequence[float], terms: Sequence[Term], zero: float, scale: float) -> str:
  drawn, right, left = "", zero, zero
  for k, value in enumerate(of):
    width = abs(value) * scale
    left -= width if value < 0 else 0
    start = left if value < 0 else right
    right += width if value > 0 else 0
    drawn += (
      f'<rect x="{start:.1f}" y="0" width="{width:.1f}" height="{_HEIGHT}" fill="{_COLOURS[k]}"/>'
    )
  line = f'<path d="M{zero:.1f} 0V{_HEIGHT}" stroke="currentColor"/>'
  said = [html.escape(f"{term.letter} {x:+.3f}") for term, x in zip(terms, of, strict=True)]
  label, spans = " ".join(said), " ".join(f"<span>{part}</span>" for part in said)
  box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
  svg = f'<svg class="bar" {box} role="img" aria-label="{label}">{drawn}{line}</svg>'
  return f'{svg}<div class="terms">{spans}</div>'
