"""Key phrases by rules on a table of sentences, spaCy's absence, and the places they leave."""

import sys
import types

import numpy as np
import pytest

from lafg_jax.tasks.composed_retrieval import key_phrases
from lafg_jax.utils.errors import UserError

# Written by hand, as a reader would mark determiners, adjectives and nouns.
SENTENCES = {
  "a man riding a brown horse on the beach": ["a man", "a brown horse", "the beach"],
  "two dogs are sitting next to a wooden bench": ["dogs", "a wooden bench"],
  "the woman wears a red striped shirt": ["the woman", "a red striped shirt"],
  "a smiling girl and her little brother": ["a smiling girl", "little brother"],
  "a man dressed in black stands slowly": ["a man", "black"],
  "a dog that runs": ["a dog"],
  "red, blue and green balloons": ["red", "blue", "green balloons"],
  "a tall building with an old painting": ["a tall building", "an old painting"],
  "the family quickly left": ["the family", "left"],
  "this is a photo of amber thornbill. it has a black-tipped bill": [
    *("a photo", "amber thornbill", "a black-tipped bill"),
  ],
  "all of them": [],
  "people walking": ["people"],
  "": [],
}


@pytest.mark.parametrize("text", SENTENCES)
def test_by_rules(text):
  found = [text[a:b] for a, b in key_phrases.finder("rules")(text)]
  assert found == SENTENCES[text]


def test_each_occurrence_of_each_phrase_is_a_place():
  text = key_phrases.cleaned("A Dog beside a dog, and <PERSON>s  cost $5 a dogma")
  assert text == "a dog beside a dog, and persons cost 5 a dogma"
  never = lambda: pytest.fail("there are key phrases")  # noqa: E731
  spans = [(0, 5), (text.index("persons"), text.index("persons") + 7)]
  assert key_phrases.parts(text, spans, never) == ["", " beside ", ", and ", " cost 5 a dogma"]
  # The longer phrase first.
  assert key_phrases.parts("a red dog", [(2, 9), (6, 9)], never) == ["a ", ""]


def test_a_text_without_phrases_has_a_random_word_of_its_own():
  drawn = {
    tuple(key_phrases.parts("is it of them", [], lambda seed=seed: np.random.default_rng(seed)))
    for seed in range(20)
  }
  assert drawn == {("", " it of them"), ("is ", " of them"), ("is it ", " them"), ("is it of ", "")}
  assert key_phrases.parts("?!", [], lambda: np.random.default_rng(0)) == ["?!"]


def test_spacy(monkeypatch):
  key_phrases._spacy.cache_clear()
  monkeypatch.setitem(sys.modules, "spacy", None)
  with pytest.raises(UserError, match="pip install spacy"):
    key_phrases.finder("spacy")

  def without_model(name, disable):
    raise OSError("[E050] Can't find model")

  monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=without_model))
  with pytest.raises(UserError, match="spacy download en_core_web_sm"):
    key_phrases.finder("spacy")

  tags = {"a": "DET", "red": "ADJ", "dog": "NOUN", "sees": "VERB", "Rex": "PROPN", ".": "PUNCT"}

  def load(name, disable):
    assert name == "en_core_web_sm"

    def tagger(text):
      at = 0
      for word in text.split():
        at = text.index(word, at)
        yield types.SimpleNamespace(text=word, idx=at, pos_=tags[word])
        at += len(word)

    return tagger

  monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=load))
  text = "a red dog sees a dog . Rex"
  found = [text[a:b] for a, b in key_phrases.finder("spacy")(text)]
  key_phrases._spacy.cache_clear()
  assert found == ["a red dog", "a dog", "Rex"]
