"""Captions by an OpenAI-compatible endpoint that takes images, sent as base64 data URLs."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lafg_jax.data.images import UnreadableImage
from lafg_jax.language.captioners.record import Captions, Show
from lafg_jax.language.describers import chat, one_line
from lafg_jax.language.describers.thoughts import Unusable

# What is asked under captioner.prompt=auto.
REQUEST = (
  "Write a caption of this photograph in one short sentence of at most 15 words: what is in it, "
  "how many, what they do and where. Answer with the caption and nothing else."
)
# Of images that are sent; captions are no better for more pixels, and requests are slower.
_LONGEST_SIDE = 768
_QUALITY = 90


def chat_of(section: Any) -> chat.Chat:
  """The model of the config section `captioner`, which is asked for all captions at once."""
  more: dict[str, Any] = {"top_p": section.top_p} if section.temperature > 0 else {}
  more |= {"n": section.number} if section.number > 1 else {}
  return chat.of_section(section, "captioner", "caption", "model", **more)


def message(image: np.ndarray, request: str) -> list[dict[str, Any]]:
  """The parts of a message: the request, and the image, uint8 [H, W, 3], as a data URL."""
  from PIL import Image

  picture = Image.fromarray(image)
  picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BICUBIC)
  buffer = io.BytesIO()
  picture.save(buffer, "JPEG", quality=_QUALITY)
  url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
  return [{"type": "text", "text": request}, {"type": "image_url", "image_url": {"url": url}}]


def stream(
  section: Any, ask: chat.Ask, ids: Sequence[str], show: Show, had: dict[str, list[str]]
) -> Iterator[tuple[str, Captions | Unusable | UnreadableImage]]:
  """Asks about each image until it has `captioner.number` captions.

  An endpoint that gives one caption at a time is asked so many times; each is yielded as it comes.
  After 1 + `captioner.retries` rounds in a row without a usable answer, an image has those that it
  has, and is Unusable without any; where the endpoint did not answer, `ask` has tried again itself.
  """
  request = REQUEST if section.prompt == "auto" else section.prompt
  texts = {name: list(had.get(name, ())) for name in ids}
  failures = dict.fromkeys(ids, 0)
  unreadable: dict[str, UnreadableImage] = {}

  def question(name: str) -> chat.Question:
    try:
      return message(show(name), request)
    except UnreadableImage as error:
      unreadable[name] = error
      return None

  attempt = 0
  while left := list(failures):
    for position, answer in ask(chat.Made(left, question), attempt):
      name = left[position]
      gained, reason = _usable(answer)
      texts[name] = (texts[name] + gained)[: section.number]
      whole = len(texts[name]) == section.number
      failures[name] = 0 if gained else failures[name] + 1
      if name in unreadable:
        yield name, unreadable[name]
      elif gained:
        yield name, Captions(texts[name], whole)
      elif answer.error or (failures[name] > section.retries and not texts[name]):
        yield name, Unusable(reason)
      elif failures[name] > section.retries:
        yield name, Captions(texts[name])
      else:
        continue
      if whole or not gained:
        del failures[name]
    attempt += 1


def _usable(answer: chat.Answer) -> tuple[list[str], str]:
  """(the captions in an answer, why there is none)."""
  found, reason = [], answer.error
  for one in (answer, *answer.more) if not answer.error else ():
    try:
      found.append(one_line.read(one, "Caption", "captioner"))
    except Unusable as error:
      reason = str(error)
  return found, reason
