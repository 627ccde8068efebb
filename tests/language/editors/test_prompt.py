"""What an editor is asked, letter by letter, and what its answers mean."""

import hashlib
import tomllib
from pathlib import Path

import pytest

from lafg_jax.language.describers.chat import Answer
from lafg_jax.language.editors import prompt

FILE = Path(prompt.__file__).with_name("prompts.toml")
PROMPTS = tomllib.loads(FILE.read_text(encoding="utf-8"))
CAPTIONS = ("a bird on a wire", "a {small} bird\noutside")
KINDS = ("contextual", "structural", "fashion", "added")
TEXT = "is red,\n and {two} of $ them"


def test_the_last_lines_are_those_of_the_method():
  message = prompt.edit_question("structural", CAPTIONS, TEXT)
  # Neither braces nor line breaks of a caption or a user's text change the form.
  assert message.endswith(
    "\n\nImage Content: a bird on a wire, a {small} bird outside\n"
    "Instruction: is red, and {two} of $ them\n"
    "Edited Description:"
  )
  message = prompt.added_question(CAPTIONS[:1], "is red")
  assert message.endswith(
    "\n\nImage Content: a bird on a wire\nInstruction: is red\nObjects most likely added:"
  )
  again = prompt.edit_question("fashion", CAPTIONS, TEXT, "it is {empty}")
  assert "\n\nYour last answer could not be used: it is {empty}. Answer in one line" in again
  assert again.endswith("\nEdited Description:")


def test_a_change_to_a_text_raises_the_version():
  """The golden messages of this version: after a change to any, raise it, and put them here."""
  asked = {kind: prompt.edit_question(kind, CAPTIONS, TEXT) for kind in KINDS[:3]}
  asked["added"] = prompt.added_question(CAPTIONS, TEXT)
  found = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in asked.items()}
  assert (prompt.PROMPT_VERSION, found) == GOLDEN


GOLDEN = (
  "1",
  dict(
    zip(
      KINDS,
      ("ae518450c3a0ccc2", "349e372475ea233f", "dfb0805cb33bd5b5", "9a5b1012573322db"),
      strict=True,
    )
  ),
)


def test_worked_examples_are_as_many_as_published_and_one_line_each():
  counts = {k: (len(PROMPTS[k].get("aspects", ())), len(PROMPTS[k]["examples"])) for k in KINDS}
  assert counts == {
    "contextual": (0, 24),
    "structural": (9, 10),
    "fashion": (9, 10),
    "added": (0, 3),
  }
  for kind in counts:
    rows = [row[1:] for row in PROMPTS[kind].get("aspects", ())] + PROMPTS[kind]["examples"]
    for row in rows:
      assert len(row) == 3 and all(text and text == " ".join(text.split()) for text in row), row
    assert len({tuple(row) for row in rows}) == len(rows)
  # Two phrases joined, as the instructions of FashionIQ.
  assert all(" and " in row[1] for row in PROMPTS["fashion"]["examples"])
  shown = prompt.edit_question("contextual", ("x",), "y")
  assert shown.count("\nInstruction: ") == 25 and shown.count("\nEdited Description:") == 25


@pytest.mark.parametrize(
  ("asked", "source", "kind"),
  [
    ("auto", "cirr", "contextual"),
    ("auto", "fashioniq", "fashion"),
    ("auto", "circo", "structural"),
    ("auto", "finches", "structural"),
    ("contextual", "circo", "contextual"),
  ],
)
def test_the_prompt_follows_the_source(asked, source, kind):
  assert prompt.kind_of(asked, source) == kind


@pytest.mark.parametrize(
  ("text", "objects"),
  [
    ("a red flag, two dogs.", "a red flag, two dogs"),
    ("Objects most likely added: a red flag", "a red flag"),
    ("nothing", ""),
    ("None.", ""),
    ("Objects most likely added: nothing", ""),
    ("No new objects are added", ""),
    ("a none-stick pan", "a none-stick pan"),
    ("Nothing is added.", ""),
    ("nothing but a flag", "nothing but a flag"),
    ("no objects, a flag", "no objects, a flag"),
    ('["a flag", "a dog"]', "a flag, a dog"),
  ],
)
def test_what_is_added(text, objects):
  assert prompt.added(Answer(text)) == objects
