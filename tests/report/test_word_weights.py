"""Shares of weight by hand, on captions whose attribute words are known."""

from types import SimpleNamespace

import pytest

from lafg_jax.finches.text import Span
from lafg_jax.report import word_weights
from lafg_jax.utils.errors import UserError

CAPTION = "A siskin. It has a red cap, a red wing"


def spans(*marked):
  """The spans of words of CAPTION, (word, its number from 0, what it says)."""
  found = []
  for word, number, says in marked:
    start = -1
    for _ in range(number + 1):
      start = CAPTION.index(word, start + 1)
    found.append(Span(start, start + len(word), says))
  return found


CAPTIONED = SimpleNamespace(
  captions=["", CAPTION],
  spans=[
    [],
    spans(
      ("siskin", 0, "class"),
      ("red", 0, "crown"),
      ("cap", 0, "crown"),
      ("red", 1, "wing"),
      ("wing", 0, "wing"),
    ),
  ],
)
WORDS = [
  *(("A", 1.0), ("siskin", 2.0), (".", 9.0), ("It", 1.0), ("has", 1.0), ("a", 1.0), ("red", 3.0)),
  *(("cap", 1.0), (",", 9.0), ("a", 0.5), ("red", 2.5)),
]


def test_words_stand_where_they_stand_in_the_caption():
  found = word_weights.placed(CAPTION, WORDS)
  assert [CAPTION[start:end] for start, end, _ in found] == [word for word, _ in WORDS]
  starts = [place.start for place in found]
  assert starts == sorted(starts)
  assert found[-1].start == CAPTION.rindex("red")
  with pytest.raises(UserError, match="'blue' is of no word that follows"):
    word_weights.placed(CAPTION, [("red", 1.0), ("blue", 1.0)])
  with pytest.raises(UserError, match="'It'"):
    word_weights.placed(CAPTION, [("cap", 1.0), ("It", 1.0)])


def test_shares_of_weight_by_kind_of_word():
  found = word_weights.by_kind(CAPTIONED, {1: WORDS})
  # Signs are no words: 9 words weigh 13 in all. "wing" was cut off.
  wanted = {
    "attributes": (3, 6.5),
    "class": (1, 2.0),
    "other words": (5, 4.5),
    "crown": (2, 4.0),
    "wing": (1, 2.5),
  }
  assert [*found] == [*wanted]
  for kind, (words, weight) in wanted.items():
    assert found[kind] == pytest.approx(
      {
        "words": words,
        "share_of_words": words / 9,
        "share_of_weight": weight / 13,
        "mean_weight": weight / words,
      }
    )
  alike = word_weights.by_kind(CAPTIONED, {1: [(word, 0.7) for word, _ in WORDS]})
  for of in alike.values():
    assert of["share_of_weight"] == pytest.approx(of["share_of_words"])
  assert word_weights.by_kind(SimpleNamespace(spans=None, captions=[]), {1: WORDS}) == {}


def test_the_heaviest_words_occur_three_times():
  weights = {1: WORDS, 0: [("a", 4.0), ("Red", 2.0), ("rare", 9.0)]}
  found = word_weights.heaviest(weights)
  assert found == [("red", pytest.approx(2.5), 3), ("a", pytest.approx(6.5 / 4), 4)]
  read = word_weights.summary(CAPTIONED, {1: WORDS})
  assert read["captions"] == 1
  assert read["kinds"]["class"]["mean_weight"] == 2
