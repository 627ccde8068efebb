"""Composed queries on finches: right answers, near misses, what training never shows, purity."""

import collections
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.finches import classes, composed, drawing, modifications, train_tiny_clip
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.utils import random_streams

PARTS = pytest.mark.parametrize("part", composed.PARTS)
WORDINGS = json.loads(Path(composed.__file__).with_name("wordings.json").read_text())

# The benchmark is frozen. If this changes, every figure that was measured on it must be again.
SHA256 = "31b08f72488cb797f08040fdb37ebf967fb58fe5a55fcb5824ebd6108c21bbbf"


def as_dict(birds):
  return dict(zip(ATTRIBUTES, birds, strict=True))


def meets(bird, reference, changes, lenient):
  """Whether a bird is what the changes ask of a reference, written down apart from the queries.

  bird, reference: {attribute: value}. lenient: takes each request as widely as its words can be.
  """
  asked = {change.attribute: change for change in changes}
  bars = {"plain": 0, "spotted": 0, "fringed": 0, "barred": 1, "double-barred": 2}
  for name, value in bird.items():
    if name not in asked:
      if value != reference[name]:
        return False
      continue
    kind, _, old, new = asked[name]
    if not lenient:
      fits = value == new
    elif kind == "negation":
      fits = value != old
    elif kind == "comparison" and name == "pattern":
      fits = bars[value] - bars[old] == bars[new] - bars[old]
    elif kind == "comparison":
      fits = (value == "short") if new == "short" else (value != "short")
    else:
      fits = value == new
    if not fits:
      return False
  return True


@PARTS
def test_right_answers_are_all_birds_that_meet_the_changes_and_no_other(part):
  birds = composed.birds(part)
  looks = [(bird, as_dict(bird)) for bird in dict.fromkeys(birds)]
  for asked in composed.queries(part):
    reference = as_dict(birds[asked.reference])
    for lenient in (False, True):
      found = {bird for bird, told in looks if meets(told, reference, asked.changes, lenient)}
      assert found == {asked.target}, asked.text
    assert asked.targets == tuple(k for k, bird in enumerate(birds) if bird in found)
    assert asked.reference not in asked.targets


@PARTS
def test_each_query_has_several_right_answers_and_both_kinds_of_near_misses(part):
  birds = composed.birds(part)
  for asked in composed.queries(part)[::7]:
    assert 2 <= len(asked.targets) <= 5
    reference = birds[asked.reference]
    changed = {change.attribute for change in asked.changes}
    wrong = [
      {name for name, a, b in zip(ATTRIBUTES, bird, asked.target, strict=True) if a != b}
      for bird in birds
    ]
    counts = composed.near_misses(part, asked)
    assert counts["wrong_bird"] == sum(len(x) == 1 and not x & changed for x in wrong) > 0
    assert counts["unchanged"] == sum(bird == reference for bird in birds) - 1 > 0
    half = sum(len(x) == 1 and bool(x & changed) for x in wrong) if len(changed) == 2 else 0
    assert counts["half_changed"] == half


def test_no_combination_is_in_two_parts_or_in_any_training():
  val, test = (set(composed.birds(part)) for part in composed.PARTS)
  rng = np.random.default_rng((0, 3))
  aside = train_tiny_clip.sample_combinations(200, rng)
  of_clip = set(train_tiny_clip.sample_combinations(20_000, rng, frozenset(aside)))
  of_phi = set(map(composed.training_bird, range(composed.NUM_TRAINING)))
  of_classes = {finch.attributes for finch in classes.SEEN + classes.UNSEEN}
  assert len(val) > 500 < len(test)
  assert len(of_phi) > 7_000
  for one, other in ((val, test), (val | test, of_clip), (val | test, of_phi)):
    assert not one & other
  assert not (val | test) & of_classes
  assert all(body not in (crown, wing) for body, crown, wing, *_ in val | test | of_phi)


@PARTS
def test_queries_are_even_over_kinds_and_over_one_and_two_changes(part):
  asked = composed.queries(part)
  assert len(asked) == 500
  sizes = collections.Counter(len(one.changes) for one in asked)
  assert sizes == {1: 250, 2: 250}
  ones = collections.Counter(one.changes[0].kind for one in asked if len(one.changes) == 1)
  assert ones == dict.fromkeys(modifications.KINDS, 50)
  pairs = collections.Counter(
    tuple(sorted(change.kind for change in one.changes)) for one in asked if len(one.changes) == 2
  )
  assert len(pairs) == 15
  # There are few with two comparisons.
  assert min(pairs.values()) == pairs["comparison", "comparison"] >= 7
  assert sorted(pairs.values())[1] >= 16
  assert composed.queries(part, 40) == asked[:40]
  assert len(set((one.reference, one.target) for one in asked)) > 450


def test_a_sentence_says_what_it_asks_for():
  """Words of the new value stand in it, whatever the wording."""
  for wordings in modifications.WORDINGS:
    for asked in composed.queries("test", wordings=wordings):
      for change in asked.changes:
        claim = (change.attribute, change.new)
        words = finch_text.phrases(claim)
        if change.kind == "colour":
          words = finch_text.shades(change.new)
        if change.kind in ("colour", "form", "addition"):
          assert any(word in asked.text for word in words), asked.text


def test_wordings_that_are_held_out_are_not_those_known():
  known, held_out = (modifications.forms(name) for name in modifications.WORDINGS)
  # A bare slot, {x} or {new}, says nothing.
  assert {form for form in known & held_out} <= {"{x}", "{x} and {y}"}
  assert len(held_out) > 70
  of_requests = [
    {form for style in WORDINGS[name] for kind, of in style.items() if kind not in ("one", "two")
     for form in of}
    for name in modifications.WORDINGS
  ]  # fmt: skip
  assert not of_requests[0] & of_requests[1]


def test_the_same_numbers_give_the_same_everywhere():
  told = (
    [composed.birds(p) for p in composed.PARTS],
    [composed.queries(p) for p in composed.PARTS],
    [composed.training_caption(k) for k in range(20)],
  )
  pictures = b"".join(
    composed.image(p, k).tobytes() for p in ("train", *composed.PARTS) for k in (0, 7)
  )
  ours = hashlib.sha256(repr(told).encode() + pictures).hexdigest()
  assert ours == SHA256


def test_pictures_are_those_of_the_renderer_and_differ_between_birds_that_look_alike():
  birds = composed.birds("val")
  first = birds[0]
  alike = [k for k, bird in enumerate(birds) if bird == first]
  pictures = [composed.image("val", k) for k in alike]
  assert len({picture.tobytes() for picture in pictures}) == len(alike) >= 2
  drawn = drawing.render(first, random_streams.composed_finch(1, alike[0]))
  np.testing.assert_array_equal(pictures[0], drawn)
  assert not pictures[0].flags.writeable
  np.testing.assert_array_equal(
    composed.image("train", 3),
    drawing.render(composed.training_bird(3), random_streams.composed_finch(0, 3)),
  )
