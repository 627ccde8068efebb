"""Captions of attributes that CLIP reads: against plain products of features, and bad input."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lafg_jax.finches import composed, grammar
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.language.captioners import attributes
from lafg_jax.language.encoders import images, texts
from lafg_jax.utils.errors import UserError

COLOURS = {"crown": {"red": "a crimson crown", "blue": ["a blue crown", "an azure cap"]}}
COLOURS["wings"] = {"dark": "black wings", "white": "white wings", "red": "crimson wings"}


# Birds of many families.
ROWS = range(0, 24 * 80, 80)


def section(**changes):
  values = {"file": "", "model": "", "number": 3, "prompt": "auto", "seed": 0, "wrong": 0.0}
  return SimpleNamespace(**values | changes)


def config(source="finches", **changes):
  of = SimpleNamespace(source=source)
  model = SimpleNamespace(pretrained="tiny_clip")
  return SimpleNamespace(captioner=section(**changes), composed=of, model=model)


@pytest.fixture(scope="module")
def pictures():
  return [composed.image("val", k) for k in ROWS]


@pytest.fixture(scope="module")
def phrases(tmp_path_factory):
  path = tmp_path_factory.mktemp("phrases") / "phrases.json"
  path.write_text(json.dumps(COLOURS))
  return str(path)


@pytest.fixture(scope="module")
def phrase_captioner(phrases):
  return attributes.make(config("listed", file=phrases))


@pytest.fixture(scope="module")
def finch_captioner():
  return attributes.make(config())


def read(captions):
  """The stated attributes of each image; asserts that all of its captions agree."""
  found = []
  for of in captions:
    stated = [grammar.stated(text) for text in of]
    assert all(one == stated[0] for one in stated)
    assert set(stated[0]) == set(ATTRIBUTES)
    found.append(tuple(stated[0][name] for name in ATTRIBUTES))
  return found


def test_by_phrases_the_nearest_mean_is_chosen(phrase_captioner, pictures):
  """Against `encode_texts` and `encode_images`, which other tests hold to transformers."""
  captions = phrase_captioner(pictures)
  seen = images.encode_images(np.stack(pictures), "tiny_clip", len(pictures))
  values = [said for of in COLOURS.values() for said in of.values()]
  listed = [[said] if isinstance(said, str) else said for said in values]
  flat = [f"a photo of {said}." for these in listed for said in these]
  rows = iter(texts.encode_texts(flat, "tiny_clip", len(flat)))
  means = [np.mean([next(rows) for _ in these], axis=0) for these in listed]
  scores = seen @ np.stack([mean / np.linalg.norm(mean) for mean in means]).T
  for of, row in zip(captions, scores, strict=True):
    best = listed[:2][np.argmax(row[:2])], listed[2:][np.argmax(row[2:])]
    for caption in of:
      assert caption.startswith("a photo of ")
      assert all(any(said in caption for said in these) for these in best)
      assert len(caption.split(" and ")) == 2


def test_finches_are_read_better_than_by_chance_where_clip_sees_them(finch_captioner, pictures):
  """On val birds of combinations that no training showed; details are at chance (the docs)."""
  found = np.array(read(finch_captioner(pictures)))
  truth = np.array([composed.birds("val")[k] for k in ROWS])
  right = dict(zip(ATTRIBUTES, (found == truth).mean(0), strict=True))
  assert right["wing"] > 0.5 < right["body"]
  assert (found == truth).mean() > 0.3  # chance is 0.2


def test_captions_do_not_depend_on_the_batch(finch_captioner, pictures):
  whole = finch_captioner(pictures[:10])
  assert whole == finch_captioner(pictures[:10])
  assert [finch_captioner([one])[0] for one in pictures[:3]] == whole[:3]
  assert finch_captioner([]) == []
  assert all(len(of) == len(set(of)) == 3 for of in whole)


def test_wrong_attributes_are_a_share_and_the_same_each_time(pictures):
  """Under 1 all are wrong, under a half about a half, and by the image alone."""
  looked_for = attributes.of(config())
  values = [options[0] for options in ATTRIBUTES.values()]

  def wrong(share, image):
    told = attributes._told(section(wrong=share, number=1), looked_for, values, image)
    assert told == attributes._told(section(wrong=share, number=1), looked_for, values, image)
    (stated,) = read([told])
    return [a != b for a, b in zip(stated, values, strict=True)]

  assert not np.any([wrong(0.0, image) for image in pictures])
  assert np.all([wrong(1.0, image) for image in pictures])
  share = np.mean([wrong(0.5, np.full((2, 2, 3), k, np.uint8)) for k in range(200)])
  assert 0.45 < share < 0.55


def test_images_of_any_size_are_taken(phrase_captioner):
  """As the encoder's own preprocessing has it."""
  rng = np.random.default_rng(0)
  odd = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((40, 90), (300, 64))]
  assert [len(of) for of in phrase_captioner(odd)] == [3, 3]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("{", "is no JSON"),
    ("[]", "no attribute"),
    ("{}", "no attribute"),
    ('{"a": "x"}', "attribute 'a' has no two values"),
    ('{"a": {"x": "an x"}}', "attribute 'a' has no two values"),
    ('{"a": {"x": "an x", "y": ""}}', "value 'y' has no phrase"),
    ('{"a": {"x": "an x", "y": []}}', "value 'y' has no phrase"),
    ('{"a": {"x": "an x", "y": [3]}}', "value 'y' has no phrase"),
  ],
)
def test_a_file_without_phrases_is_one_line(tmp_path, text, words):
  path = tmp_path / "phrases.json"
  path.write_text(text)
  with pytest.raises(UserError, match=words) as error:
    attributes.check(config("listed", file=str(path)))
  assert "--config.captioner.file" in str(error.value)
  assert "\n" not in str(error.value)


def test_other_mistakes_name_their_key(tmp_path):
  for changes, source, words in (
    ({}, "listed", "--config.captioner.file=FILE"),
    ({"file": str(tmp_path / "none.json")}, "listed", "captioner.file"),
    ({"model": str(tmp_path / "none")}, "finches", "captioner.model"),
    ({"model": str(tmp_path)}, "finches", "captioner.model"),
  ):
    with pytest.raises(UserError, match=words) as error:
      attributes.check(config(source, **changes))
    assert "language." not in str(error.value)
  with pytest.raises(UserError, match="captioner.model"):
    attributes.make(config(model=str(tmp_path)))


def test_captions_of_finches_are_worded_as_the_finches_are(finch_captioner, pictures):
  known = {
    phrase
    for name, values in ATTRIBUTES.items()
    for value in values
    for phrase in finch_text.phrases((name, value))
  }
  for caption in finch_captioner(pictures[:2])[0]:
    rest = caption.removeprefix("A finch with ")
    assert sum(phrase in rest for phrase in known) >= 7
