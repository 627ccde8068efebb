"""Captions by an endpoint that takes images: what is sent, and how its answers are gathered."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data.images import UnreadableImage
from lafg_jax.language.captioners import by_openai
from lafg_jax.language.captioners.record import Captions
from lafg_jax.language.describers import openai_api
from lafg_jax.language.describers.thoughts import Unusable
from lafg_jax.tasks.composed_retrieval import default

GREYS = {"dark": 0, "middle": 128, "bright": 255}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(openai_api, "_FIRST_DELAY", 0.01)


def shown(name):
  if name == "lost":
    raise UnreadableImage("lost: it is gone")
  return np.full((30, 40, 3), GREYS[name], np.uint8)


def name_of(request):
  """Which image a request shows, by its pixels."""
  _, image = request["messages"][0]["content"]
  data = image["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
  mean = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).mean()
  return min(GREYS, key=lambda name: abs(GREYS[name] - mean))


def captioned(endpoint, names, had=(), **changes):
  """What comes of each image, in its order."""
  section = default.get_config().captioner
  section.update(kind="openai", model="m", number=3, retries=1, base_url=endpoint.url)
  section.update(changes)
  found = {}
  with openai_api.opened(by_openai.chat_of(section)) as ask:
    for name, said in by_openai.stream(section, ask, names, shown, dict(had)):
      found.setdefault(name, []).append(said)
  return found


def test_the_message_is_a_request_and_a_data_url():
  text, image = by_openai.message(np.full((900, 1800, 3), 40, np.uint8), "Say.")
  assert text == {"type": "text", "text": "Say."}
  assert set(image) == {"type", "image_url"} and image["type"] == "image_url"
  head, data = image["image_url"]["url"].split(",")
  picture = Image.open(io.BytesIO(base64.b64decode(data)))
  assert head == "data:image/jpeg;base64" and picture.format == "JPEG"
  assert picture.size == (768, 384) and set(np.asarray(picture).ravel()) == {40}


def test_all_captions_of_an_image_come_of_one_request(chat_endpoint):
  def answer(request, earlier):
    return [f"{name_of(request)} {i}" for i in range(request["n"])]

  endpoint = chat_endpoint(answer)
  found = captioned(endpoint, list(GREYS), temperature=0.7)
  assert found == {name: [Captions([f"{name} {i}" for i in range(3)])] for name in GREYS}
  assert len(endpoint.requests) == 3
  sent = {k: v for k, v in endpoint.requests[0].items() if k != "messages"}
  wanted = {"model": "m", "n": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 30}
  assert sent == wanted


@pytest.mark.parametrize("refuses", [True, False])
def test_an_endpoint_of_one_caption_at_a_time_is_asked_as_often(chat_endpoint, refuses):
  def answer(request, earlier):
    if refuses and "n" in request:
      return 400, {"error": {"message": "'n' must be 1 for this model"}}
    return (
      f"{name_of(request)} bird {sum(name_of(x) == name_of(request) for x in endpoint.requests)}"
    )

  endpoint = chat_endpoint(answer)
  found = captioned(endpoint, list(GREYS), concurrency=1)
  for name in GREYS:
    assert [len(said.texts) for said in found[name]] == [1, 2, 3]
    assert [said.whole for said in found[name]] == [False, False, True]
    assert len(set(found[name][-1].texts)) == 3
  assert len(endpoint.requests) == 9 + refuses
  # What is there already is not asked for again.
  before = len(endpoint.requests)
  had = {"dark": ["a", "b"], "middle": ["c"]}
  found = captioned(endpoint, list(had), had, concurrency=1)
  assert len(endpoint.requests) - before == 3 + refuses
  assert found["dark"][-1].texts[:2] == ["a", "b"] and len(found["middle"][-1].texts) == 3


def test_labels_are_cut_and_unusable_answers_asked_again(chat_endpoint):
  def answer(request, earlier):
    name = name_of(request)
    if name == "dark":
      return ["Caption: a dark bird", "", '"a bird"']
    if name == "middle":
      return ["", "I'm sorry, I can't", ""] if not earlier else ["x y", "z", "w"]
    return ["", "", ""]

  found = captioned(endpoint := chat_endpoint(answer), list(GREYS))
  assert found["dark"][-1].texts == ["a dark bird", "a bird", "a dark bird"]
  assert found["middle"] == [Captions(["x y", "z", "w"])]
  (bright,) = found["bright"]
  assert isinstance(bright, Unusable) and "empty" in str(bright)
  counts = [name_of(request) for request in endpoint.requests]
  assert [counts.count(name) for name in GREYS] == [2, 2, 2]


def test_now_and_then_a_caption_is_enough_to_go_on(chat_endpoint):
  said = iter(["", "a b", "", "c d", "", "e f"])
  found = captioned(chat_endpoint(lambda *_: next(said)), ["dark"])
  assert found["dark"][-1] == Captions(["a b", "c d", "e f"])
  # Where no more come, those that there are count.
  said = iter(["a b", "", "", ""])
  found = captioned(endpoint := chat_endpoint(lambda *_: next(said)), ["dark"])
  assert found["dark"] == [Captions(["a b"], False), Captions(["a b"])]
  assert len(endpoint.requests) == 3


def test_trouble_and_unreadable_images_are_told_apart(chat_endpoint):
  def answer(request, earlier):
    return (500, {"error": {"message": "busy"}}) if name_of(request) == "dark" else ["a b"] * 3

  endpoint = chat_endpoint(answer)
  found = captioned(endpoint, ["lost", "dark", "bright"], concurrency=1)
  assert isinstance(found["lost"][0], UnreadableImage) and found["bright"][0].whole
  assert isinstance(found["dark"][0], Unusable) and "HTTP 500" in str(found["dark"][0])
  # 1 + retries, and no round on top of them.
  assert len(endpoint.requests) == 3
