"""The synthetic finches: frozen, balanced, fine-grained, and described with the stated noise."""

import collections
import hashlib
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.finches import classes
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.utils.errors import UserError

ALL = classes.SEEN + classes.UNSEEN
NAMES = tuple(finch.name for finch in ALL)

# The data set is frozen. If one of these changes, every comparison made on it must run again.
TEXT_SHA256 = "ed33d9629501629b185714bec60f030f5d7b65d28696c1c5b82be90925fe1ecc"
IMAGE_SHA256 = "831312ee374242fe61cc8dc998032c4217ae88cb0688f2a3b0cb751488e8f113"

# What a reader takes a word to tell, written down independently of the grammar's tables.
SHADE_OF = {
  "black": "black", "jet-black": "black", "blue": "blue", "azure": "blue", "crimson": "crimson",
  "red": "crimson", "olive": "olive", "olive-green": "olive", "rufous": "rufous",
  "chestnut": "rufous", "slate": "slate", "slate-grey": "slate", "white": "white",
  "snow-white": "white", "yellow": "yellow", "golden": "yellow",
}  # fmt: skip
COLOUR_PART = {
  "body": r"body|breast|underparts|belly",
  "crown": r"crown|cap|head",
  "wing": r"wings?|flight|wing feathers",
}

finches = st.tuples(*(st.sampled_from(values) for values in ATTRIBUTES.values()))


def test_sizes_and_disjoint_classes():
  assert (len(classes.SEEN), len(classes.UNSEEN)) == (40, 60)
  assert len(set(NAMES)) == 100
  assert len({finch.attributes for finch in ALL}) == 100
  assert classes.class_names("seen") == NAMES[:40]
  assert classes.class_names("unseen") == NAMES[40:]


def test_any_two_classes_differ_in_two_attributes_and_many_in_two_or_three():
  distances = [
    sum(x != y for x, y in zip(a.attributes, b.attributes, strict=True))
    for a, b in itertools.combinations(ALL, 2)
  ]
  assert min(distances) >= 2
  for half in (classes.SEEN, classes.UNSEEN):
    for finch in half:
      near = [
        sum(x != y for x, y in zip(finch.attributes, other.attributes, strict=True))
        for other in half
        if other is not finch
      ]
      assert sum(d <= 3 for d in near) >= 3


@pytest.mark.parametrize("half", [classes.SEEN, classes.UNSEEN])
def test_marginals_are_balanced(half):
  for column, values in enumerate(ATTRIBUTES.values()):
    counts = collections.Counter(finch.attributes[column] for finch in half)
    assert set(counts) == set(values)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_names_tell_at_most_two_attributes_and_only_true_ones():
  telling = {
    "cone": "bill", "needle": "bill", "hook": "bill", "cross": "bill", "stub": "tail",
    "fork": "tail", "long": "tail", "fan": "tail",
  }  # fmt: skip
  means = {
    "needle": "thin",
    "hook": "hooked",
    "cross": "crossed",
    "stub": "short",
    "fork": "forked",
  }
  informative = 0
  for finch in ALL:
    of = dict(zip(ATTRIBUTES, finch.attributes, strict=True))
    found = {}
    for colour, part in re.findall(
      r"(\w+)-(breasted|bellied|capped|crowned|winged|eyed)", finch.name
    ):
      attribute = {"breasted": "body", "bellied": "body", "capped": "crown", "crowned": "crown",
                   "winged": "wing", "eyed": "ring"}[part]  # fmt: skip
      marks = {"Bar": "barred", "Spot": "spotted", "Fringe": "fringed"}
      if colour in marks:
        attribute = "pattern"
      found[attribute] = marks.get(colour, colour.lower())
    if "Double-barred" in finch.name:
      found["pattern"] = "double-barred"
    for stem, shape in re.findall(r"(\w+?)(bill|tail)$", finch.name):
      assert telling[stem.lower()] == shape
      found[shape] = means.get(stem.lower(), stem.lower())
    # No word of a colour or mark goes unread by the patterns above.
    words = re.findall(r"[a-z]+", finch.name.lower())
    assert sum(word in finch_text.COLOURS for word in words) <= 1
    assert len(found) <= 2
    assert all(of[attribute] == value for attribute, value in found.items())
    informative += bool(found)
  assert informative >= 50


def test_an_image_is_drawn_once_and_read_only():
  image = classes.image(NAMES[3], 7)
  assert image.shape == (48, 48, 3) and image.dtype == np.uint8
  assert classes.image(NAMES[3], 7) is image and not image.flags.writeable
  classes.image.cache_clear()
  np.testing.assert_array_equal(classes.image(NAMES[3], 7), image)
  assert len({classes.image(name, j).tobytes() for name in NAMES[:2] for j in range(30)}) == 60


