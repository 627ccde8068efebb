"""The grammar that edits captions: exact on the wordings it knows, measured on those held out."""

import pytest

from lafg_jax.finches import composed, grammar, modifications
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.utils import random_streams

CAPTION = (
  "A finch with a crimson cap, folded wings of black, a wing with one bar, a thin, pointed bill, "
  "a short tail, a white eye-ring and an olive-green breast."
)
STATED = {
  "crown": "crimson", "wing": "black", "pattern": "barred", "bill": "thin", "tail": "short",
  "ring": "white", "body": "olive",
}  # fmt: skip


def edits(part, wordings):
  """(query, its reference's true caption as edited) of all queries of a part."""
  for number, asked in enumerate(composed.queries(part, wordings=wordings)):
    rng = random_streams.wording_of_finch(number, 0)
    caption = finch_text.full_sentence(composed.birds(part)[asked.reference], rng)
    yield asked, grammar.edit(caption, asked.text)


def right(asked, edited):
  return edited is not None and grammar.same(edited, asked.edited)


def test_what_a_caption_states():
  assert grammar.stated(CAPTION) == STATED
  assert grammar.stated("A photo of a street.") == {}
  for k in range(200):
    truth = dict(zip(ATTRIBUTES, composed.training_bird(k), strict=True))
    assert grammar.stated(composed.training_caption(k)) == truth


@pytest.mark.parametrize("part", composed.PARTS)
def test_known_wordings_are_edited_exactly(part):
  for asked, edited in edits(part, "known"):
    assert right(asked, edited), (asked.text, edited)
    assert grammar.stated(edited) == dict(zip(ATTRIBUTES, asked.target, strict=True))


def test_wordings_held_out_are_measured_and_not_tuned_for():
  """If these change, the grammar did: say why, and that no held-out wording was looked at."""
  found = {
    part: sum(right(*one) for one in edits(part, "held_out")) / len(composed.queries(part))
    for part in composed.PARTS
  }
  assert found == {"val": 0.49, "test": 0.496}


@pytest.mark.parametrize(
  ("text", "changed"),
  [
    ("this bird, but with a red crown and no wing bar", {"crown": "crimson", "pattern": "plain"}),
    ("this bird, but with a blue crown instead of a crimson cap", {"crown": "blue"}),
    ("the crown is blue instead of red", {"crown": "blue"}),
    ("one more wing-bar and a longer tail", {"pattern": "double-barred", "tail": "long"}),
    ("there is one wing-bar fewer", {"pattern": "plain"}),
    ("no eye-ring", {"ring": "none"}),
    ("its white eye-ring removed", {"ring": "none"}),
    ("A HOOKED BEAK, and two wing-bars", {"bill": "hooked", "pattern": "double-barred"}),
    ("the bill is hooked", {"bill": "hooked"}),
    ("plain, unmarked wings, a short, stubby tail", {"pattern": "plain", "tail": "short"}),
    ("a brown breast and grey flight feathers", {"body": "rufous", "wing": "slate"}),
  ],
)
def test_edit_changes_what_is_asked_and_nothing_else(text, changed):
  edited = grammar.edit(CAPTION, text)
  assert grammar.stated(edited) == STATED | changed
  kept = [word for word in ("folded wings of black", "a thin, pointed bill") if word in edited]
  assert len(kept) == 2 - ("wing" in changed) - ("bill" in changed)


def test_what_is_not_understood_or_cannot_be_is_none():
  for text in ("", "something else", "make it cuter", "a shorter tail", "$"):
    assert grammar.edit(CAPTION, text) is None, text
  plain = grammar.edit(CAPTION, "no wing-bar")
  assert grammar.edit(plain, "one wing-bar fewer") is None


def test_what_a_caption_does_not_tell_is_added():
  edited = grammar.edit("A finch with a blue cap.", "has a longer tail and a yellow eye-ring")
  assert edited == "A finch with a blue cap, with a long tail, with a yellow eye-ring."
  assert grammar.stated(edited) == {"crown": "blue", "tail": "long", "ring": "yellow"}
  assert not grammar.same(edited, "A finch with a blue cap.")


def test_every_kind_has_forms_in_every_style():
  names = {"one", "two", "colour", "form", "addition", "negation"}
  names |= {"more", "fewer", "longer", "shorter"}
  for wordings in modifications.WORDINGS:
    for style in modifications._WORDS[wordings]:
      assert set(style) == names
