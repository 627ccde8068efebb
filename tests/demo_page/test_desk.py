"""What the page answers, against a gallery of plain colours."""

import io
from types import SimpleNamespace

import pytest
from PIL import Image

from configs.composed import finches
from lafg_jax.demo_page import cards, desk, why
from lafg_jax.demo_page.desk import Visit
from lafg_jax.utils.errors import UserError


def png(colour):
  buffer = io.BytesIO()
  Image.new("RGB", (60, 40), colour).save(buffer, "PNG")
  return buffer.getvalue()


def labels(visit):
  return [hit.label for hit in visit.hits]


def test_an_upload_words_and_both_find_their_colour(served):
  visit = desk.received(served, png((200, 20, 20)))
  visit, answer = desk.asked(served, visit, "", "", "", 8)
  assert labels(visit) == ["red"] * 8 and answer.of == "image"
  visit, answer = desk.asked(served, Visit(), " something green ", "", "", 5)
  assert labels(visit) == ["green"] * 5 and answer.of == "text"
  # Red and blue alike are as near to both, and green is not.
  both = Visit(image=png((220, 30, 30)))
  visit, answer = desk.asked(served, both, "blue", "", "", 16)
  assert set(labels(visit)) == {"red", "blue"} and answer.of == "image and text"


def test_a_hit_is_searched_on_with(served):
  visit, _ = desk.asked(served, Visit(), "blue", "", "", 3)
  on = desk.hit_at(visit, 1)
  again, answer = desk.asked(served, Visit(image=on.path), "", "", "", 1)
  assert again.hits[0].path == on.path and answer.hits[0].score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("place", [-1, 3, 10**9, True, None, "0", 1.0, "/etc/passwd"])
def test_a_place_that_is_not_in_the_answer_is_refused(served, place):
  visit, _ = desk.asked(served, Visit(), "blue", "", "", 3)
  with pytest.raises(UserError, match="no such image in the answer"):
    desk.hit_at(visit, place)


def test_filters_by_class_and_by_columns(served):
  asked = Visit(image=png((220, 30, 30)))
  visit, _ = desk.asked(served, asked, "", "green", "", 100)
  assert labels(visit) == ["green"] * 8
  visit, _ = desk.asked(served, asked, "", "", "shade >= 6", 100)
  assert sorted(labels(visit)) == ["blue"] * 2 + ["green"] * 2 + ["red"] * 2
  visit, _ = desk.asked(served, asked, "", "blue", "shade == 1 or shade == 2", 100)
  assert labels(visit) == ["blue"] * 2
  # A class name is data, whatever it holds.
  visit, _ = desk.asked(served, asked, "", 'x" or shade >= 0 or class == "', "", 100)
  assert visit.hits == ()
  assert served.classes == ["blue", "green", "red"] and served.total == 24


@pytest.mark.parametrize(
  ("words", "where", "said"),
  [
    ("", "", "nothing asked"),
    ("  ", "", "nothing asked"),
    ("red", "color == 'x'", "no column 'color'"),
    ("red", "shade ==", "filter"),
    ("red", "shade == 1) or (1 == 1", "Milvus says"),
    ("r" * 3000, "", "2,000 letters"),
  ],
)
def test_what_cannot_be_asked_is_one_line(served, words, where, said):
  with pytest.raises(UserError) as error:
    desk.asked(served, Visit(), words, "", where, 5)
  from lafg_jax.demo_page import layout

  line = layout._line(error.value)
  assert said in line and "\n" not in line


def test_what_is_offered_follows_the_model(served):
  def offer(**changes):
    return desk.offers(served._replace(model=served.model._replace(**changes)))

  assert "both" in offer() and "baseline" in offer()
  assert "What you look for" not in offer() and desk.composing(served) is None
  assert "reads no words" in offer(task="class_retrieval", reads_texts=False)


@pytest.mark.parametrize(
  ("method", "phrase", "weight"),
  [("cvsi", "a photo of this that", 0.6), ("pic2word", "a photo of this ,", 0), ("cirevl", "", 1)],
)
def test_a_model_that_composes_says_how_it_reads_words(served, method, phrase, weight):
  config = finches.get_config()
  config.query.method = method
  model = served.model._replace(task="composed_retrieval", retriever=SimpleNamespace(config=config))
  said = desk.offers(served._replace(model=model))
  assert f'go on "{phrase}' in said and "baseline" not in said and "but red" not in said
  assert (f"weight {weight:g} of 1" in said) == bool(weight)


