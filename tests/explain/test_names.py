"""Short names of vocabulary entries, on sentences whose common phrase is known."""

import pytest

from lafg_jax.explain import names
from lafg_jax.finches import classes

CROWN = (
  "The bird shows a red crown.",
  "Look for a red crown and a thin bill.",
  "It has a red crown",
)
TAIL = ("The bird shows a forked tail.", "A forked tail and a thick bill.", "It has a forked tail.")
WING = ("The bird shows two bars on the wing.", "Two bars on the wing, and a thin bill.")


def test_an_entry_is_called_what_its_sentences_share_and_others_lack():
  assert names.short_names([CROWN, TAIL, WING]) == [
    "red crown",
    "forked tail",
    "two bars on the wing",
  ]


def test_what_all_entries_say_names_none_of_them():
  common = "The bird can be told by a plain face"
  found = names.short_names([(f"{common} and a {x} crown.",) * 3 for x in ("red", "blue", "black")])
  assert found == ["red crown", "blue crown", "black crown"]


def test_equal_names_are_told_apart_by_what_else_their_sentences_say():
  both = ("A red crown, a long tail.", "It has a red crown.", "A long tail and a red crown.")
  found = names.short_names([both, ("A red crown.",) * 3, TAIL, WING, ("A thin bill.",)])
  assert found[:2] == ["red crown, long tail", "red crown"]


def test_phrases_of_the_same_words_are_one_name():
  entries = [("Wings of blue.",) * 3, ("A blue wing.", "Blue wings."), CROWN, TAIL]
  assert names.short_names(entries)[:2] == ["wings of blue"] * 2


def test_an_entry_without_words_has_its_number():
  assert names.short_names([("", ""), (), CROWN, ("of the",)])[:2] == ["attribute 0", "attribute 1"]
  assert names.short_names([(), (), (), ("of the !?",)])[3] == "attribute 3"
  assert names.short_names([]) == []
  assert names.short_names([CROWN]) != ["attribute 0"]


@pytest.mark.parametrize("text", ["<b>bold</b> & more", "Größe über alles", "a" * 5000, "赤い 冠"])
def test_any_text_gives_some_name(text):
  (name,) = names.short_names([(text,)])
  assert name and "\n" not in name


def test_finches_are_called_by_what_their_sentences_claim():
  """Sentences that share one claim among others: the name has a word of it."""
  parts = {
    "crown": ("crown", "cap"),
    "tail": ("tail",),
    "ring": ("ring",),
    "bill": ("bill", "beak"),
  }
  parts |= {"body": ("body", "breast", "underparts"), "wing": ("wing", "feathers")}
  by_claim: dict = {}
  for finch in classes.SEEN:
    for text, claims in classes.statements(finch.name):
      for claim in claims:
        by_claim.setdefault(claim, []).append(text)
  chosen = {claim: by_claim[claim][:5] for claim in by_claim if claim[0] in parts}
  found = dict(zip(chosen, names.short_names(list(chosen.values())), strict=True))
  right = [any(x in found[claim] for x in parts[claim[0]]) for claim in found]
  assert len(right) > 30
  assert sum(right) >= 0.8 * len(right), found
