"""Answers as a table, as JSON, and as a contact sheet: one HTML file that works offline."""

import html
import json
import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from lafg_jax.data import images, listing
from lafg_jax.gallery.searching import Answer
from lafg_jax.gallery.store import Gallery, Hit
from lafg_jax.report import pictures

SIDE = 200
_STYLE = (
  "<style>.sheet{display:flex;flex-wrap:wrap;gap:14px}.sheet figure{margin:0;width:200px;"
  "overflow-wrap:anywhere;font-size:13px}.sheet .far{opacity:.55}.none{width:200px;height:120px;"
  "display:flex;align-items:center;justify-content:center;border:1px dashed}</style>"
)


def verdict(answer: Answer) -> str:
  """One line where nothing is similar; '' where something is, or the floor is not known."""
  if not answer.hits:
    return "nothing found: the gallery is empty, or no image passes the filter"
  if answer.similar() or answer.floor is None:
    return ""
  return (
    f"nothing similar: the best score is {answer.hits[0].score:.3f}, and the floor of such a query "
    f"in this gallery is {answer.floor:.3f}"
  )


def table(answer: Answer) -> str:
  """Rank, score, class, path and metadata, a line a hit; hits below the floor have a '-'."""
  rows = [("", "score", "class", "path", "")]
  for rank, hit in enumerate(answer.hits, 1):
    below = answer.floor is not None and hit.score < answer.floor
    own = " ".join(f"{name}={_shown(x)}" for name, x in hit.metadata.items())
    mark = f"{rank}{'-' if below else ''}"
    rows.append((mark, f"{hit.score:.3f}", _shown(hit.label), _shown(hit.path), own))
  widths = [max(len(row[k]) for row in rows) for k in range(4)]
  lines = ["  ".join(x.ljust(w) for x, w in zip(row, [*widths, 0], strict=True)) for row in rows]
  return "\n".join(
    [line.rstrip() for line in lines] + ([verdict(answer)] if verdict(answer) else [])
  )


def _shown(cell: Any) -> str:
  """A cell for a terminal: what would end the line or steer the terminal is spelled out."""
  return listing.shown(str(cell))


def as_json(answer: Answer, gallery: Gallery) -> str:
  """One JSON object; non-ASCII letters are escaped."""
  hits = [
    {"rank": rank, "score": hit.score, "path": hit.path, "class": hit.label}
    | {"similar": None if answer.floor is None else hit.score >= answer.floor}
    | {"metadata": hit.metadata}
    for rank, hit in enumerate(answer.hits, 1)
  ]
  facts: dict[str, Any] = {
    "gallery": gallery.place,
    "model": gallery.facts.model,
    "query": answer.of,
  }
  facts |= {"floor": answer.floor, "nothing_similar": bool(verdict(answer))}
  return json.dumps(facts | {"hits": hits}, indent=2)


def page(answer: Answer, query: Sequence[str], image: str | None = None) -> str:
  """The contact sheet. `query`: lines that say what was asked; `image`: the query's own file."""
  said = "".join(f"<p>{html.escape(line)}</p>" for line in query)
  own = f'<div class="sheet">{_figure(image, "the query", "")}</div>' if image else ""
  note = f"<p><strong>{html.escape(verdict(answer))}</strong></p>" if verdict(answer) else ""
  figures = "".join(
    _hit(rank, hit, answer.floor is not None and hit.score < answer.floor)
    for rank, hit in enumerate(answer.hits, 1)
  )
  body = f'{_STYLE}{said}{own}{note}<div class="sheet">{figures}</div>'
  return pictures.page("Search", body)


def _hit(rank: int, hit: Hit, below: bool) -> str:
  own = "".join(
    f"<br>{html.escape(str(name))}: {html.escape(str(x))}" for name, x in hit.metadata.items()
  )
  label = f"{html.escape(hit.label)}<br>" if hit.label else ""
  far = " (below the floor)" if below else ""
  text = f"<b>{rank}</b> {hit.score:.3f}{far}<br>{label}<small>{html.escape(hit.path)}{own}</small>"
  return _figure(hit.path, f"{rank}: {os.path.basename(hit.path)}", text, "far" if below else "")


def _figure(path: str, about: str, text: str, kind: str = "") -> str:
  try:
    picture = images.open_image(path)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    drawn = pictures.inline(picture, about, "JPEG")
  except images.UnreadableImage:
    drawn = f'<div class="none">{html.escape("cannot be read any more")}</div>'
  return f'<figure class="{kind}">{drawn}<figcaption>{text}</figcaption></figure>'