@settings(max_examples=30, deadline=None)
@given(finches, st.integers(0, 6), st.integers(0, 2**32 - 1), st.data())
def test_changing_one_attribute_changes_the_bird_and_nothing_around_it(bird, which, seed, data):
  values = [v for v in list(ATTRIBUTES.values())[which] if v != bird[which]]
  other = (*bird[:which], data.draw(st.sampled_from(values)), *bird[which + 1 :])
  a, b, again = (
    classes.render(x, np.random.default_rng(seed)).astype(int) for x in (bird, other, bird)
  )
  np.testing.assert_array_equal(a, again)
  changed = (a != b).any(-1)
  # Haze mixes in the mean colour, so that faint differences reach everywhere.
  strongly = (np.abs(a - b) > 12).any(-1)
  assert changed.any()
  assert strongly.mean() < 0.5


def test_attribute_differences_are_visible_on_average():
  base = ("olive", "black", "rufous", "plain", "cone", "short", "none")
  for which, values in enumerate(ATTRIBUTES.values()):
    for value in values:
      if value == base[which]:
        continue
      other = (*base[:which], value, *base[which + 1 :])
      gaps = []
      for seed in range(8):
        a, b = (classes.render(x, np.random.default_rng(seed)).astype(int) for x in (base, other))
        gaps.append((np.abs(a - b).max(-1) > 20).sum())
      assert np.median(gaps) >= 4, (base[which], value)


def test_render_takes_a_size():
  picture = classes.render(ALL[0].attributes, np.random.default_rng(0), size=96)
  assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8


def test_describe_is_deterministic_and_natural_in_form():
  described = classes.describe(NAMES)
  assert list(described) == list(NAMES)
  assert classes.describe(NAMES[5:6]) == {NAMES[5]: described[NAMES[5]]}
  for name, sentences in described.items():
    assert len(sentences) == len(set(sentences)) == 10
    for sentence in sentences:
      assert sentence[0].isupper() and sentence.endswith(".")
      assert not re.search(r"[{}]|\s\s|\ba [aeio]|\ban [^aeio]", sentence), sentence
      others = [other for other in NAMES if other in sentence and other not in name]
      assert not others, sentence
  texts = [sentence for sentences in described.values() for sentence in sentences]
  assert len(set(texts)) > 800


def test_noise_rates_are_as_stated():
  claims, chatter, missing = [], 0, 0
  for finch in ALL:
    truth = dict(zip(ATTRIBUTES, finch.attributes, strict=True))
    written = classes.statements(finch.name)
    mentioned = {attribute for _, said in written for attribute, _ in said}
    chatter += sum(not said for _, said in written)
    missing += len(ATTRIBUTES) - len(mentioned)
    claims += [truth[attribute] != value for _, said in written for attribute, value in said]
  assert abs(np.mean(claims) - finch_text.WRONG_RATE) < 0.025  # 1,500 claims: 3 standard errors
  assert abs(chatter / 1000 - finch_text.CHATTER_RATE) < 0.04
  assert abs(missing / 700 - finch_text.MISSING_RATE) < 0.05
  assert len(claims) > 1200


def test_colour_sentences_say_what_they_claim():
  """Reads one-claim sentences with independent patterns, and compares with their claims."""
  read = 0
  for finch in ALL:
    for sentence, said in classes.statements(finch.name):
      if len(said) != 1 or said[0][0] not in COLOUR_PART:
        continue
      text = sentence.replace(finch.name, "").lower()
      shades = {SHADE_OF[w] for w in re.findall(r"[a-z]+(?:-[a-z]+)?", text) if w in SHADE_OF}
      attribute, value = said[0]
      assert shades == {value}, sentence
      assert re.search(rf"\b({COLOUR_PART[attribute]})\b", text), sentence
      read += 1
  assert read > 50


@pytest.mark.parametrize(
  "call",
  [
    lambda: classes.class_names("train"),
    lambda: classes.image("Dodo", 0),
    lambda: classes.describe(["Dodo"]),
  ],
)
def test_unknown_classes_and_splits_are_one_clear_line(call):
  with pytest.raises(UserError, match="'Dodo'|'train'") as caught:
    call()
  assert "\n" not in str(caught.value)


def test_data_set_is_frozen():
  table = [[finch.name, *finch.attributes] for finch in ALL]
  text = json.dumps([table, classes.describe(NAMES)], sort_keys=True)
  assert hashlib.sha256(text.encode()).hexdigest() == TEXT_SHA256
  shown = [(name, j) for name in NAMES[::9] for j in range(30 if name in NAMES[:40] else 20)]
  images = b"".join(classes.image(*which).tobytes() for which in shown)
  ids = "\n".join(classes.image_id(*which) for which in shown)
  digest = hashlib.sha256(images + ids.encode())
  assert digest.hexdigest() == IMAGE_SHA256
