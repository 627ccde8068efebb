"""Edits of captions that list phrases, by rules: what is asked, and nothing else."""

import json
from types import SimpleNamespace

import pytest

from lafg_jax.finches import grammar
from lafg_jax.language.editors import by_rules
from lafg_jax.utils.errors import UserError

PHRASES = {
  "colour": {"Red": "a red thing", "Navy Blue": ["a navy blue thing"], "Blue": "a blue thing"},
  "gender": {"Women": "for women", "Men": "for men"},
  "usage": {"Formal": "formal wear", "Casual": ["casual wear", "leisure wear"]},
  "note": {"$": "worth $ 5 (or so)", "\\1": "with a \\1"},
}
CAPTION = "A photo of a blue thing, leisure wear, for men and worth $ 5 (or so)."


def as_phrases(told):
  return {
    name: {value: (said,) if isinstance(said, str) else tuple(said) for value, said in of.items()}
    for name, of in told.items()
  }


def config(**changes):
  told = {"source": "listed", "kind": "attributes", "file": ""} | changes
  captioner = SimpleNamespace(kind=told["kind"], file=told["file"], prompt="auto")
  return SimpleNamespace(
    composed=SimpleNamespace(source=told["source"]),
    captioner=captioner,
  )


@pytest.mark.parametrize(
  ("text", "edited"),
  [
    ("the same, but red", "A photo of a red thing, leisure wear, for men and worth $ 5 (or so)."),
    ("for women", "A photo of a blue thing, leisure wear, for women and worth $ 5 (or so)."),
    (
      "formal instead of casual and in NAVY BLUE",
      "A photo of a navy blue thing, formal wear, for men and worth $ 5 (or so).",
    ),
    ("red instead of blue, else the same", CAPTION.replace("blue", "red")),
    ("with \\1 as note", CAPTION.replace("worth $ 5 (or so)", "with a \\1")),
    ("for women instead of men", CAPTION.replace("for men", "for women")),
  ],
)
def test_what_is_asked_is_put_in_place_of_what_was_there(text, edited):
  assert by_rules.by_phrases(as_phrases(PHRASES))(CAPTION, text) == edited


def test_what_is_not_there_is_added_and_what_is_not_understood_is_none():
  edit = by_rules.by_phrases(as_phrases(PHRASES))
  assert edit("A photo of a street.", "make it red") == "A photo of a street, a red thing."
  for text in ("", "cheaper", "reddish", "instead of red"):
    assert edit(CAPTION, text) is None


def test_a_word_of_two_attributes_is_read_by_their_phrases_alone():
  told = {
    "top": {"red": "a red top", "blue": "a blue top"},
    "shoe": {"red": "red shoes", "green": "green shoes"},
  }
  edit = by_rules.by_phrases(as_phrases(told))
  caption = "A photo of a blue top and green shoes."
  assert edit(caption, "red") is None
  assert edit(caption, "with red shoes") == "A photo of a blue top and red shoes."


def test_which_rules_a_config_means(tmp_path):
  assert by_rules.of(config(source="finches", kind="file")) is grammar.edit
  path = tmp_path / "phrases.json"
  path.write_text(json.dumps(PHRASES))
  assert by_rules.of(config(file=str(path)))(CAPTION, "red").startswith("A photo of a red thing")
  for changes, words in (
    ({"kind": "file"}, "captioner.kind=attributes"),
    ({}, "captioner.file"),
  ):
    with pytest.raises(UserError, match=words):
      by_rules.of(config(**changes))
