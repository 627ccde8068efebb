"""The page in Gradio: what is where, and which of the desk's functions an event calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lafg_jax.demo_page import cards, desk, why
from lafg_jax.demo_page.desk import Desk, Visit
from lafg_jax.utils.errors import UserError

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
# Buttons of the hits name what they do and their place.
_ON_LOAD = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (button) trigger(button.dataset.do, {place: Number(button.dataset.place)});
});
"""
_ANY = "any class"


def theme() -> Any:
  """Gradio's plain theme with the fonts of the visitor's machine: none is asked for elsewhere."""
  import gradio as gr

  fonts = [gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")]
  return gr.themes.Base(font=fonts, font_mono=[gr.themes.Font("monospace")])


def blocks(served: Desk, title: str) -> Any:
  """The `gradio.Blocks` of a desk."""
  import gradio as gr

  texts, composing = served.model.reads_texts, desk.composing(served)
  # Uploads are in memory once they were read; their files go within minutes.
  with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(60, 120)) as page:
    gr.HTML(f"<h1>{cards.escaped(title)}</h1>" + cards.facts(_facts(served)))
    visit = gr.State(Visit(), time_to_live=3600)
    with gr.Row():
      with gr.Column(scale=1, min_width=280):
        upload = gr.File(label=_upload_label(served), type="binary", height=130, elem_id="upload")
        query = gr.HTML(elem_id="query")
        words = gr.Textbox(label="Words", placeholder=_words(composing), visible=texts)
        described = gr.Textbox(
          label="What you look for",
          placeholder="beside an image and words: a red one",
          visible=bool(composing and composing[1]),
        )
        label = gr.Dropdown(
          [_ANY, *served.classes],
          value=_ANY,
          label="Class",
          visible=0 < len(served.classes) <= desk.LISTED,
        )
        where = gr.Textbox(label="Filter", placeholder=_example(served), info=_columns(served))
        count = gr.Slider(1, desk.MOST, value=20, step=1, label="How many")
        search = gr.Button("Search", variant="primary")
        clear = gr.Button("Start anew")
      with gr.Column(scale=3):
        news = gr.HTML(elem_id="news")
        reason = gr.HTML(elem_id="why")
        hits = gr.HTML(elem_id="hits", js_on_load=_ON_LOAD)
    asked = [visit, words, label, where, count, described]
    shown = [visit, query, news, reason, hits]
    on: Any = {"api_visibility": "private", "concurrency_id": "desk", "show_progress": "hidden"}
    for event in (search.click, words.submit, described.submit, where.submit):
      event(_search(served), asked, shown, **on)
    upload.upload(_received(served), [upload, *asked[1:]], shown, **on)
    upload.clear(lambda visit: (visit._replace(image=None), ""), visit, [visit, query], **on)
    on_with = [visit, label, where, count]
    hits.click(_search_on(served), on_with, [*shown, upload, words, described], **on)
    hits.select(_explained(served), visit, [reason, news], **on)
    clear.click(
      lambda: (Visit(), "", "", "", "", None, "", "", _ANY, ""),
      None,
      [*shown, *(upload, words, described), label, where],
      **on,
    )
  return page.queue(default_concurrency_limit=1, max_size=64)


def _facts(served: Desk) -> list[str]:
  facts = served.gallery.facts
  first = f"{served.total:,} images; model {facts.model}, {facts.task}, step {facts.step}."
  state = [] if facts.complete else ["Indexing of this gallery has not come to its end."]
  return [f"{first} {desk.offers(served)}", *state]


def _upload_label(served: Desk) -> str:
  limits = served.limits
  return f"Image (up to {limits.size / 1e6:g} MB, {limits.pixels / 1e6:g} megapixels)"


def _words(composing: tuple[str, float] | None) -> str:
  """What stands in the empty field of words."""
  beside = f"{composing[0]} ... is red" if composing else "but red"
  return f"a red one; beside an image: {beside}"


def _columns(served: Desk) -> str:
  own = served.gallery.facts.own_columns()
  return "Columns: path, class, file_size" + "".join(f", {name}" for name in own)


def _example(served: Desk) -> str:
  own = served.gallery.facts.own_columns()
  return f"{own[0]} == 'x'" if own else "path like '%2019%'"


def _picked(label: Any) -> str:
  return label if isinstance(label, str) and label != _ANY else ""


def _answered(
  served: Desk, visit: Visit, words: Any, label: Any, where: Any, k: Any, described: Any = ""
) -> tuple:
  """What an event shows: (visit, query, news, why, hits)."""
  try:
    visit, answer = desk.asked(
      served,
      visit,
      *(str(words or ""), _picked(label), str(where or ""), int(k or 1)),
      described=str(described or ""),
    )
  except UserError as error:
    return visit, cards.query(visit.image), cards.news(_line(error), "error"), "", ""
  return visit, cards.query(visit.image), cards.verdict(answer), "", cards.hits(answer)


def _line(error: UserError) -> str:
  # As a form has it, not a command.
  return " ".join(str(error).replace("--where=", "filter ").split())


def _search(served: Desk) -> Callable[..., tuple]:
  return lambda *given: _answered(served, *given)


def _received(served: Desk) -> Callable[..., tuple]:
  def event(content: bytes | None, *given: Any) -> tuple:
    try:
      visit = desk.received(served, content or b"")
    except UserError as error:
      return Visit(), "", cards.news(_line(error), "error"), "", ""
    return _answered(served, visit, *given)

  return event


def _search_on(served: Desk) -> Callable[..., tuple]:
  import gradio as gr

  # No string: Gradio reads the annotation to know what to pass.
  def event(visit: Visit, label: Any, where: Any, k: Any, data: gr.EventData) -> tuple:
    try:
      hit = desk.hit_at(visit, getattr(data, "place", None))
    except UserError as error:
      return *_kept(visit, error), None, "", ""
    return *_answered(served, Visit(image=hit.path), "", label, where, k), None, "", ""

  return event


def _kept(visit: Visit, error: UserError) -> tuple:
  return visit, cards.query(visit.image), cards.news(_line(error), "error"), "", ""


def _explained(served: Desk) -> Callable[..., tuple]:
  import gradio as gr

  def event(visit: Visit, data: gr.EventData) -> tuple:
    try:
      hit = desk.hit_at(visit, getattr(data, "place", None))
      return why.panel(served, visit, hit), gr.skip()
    except UserError as error:
      return "", cards.news(_line(error), "error")

  return event
