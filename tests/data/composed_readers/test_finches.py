"""The reader of composed queries on finches."""

import pickle

import numpy as np
import pytest

from lafg_jax.data import composed
from lafg_jax.finches import composed as birds
from lafg_jax.finches import grammar
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.tasks.composed_retrieval import default
from lafg_jax.utils.errors import UserError


def config_with(**changes):
  config = default.get_config()
  config.composed.source = "finches"
  config.composed.update(changes)
  return config


@pytest.mark.parametrize("split", birds.PARTS)
def test_a_part_is_consistent_and_its_right_answers_are_those_of_the_renderer(split):
  (part,) = composed.load(config_with(split=split))
  row = {name: k for k, name in enumerate(part.ids)}
  assert (part.name, part.split, part.protocol, part.drop_reference) == (
    *("finches", split, "targets"),
    True,
  )
  assert len(part.ids) == len(set(part.ids)) == len(part.images) == len(part.gallery)
  assert 1_900 < len(part.gallery) < 2_300
  assert len({query.id for query in part.queries}) == 500
  for query in part.queries:
    truth = grammar.stated(query.edited)
    assert {tuple(truth[name] for name in ATTRIBUTES)} == {
      birds.birds(split)[row[target]] for target in query.targets
    }
    assert query.reference in row
    assert query.kinds[0] in ("one change", "two changes")
    assert set(query.kinds[1:]) <= {"colour", "form", "addition", "negation", "comparison"}


def test_images_are_drawn_lazily_and_can_be_sent_to_workers():
  (part,) = composed.load(config_with(split="val"))
  images = pickle.loads(pickle.dumps(part.images))
  np.testing.assert_array_equal(images[5], birds.image("val", 5))
  np.testing.assert_array_equal(images[-1], birds.image("val", len(images) - 1))
  with pytest.raises(IndexError):
    images[len(images)]


def test_training_shows_no_combination_of_a_query():
  found = composed.training(config_with())
  assert len(found.images) == len(found.texts) == len(set(found.texts)) == 8_000
  held_out = birds.held_out()
  stated = [grammar.stated(text) for text in found.texts[:500]]
  assert not {tuple(one[name] for name in ATTRIBUTES) for one in stated} & held_out
  np.testing.assert_array_equal(found.images[3], birds.image("train", 3))


def test_content_changes_with_the_queries():
  of = [
    composed.load(config_with(split="val", **changes))[0].content
    for changes in ({}, {}, {"num_queries": 10}, {"wordings": "known"}, {"drop_reference": "never"})
  ]
  assert of[0] == of[1] == of[4] != of[2] != of[3] != of[0]


def test_a_mistake_is_one_line():
  for changes, words in (
    ({"split": "train"}, "--config.composed.split=train"),
    ({"num_queries": 10**6}, "--config.composed.num_queries=1000000"),
  ):
    with pytest.raises(UserError, match=words) as error:
      composed.load(config_with(**changes))
    assert "\n" not in str(error.value)
