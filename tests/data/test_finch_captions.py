"""Image-text pairs of the finches: their splits, and what a caption tells."""

import collections
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.data import captions
from lafg_jax.finches import classes
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.utils.errors import UserError


def config_of(**changes):
  """Defaults with changes of the section `captions`."""
  config = ConfigDict(keys.defaults(("data", "captions")).to_dict())
  config.captions.update(changes)
  return config


@pytest.mark.parametrize("kind", ["individuals", "classes"])
def test_finches_are_seen_in_training_and_unseen_in_the_test(kind):
  splits = captions.load_splits(config_of(finches=kind, images_per_class=3))
  train, test = splits["train"], splits["test"]
  counts = {"individuals": (8, 8), "classes": (40, 60)}[kind]
  assert (len(train.class_names), len(test.class_names)) == counts
  assert not set(train.class_names) & set(test.class_names)
  assert len(train.captions) == 3 * counts[0] and "val" not in splits
  for row in (0, 7):
    name = train.class_names[train.labels[row]]
    assert train.captions[row].startswith(f"This is a photo of {name}. ")
    assert train.images[row].shape == (48, 48, 3)
  again = captions.load_splits(config_of(finches=kind, images_per_class=5))["train"]
  assert set(train.captions) < set(again.captions), "more of a class adds to it"
  held = captions.load_splits(config_of(finches=kind, images_per_class=4, val_fraction=0.25))
  assert held["val"].class_names == held["train"].class_names
  assert len(held["val"].captions) == counts[0]


def test_each_caption_of_an_individual_tells_all_that_is_drawn_and_no_other_has_it():
  """The words are looked up in the file of words, without the code that wrote them."""
  words = json.loads((Path(finch_text.__file__).with_name("words.json")).read_text())
  train = captions.load_splits(config_of(images_per_class=25))["train"]
  told = []
  for text, spans, label in zip(train.captions, train.spans, train.labels, strict=True):
    says = {span.says for span in spans}
    assert says == {"class", "body", "crown", "wing", "pattern", "ring"}
    phrases = {x: " ".join(text[a:b] for a, b, says in spans if says == x) for x in says}
    name = train.class_names[label]
    assert phrases["class"] == name
    colours = tuple(
      next(c for c, shades in words["shades"].items() if any(s in phrases[part] for s in shades))
      for part in ("body", "crown", "wing")
    )
    assert colours[0] not in colours[1:]
    told.append((label, *colours, *(phrases[part] for part in ("pattern", "ring"))))
  of_class = collections.Counter(label for label, *_ in told)
  assert set(of_class.values()) == {25}
  assert len(set(told)) > 0.9 * len(told), "birds of a class differ in what is told"


def test_a_bird_of_a_class_is_the_frozen_picture_and_tells_every_attribute():
  test = captions.load_splits(config_of(finches="classes", images_per_class=2))["test"]
  row = 5
  name = test.class_names[test.labels[row]]
  np.testing.assert_array_equal(test.images[row], classes.image(name, row % 2))
  assert {span.says for span in test.spans[row]} == {"class", *ATTRIBUTES}


def test_a_sentence_and_its_spans_are_the_ones_that_trained_the_tiny_clip():
  finch = classes.SEEN[4]
  for seed in range(20):
    rng, plain = (np.random.default_rng(seed) for _ in range(2))
    text, spans = finch_text.told(finch_text.claims_of(finch.attributes), rng)
    order = finch_text.shuffled(plain, finch_text.claims_of(finch.attributes))
    start = finch_text.choose(plain, finch_text._WORDS["full_starts"])
    assert text == f"{start} {finch_text._nouns(order, plain)}."
    assert all(a < b <= c for (a, b, _), (c, _, _) in itertools.pairwise(spans))
    assert not {text[a:b] for a, b, _ in spans} & {"a", "an", "the", "with", "and", "of"}


def test_no_more_finches_than_plumages():
  with pytest.raises(UserError, match="a class of finches has 5,880 plumages"):
    captions.load_splits(config_of(images_per_class=5881))
