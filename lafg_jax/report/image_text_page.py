"""The page report.html of image-text retrieval: figures, what is found, and what words weigh."""

import html
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lafg_jax.data import captions
from lafg_jax.data.captions import Captioned
from lafg_jax.evaluate import knn, results
from lafg_jax.report import comparison, curves, frame, pictures, word_weights
from lafg_jax.report.frame import Section
from lafg_jax.utils import files
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

FILE, WORDS = frame.FILE, "word_weights.json"
NUM_QUERIES, NUM_CAPTIONS, NUM_IMAGES, TILE = 8, 5, 6, 112
# What an answer is: its sign and word beside its colour, for those who tell colours badly.
_KINDS = {
  "right": ("\N{CHECK MARK}", "its own"),
  "class": ("\N{ALMOST EQUAL TO}", "same class"),
  "wrong": ("\N{MULTIPLICATION SIGN}", "another class"),
  "other": ("\N{MULTIPLICATION SIGN}", "another one"),
}
_CURVES = {
  "loss": ("Loss", "loss, nats"),
  "l_con": ("L_con, the contrastive loss", "L_con, nats"),
  "l_cate": ("L_cate, the loss of classes", "L_cate, nats"),
  "images_per_second": ("Speed", "images per second"),
  "val_recall@1": ("R@1 of the validation images, mean of both ways", "R@1, fraction"),
  "val_image_to_text/recall@1": ("R@1 of the validation images, image to text", "R@1, fraction"),
  "val_text_to_image/recall@1": ("R@1 of the validation images, text to image", "R@1, fraction"),
}


class _Evaluated(NamedTuple):
  """What the evaluation left, embeddings [N, D] of images and [n, D] of texts, and their split."""

  images: np.ndarray
  texts: np.ndarray
  captioned: Captioned


def run(
  config: Any,
  workdir: str,
  captioned: Captioned,
  tables: Sequence[tuple[str, Sequence[Sequence[str]]]],
  weights: word_weights.Weights | None = None,
) -> None:
  """Writes `report.html`, and `word_weights.json` where there are weights.

  Args:
    captioned: the split that was evaluated.
    tables: titles and rows of the tables of figures, the first one on top.
    weights: {row of the split: [(word, weight), ...]} of the words of some captions, each by its
      own image.

  Raises:
    UserError: there is no evaluation yet, or it is of something else than the config says.
  """
  result = results.read_result(workdir)
  check(config, workdir, result, captioned)
  evaluated = _read(workdir, captioned)
  others = comparison.read(config.evaluate.compare, result)
  if weights:
    words = json.dumps(word_weights.summary(captioned, weights), indent=2) + "\n"
    with files.replacing(os.path.join(workdir, WORDS)) as temporary:
      temporary.write_text(words, encoding="utf-8")
  runs = [("this run", workdir), *((one.name, one.workdir) for one in others)]
  training, compared = curves.charts(runs, _CURVES), comparison.section(result, others)
  parts = [_figures(tables), *([compared] if compared else []), *_found(evaluated)]
  parts += [*_words(captioned, weights or {}), curves.section(training)]
  lead = f"<p>{'; '.join(_notes(result))}.</p>"
  frame.write(
    workdir, frame.page(f"lafg_jax: {result['dataset']}, captions", lead, parts, training)
  )


def check(config: Any, workdir: str, result: dict[str, Any], captioned: Captioned) -> None:
  """Raises UserError where an evaluation is of something else than the config says."""
  now = {"dataset": captioned.name, **{k: config.evaluate[k] for k in ("split", "source")}}
  changed = [f"{k}: {result.get(k)} -> {v}" for k, v in now.items() if result.get(k) != v]
  if changed:
    what = f"{os.path.join(workdir, results.FILE)} is of another evaluation ({'; '.join(changed)})"
    raise UserError(f"{what}: run --stage=evaluate first")