def test_a_description_goes_with_an_image_and_words(served):
  given = []

  class Composes(type(served.model.retriever)):
    def embed_query(self, image, text, edited=None):
      given.append((text, edited))
      return self.embed_text(edited or text)

  composes = served._replace(model=served.model._replace(retriever=Composes()))
  red = Visit(image=png((220, 30, 30)))
  _, answer = desk.asked(composes, red, "is blue", "", "", 3, " something green ")
  assert answer.hits[0].label == "green" and given == [("is blue", "something green")]
  _, answer = desk.asked(composes, red, "is blue", "", "", 3)
  assert answer.hits[0].label == "blue" and given[1] == ("is blue", None)
  for visit, words in ((red, ""), (Visit(), "blue")):
    with pytest.raises(UserError, match="beside an image and words"):
      desk.asked(composes, visit, words, "", "", 3, "green")


def test_below_the_floor_it_says_so(served):
  assert served.gallery.facts.floors["image"] > 0.9
  visit = Visit(image=png((128, 128, 128)))
  _, answer = desk.asked(served, visit, "", "", "", 5)
  assert "nothing similar" in cards.verdict(answer) and cards.hits(answer).count("lafg-far") == 5
  _, answer = desk.asked(served, Visit(image=png((220, 30, 30))), "", "", "", 5)
  assert "nothing similar" not in cards.verdict(answer)


def test_pages_escape_what_galleries_hold(served):
  tag = "<img src=x onerror=alert(1)>"
  visit, answer = desk.asked(served, Visit(), "blue", "", "", 1)
  hit = answer.hits[0]._replace(label=tag, metadata={tag: f"'\"{tag}"})
  page = cards.hits(answer._replace(hits=[hit])) + cards.news(tag, "error") + cards.facts([tag])
  assert "<img src=x" not in page and page.count("&lt;img src=x") >= 4
  # The picture is drawn anew, and no path of the machine is an address.
  assert "data:image/jpeg;base64," in page and f'src="{hit.path}' not in page
  gone = answer.hits[0]._replace(path="/no/such.png")
  assert "cannot be read any more" in cards.hits(answer._replace(hits=[gone]))


def test_why_shows_what_both_share_and_where(served):
  visit, _ = desk.asked(served, Visit(image=png((200, 20, 20))), "", "", "", 24)
  page = why.panel(served, visit, visit.hits[0])
  assert "<dt>Both show</dt><dd>red (0.90)</dd>" in page and "alone" not in page
  assert page.count("<figure>") == 2 and "covering this place" in page
  # Another colour: what each shows alone.
  page = why.panel(served, visit, visit.hits[-1])
  assert "Both show" not in page and "<dt>the query alone</dt><dd>red (0.90)</dd>" in page
  # Words alone: the hit is compared with them, and they are no markup.
  visit, _ = desk.asked(served, Visit(), "<b>blue", "", "", 1)
  page = why.panel(served, visit, visit.hits[0])
  assert page.count("<figure>") == 1 and "&lt;b&gt;blue" in page and "<b>blue" not in page
  # Beside an image, words are no part of what is compared.
  both, _ = desk.asked(served, Visit(image=png((200, 20, 20))), "blue", "", "", 1)
  assert "the words of the query are no part" in why.panel(served, both, both.hits[0])


def test_why_says_where_nothing_is_known(served):
  visit, _ = desk.asked(served, Visit(), "blue", "", "", 1)
  known = served.model.retriever.explain(visit.hits[0].path)

  class Silent(type(served.model.retriever)):
    note = ""

    def explain(self, *unused, **more):
      return known._replace(attributes=[[]], heat=[None], note=self.note)

  retriever = Silent()
  silent = served._replace(model=served.model._replace(retriever=retriever))
  for retriever.note, said in (
    ("", "none is above the score of an untrained model"),
    ("this model has no vocabulary of attributes: pass vocabulary=[texts]", "no attributes of its"),
    ("trained without words", "No attribute is named: trained without words"),
  ):
    page = why.panel(silent, visit, visit.hits[0])
    assert said in page and "covering" not in page and "lafg-shared" not in page
