"""Why a hit matched: what `Retriever.explain` says of the query and the hit, as HTML."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from lafg_jax.demo_page import cards
from lafg_jax.demo_page.desk import Desk, Visit
from lafg_jax.explain import overlay
from lafg_jax.explain.records import Explanation, Named
from lafg_jax.gallery.store import Hit
from lafg_jax.report import pictures

# What the colours say, by `Explanation.shown`.
_HEAT = {
  "occlusion": "Yellow: covering this place lowers the score most.",
  "rollout": "Yellow: attention carries this place to the embedding.",
  "patches": "Yellow: this place is like the other image.",
}


def panel(served: Desk, visit: Visit, hit: Hit) -> str:
  """The query beside a hit, and what is known of why they match. Raises UserError."""
  retriever = served.model.retriever
  images: list[Any]
  if visit.image is None:
    found = retriever.explain(hit.path, text=visit.words)
    images, names = [hit.path], [hit.label or "the hit"]
  else:
    found = retriever.explain(visit.image, hit.path)
    images, names = [visit.image, hit.path], ["the query", hit.label or "the hit"]
  crops = retriever.crops(images)
  figures = "".join(
    _figure(crop, heat, name) for crop, heat, name in zip(crops, found.heat, names, strict=True)
  )
  lines = [_compared(found, visit), _lists(found, names), *_notes(found, visit)]
  return f'<h3>Why this one?</h3><div class="lafg-pair">{figures}</div>{"".join(lines)}'


def _figure(crop: np.ndarray, heat: np.ndarray | None, name: str) -> str:
  """What the model saw of an image, with its heat over it."""
  drawn = Image.fromarray(crop).resize((cards.SIDE, cards.SIDE), Image.Resampling.BICUBIC)
  if heat is not None:
    drawn = overlay.over(np.asarray(drawn), heat)
  picture = pictures.inline(drawn, f"{name}, and where in it the score comes from", "JPEG")
  return f"<figure>{picture}<figcaption>{cards.escaped(name)}</figcaption></figure>"


def _compared(found: Explanation, visit: Visit) -> str:
  other = "the two images" if visit.image is not None else f"the image and {visit.words!r}"
  score = "" if found.score is None else f"Cosine of {other}: {found.score:.3f}. "
  heat = _HEAT.get(found.shown, "") if any(x is not None for x in found.heat) else ""
  return f"<p>{html.escape(score + heat)}</p>"


def _lists(found: Explanation, names: Sequence[str]) -> str:
  if len(names) < 2:
    rows = [(f"{names[0]} shows", found.attributes[0])]
  else:
    rows = [("Both show", found.shared)]
    rows += [(f"{name} alone", x) for name, x in zip(names, found.differ, strict=True)]
  shown = [(name, entries) for name, entries in rows if entries]
  if not shown:
    return ""
  lines = "".join(f"<dt>{html.escape(name)}</dt><dd>{_named(x)}</dd>" for name, x in shown)
  return f'<dl class="lafg-shared">{lines}</dl>'


def _named(entries: Sequence[Named]) -> str:
  return html.escape(", ".join(f"{x.name} ({x.cosine:.2f})" for x in entries))


def _notes(found: Explanation, visit: Visit) -> list[str]:
  said = []
  if visit.image is not None and visit.words:
    said.append("This compares the two images: the words of the query are no part of it.")
  if not any(found.attributes):
    said.append(_nothing(found.note))
  elif found.note:
    said.append(found.note)
  return [f'<p class="lafg-note">{html.escape(x)}</p>' for x in said]


def _nothing(note: str) -> str:
  if "vocabulary=" in note:
    return "This model has no attributes of its own to name."
  return f"No attribute is named: {note or 'none is above the score of an untrained model'}."