def _read(workdir: str, captioned: Captioned) -> _Evaluated:
  path = os.path.join(workdir, results.EMBEDDINGS)
  arrays = files.read_npz(path, ("vectors", "texts", "captions"), stage="evaluate")
  same = arrays["captions"].tolist() == list(captioned.captions)
  if not same or len(arrays["vectors"]) != captioned.num_images:
    what = f"of other captions than {captioned.name} has in {captioned.split}"
    raise UserError(f"{path} is {what}: run --stage=evaluate again")
  return _Evaluated(arrays["vectors"], arrays["texts"], captioned)


def _figures(tables: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> Section:
  (_, first), *others = tables
  more = "".join(frame.folded(title, frame.table(rows)) for title, rows in others)
  body = f"""{frame.table(first)}<p class="note">ceiling: what equal captions leave to the best of
models. class oracle: a perfect classifier that guesses within the class. chance: random
rankings.</p>{more}"""
  return Section("figures", "Figures", body)


def _found(evaluated: _Evaluated) -> list[Section]:
  captioned = evaluated.captioned
  captions_of = f"""<p class="note">Evenly spaced images and the captions nearest to each.
{_legend("caption", captioned)}</p>{_image_to_captions(evaluated)}"""
  images_of = f"""<p class="note">Evenly spaced captions and the images nearest to each.
The image of an equal caption is its own too. {_legend("image", captioned)}</p>
{_caption_to_images(evaluated)}"""
  return [
    Section("image-to-captions", "Image to captions", captions_of),
    Section("caption-to-images", "Caption to images", images_of),
  ]


def _notes(result: dict[str, Any]) -> list[str]:
  classes = f" of {counted(result['num_classes'], 'class')}" if result["num_classes"] else ""
  texts = counted(result["num_texts"], "caption")
  notes = [f"{counted(result['num_images'], 'image')}{classes} with {texts}"]
  if equal := result["num_texts"] - result["num_strings"]:
    notes.append(f"{counted(equal, 'caption')} equal to one before")
  if result.get("partial"):
    notes.append("some listed images are missing: not comparable with published figures")
  return [html.escape(note) for note in notes]


def _legend(what: str, captioned: Captioned) -> str:
  kinds = ("right", "class", "wrong") if captioned.class_names else ("right", "other")
  return ", ".join(f"{_KINDS[kind][0]} {_KINDS[kind][1]}" for kind in kinds) + f" ({what})."


def _kind(captioned: Captioned, right: bool, label: int, labels: Sequence[int]) -> str:
  """Which of `_KINDS` an answer is: `labels` are its classes, `label` that of the query."""
  if right:
    return "right"
  if not captioned.class_names:
    return "other"
  return "class" if label in labels else "wrong"


def _mark(kind: str) -> str:
  sign, word = _KINDS[kind]
  return f'<span class="mark">{sign} {word}</span>'


def _tile(captioned: Captioned, row: int) -> str:
  tile = pictures.tile(captions.as_dataset(captioned), row, TILE)
  return pictures.inline(Image.fromarray(tile), f"image {captioned.ids[row]}", "JPEG")


def _spaced(count: int) -> list[int]:
  """Not picked: the pages show failures as often as they are."""
  return np.linspace(0, count - 1, min(NUM_QUERIES, count)).astype(int).tolist()


def _image_to_captions(evaluated: _Evaluated) -> str:
  images, texts, captioned = evaluated
  number, strings = captions.equal_captions(captioned.captions)
  # Equal captions are one answer.
  first = np.unique(number, return_index=True)[1]
  rows, chosen = captions.one_per_image(captioned), _spaced(len(images))
  found = knn.search(images[chosen], texts[first], min(NUM_CAPTIONS, len(first)))[1]
  drawn = []
  for image, answers in zip(chosen, found.tolist(), strict=True):
    own = number[captioned.image_of == image].tolist()
    lines = []
    for answer in answers:
      labels = captioned.labels[number == answer].tolist()
      kind = _kind(captioned, answer in own, captioned.labels[rows[image]], labels)
      lines.append(f'<li class="{kind}">{_mark(kind)} {html.escape(strings[answer])}</li>')
    listed = f"<ol>{''.join(lines)}</ol>"
    if not set(own) & set(answers):
      said = html.escape(strings[own[0]])
      listed += f'<p class="note">not among them, its own: {said}</p>'
    drawn.append(
      f'<div class="found">{_tile(captioned, int(rows[image]))}<div>{listed}</div></div>'
    )
  return "".join(drawn)


def _caption_to_images(evaluated: _Evaluated) -> str:
  images, texts, captioned = evaluated
  number = captions.equal_captions(captioned.captions)[0]
  rows, chosen = captions.one_per_image(captioned), _spaced(len(texts))
  found = knn.search(texts[chosen], images, min(NUM_IMAGES, len(images)))[1]
  drawn = []
  for text, answers in zip(chosen, found.tolist(), strict=True):
    own = set(captioned.image_of[number == number[text]].tolist())
    tiles = ""
    for answer in answers:
      label = captioned.labels[rows[answer]]
      kind = _kind(captioned, answer in own, captioned.labels[text], [label])
      tile = _tile(captioned, int(rows[answer]))
      tiles += f'<figure class="{kind}">{tile}<figcaption>{_mark(kind)}</figcaption></figure>'
    said = html.escape(captioned.captions[text])
    drawn.append(f'<p>{said}</p><div class="tiles">{tiles}</div>')
  return "".join(drawn)


def _words(captioned: Captioned, weights: word_weights.Weights) -> list[Section]:
  if not weights:
    return []
  rows = list(weights)
  shown = [rows[k] for k in _spaced(len(rows))]
  listed = [["word", "mean weight", "times"]]
  listed += [[w, f"{mean:.2f}", f"{n:,}"] for w, mean, n in word_weights.heaviest(weights)]
  title = f"The heaviest words of {counted(len(rows), 'caption')}"
  body = f"""<p class="note">Captions by their own images: the darker and the more underlined, the
heavier the word. Weights are of training; in evaluation all are 1.</p>
{"".join(_shaded(captioned, row, weights[row]) for row in shown)}{_kinds(captioned, weights)}
{frame.folded(title, frame.table(listed))}"""
  return [Section("words", "Which words weigh most", body)]


def _shaded(captioned: Captioned, row: int, words: Sequence[tuple[str, float]]) -> str:
  """A caption with its image, its words shaded by weight between the caption's extremes."""
  caption, text, at = captioned.captions[row], "", 0
  places = word_weights.placed(caption, words)
  if not places:
    return ""
  values = [place.weight for place in places]
  low, spread = min(values), max(max(values) - min(values), 1e-9)
  for start, end, weight in places:
    shade = (weight - low) / spread
    text += html.escape(caption[at:start])
    word = html.escape(caption[start:end])
    text += f'<span style="--w:{shade:.2f}" title="{weight:.2f}">{word}</span>'
    at = end
  text += html.escape(caption[at:])
  top = sorted(places, key=lambda place: -place.weight)[:3]
  named = ", ".join(f"{html.escape(caption[a:b])} {weight:.2f}" for a, b, weight in top)
  said = f'<p class="weighed">{text}</p><p class="note">heaviest: {named}</p>'
  return f'<div class="found">{_tile(captioned, row)}<div>{said}</div></div>'


def _kinds(captioned: Captioned, weights: word_weights.Weights) -> str:
  kinds = word_weights.by_kind(captioned, weights)
  if not kinds:
    return ""
  rows = [["kind of word", "words", "share of words, %", "share of weight, %", "mean weight"]]
  for kind, of in kinds.items():
    shares = [results.percent(of[name]) for name in ("share_of_words", "share_of_weight")]
    rows.append([kind, f"{of['words']:,}", *shares, f"{of['mean_weight']:.2f}"])
  return f"""<h3>Attribute words</h3><p class="note">Here the truth is known. Were all words to
weigh alike, a kind's share of weight would be its share of words.</p>{frame.table(rows)}"""
