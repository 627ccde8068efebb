"""Long sentences: parts that fit, no word lost, the best places first."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.language.encoders import split_sentences


def at_most(count):
  return lambda text: len(text.split()) <= count


def words(text):
  return re.findall(r"\w+", text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab ,.;-w and with", max_size=60), st.integers(1, 6))
def test_no_word_is_lost_and_parts_fit_where_there_is_a_place(text, most):
  parts = split_sentences.split(text, at_most(most))
  assert words(" ".join(parts)) == words(text)
  for part in parts:
    assert at_most(most)(part) or not re.search(r"[.;,]\s+\S|\s(and|with)\b|\s-\s", part)


@pytest.mark.parametrize(
  ("text", "most", "parts"),
  [
    ("One two. Three four. Five.", 9, ["One two. Three four. Five."]),
    ("One two. Three four. Five.", 4, ["One two. Three four.", "Five."]),
    ("One two. Three four. Five.", 2, ["One two.", "Three four.", "Five."]),
    ("Red; wide, low and long", 2, ["Red;", "wide,", "low", "and long"]),
    ("A tail which is long", 3, ["A tail", "which is long"]),
    ("one two three", 2, ["one two three"]),
    ("一。二。", 0, ["一。", "二。"]),
  ],
)
def test_examples(text, most, parts):
  assert split_sentences.split(text, at_most(most)) == parts
