"""The HTML of the page: the query, the hits, one line of news. Every text is escaped; pictures are
inside, as small JPEGs drawn anew, so that no file is served."""

import base64
import functools
import html
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from lafg_jax.data import decoders, images
from lafg_jax.gallery import sheet
from lafg_jax.gallery.searching import Answer
from lafg_jax.gallery.store import Hit
from lafg_jax.report import pictures

SIDE = 260
_KEPT = 2000
_GONE = '<span class="lafg-gone">cannot be read any more</span>'


def news(text: str, kind: str = "said") -> str:
  """One line above the hits; kind 'error' is told at once by screen readers."""
  role = "alert" if kind == "error" else "status"
  return f'<p class="lafg-{kind}" role="{role}">{html.escape(text)}</p>' if text else ""


def query(image: bytes | str | None) -> str:
  """The query's image as it was read."""
  if image is None:
    return ""
  name = "your image" if isinstance(image, bytes) else os.path.basename(image)
  return f'<figure class="lafg-query">{thumbnail(image, "the query")}' + (
    f"<figcaption>Query: {html.escape(name)}</figcaption></figure>"
  )


def verdict(answer: Answer) -> str:
  """What is said above the hits."""
  if said := sheet.verdict(answer):
    return news(said, "warning")
  below = len(answer.hits) - answer.similar()
  more = f"; {below} of them below the floor, {answer.floor:.3f}" if below else ""
  return news(f"{len(answer.hits)} nearest, by {answer.of}{more}")


def hits(answer: Answer) -> str:
  """A card a hit: its picture searches on, 'Why?' explains it."""
  with ThreadPoolExecutor(os.cpu_count(), "thumbnail") as pool:
    drawn = list(pool.map(_of_hit, answer.hits))
  cards = [
    _card(place, hit, picture, answer.floor)
    for place, (hit, picture) in enumerate(zip(answer.hits, drawn, strict=True))
  ]
  return f'<ol class="lafg-hits">{"".join(cards)}</ol>'


def _card(place: int, hit: Hit, picture: str, floor: float | None) -> str:
  far = floor is not None and hit.score < floor
  name = os.path.basename(hit.path)
  own = html.escape(" · ".join(f"{key}: {value}" for key, value in hit.metadata.items()))
  about = f"{html.escape(hit.label)}, " if hit.label else ""
  label = f"<strong>{html.escape(hit.label)}</strong><br>" if hit.label else ""
  below = "<br>below the floor" if far else ""
  return (
    f'<li class="lafg-hit{" lafg-far" if far else ""}">'
    f'<button class="lafg-on" data-do="click" data-place="{place}" '
    f'aria-label="Search on with hit {place + 1}: {about}{html.escape(name)}">{picture}</button>'
    f'<div><span class="lafg-score">{place + 1}: {hit.score:.3f}{below}</span>'
    f'<button class="lafg-why" data-do="select" data-place="{place}">Why?</button></div>'
    f'{label}<small title="{html.escape(hit.path)}">{html.escape(name)}<br>{own}</small>'
    "</li>"
  )


def _of_hit(hit: Hit) -> str:
  return thumbnail(hit.path, f"hit: {hit.label or os.path.basename(hit.path)}")


def thumbnail(image: bytes | str, about: str) -> str:
  """An `img` of an upload or a file, its longer side SIDE pixels at most."""
  try:
    kept = drawn(image, None if isinstance(image, bytes) else os.stat(image).st_mtime_ns)
  except OSError:
    return _GONE
  return f'<img alt="{html.escape(about)}" src="data:image/jpeg;base64,{kept}">'


@functools.lru_cache(_KEPT)
def drawn(image: bytes | str, version: int | None) -> str:
  """Base64 of the JPEG; `version` is the date of a file, so that a changed one is drawn anew."""
  del version
  opened = decoders.opener(scaled=True)(image)
  width, height = images.size_of(opened)
  # The shorter side of a picture whose longer one is SIDE.
  side = max(1, SIDE * min(width, height) // max(width, height))
  small = Image.fromarray(images.resize_shorter(opened, side))
  return base64.b64encode(pictures.encoded(small, "JPEG")).decode()


def escaped(text: str) -> str:
  """A plain text as HTML."""
  return html.escape(text)


def facts(lines: Sequence[str]) -> str:
  """The lines below the title."""
  return "".join(f"<p>{html.escape(line)}</p>" for line in lines)
