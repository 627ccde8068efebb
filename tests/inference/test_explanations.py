"""`Retriever.explain`: what it says against scores and floors by hand, and what it refuses."""

import dataclasses

import numpy as np
import pytest

import lafg_jax
from lafg_jax.explain import records
from lafg_jax.explain.names import short_names
from lafg_jax.finches import classes
from lafg_jax.inference import bundle, explanations
from lafg_jax.tasks.class_retrieval import attributes
from lafg_jax.utils.errors import UserError

BIRDS = [classes.image(classes.UNSEEN[i].name, i) for i in range(2)]


@pytest.fixture(scope="module")
def reads_words(trained_run):
  """A retriever whose floors are low: after one step of training hardly any score is above them."""
  found = lafg_jax.load_retriever(trained_run)
  return dataclasses.replace(found, floors=np.full(10, 0.02))


def test_attributes_are_those_above_their_floors(reads_words):
  found = reads_words.explain(*BIRDS, heat="none")
  scores = attributes.scores(reads_words.embed(BIRDS), reads_words.readout)
  names = short_names(reads_words.sentences)
  for said, row in zip(found.attributes, scores, strict=True):
    assert [one.row for one in said] == [n for n in np.argsort(-row) if row[n] > 0.02][:8]
    assert [one.name for one in said] == [names[one.row] for one in said]
    wanted = [row[one.row] for one in said]
    np.testing.assert_allclose([one.cosine for one in said], wanted, rtol=1e-5)
  above = scores > 0.02
  assert {one.row for one in found.shared} == {*np.flatnonzero(above.all(axis=0))}
  for side, mine, other in zip(found.differ, above, above[::-1], strict=True):
    assert {one.row for one in side} == {*np.flatnonzero(mine & ~other)}
  a, b = reads_words.embed(BIRDS)
  np.testing.assert_allclose(found.score, a @ b, atol=1e-5)
  assert found.heat == [None, None] and found.note == ""


def test_floors_are_in_checkpoint_and_export_without_network(trained_run, tmp_path):
  found = lafg_jax.load_retriever(trained_run)
  np.testing.assert_array_equal(found.floors, attributes.floors(found.readout))
  bundle.write(bundle.read(str(trained_run)), str(tmp_path))
  np.testing.assert_array_equal(lafg_jax.load_retriever(str(tmp_path)).floors, found.floors)


@pytest.mark.parametrize("way", ["rollout", "occlusion", "patches", "matches"])
def test_heat_is_of_each_image_and_in_range(reads_words, way):
  found = reads_words.explain(*BIRDS, heat=way)
  assert len(found.heat) == 2 and found.shown == way
  for heat in found.heat:
    assert heat.ndim == 2 and heat.dtype == np.float32
    assert heat.min() == 0 and heat.max() == 1
  again = reads_words.explain(*BIRDS, heat=way)
  assert all((x == y).all() for x, y in zip(found.heat, again.heat, strict=True))


def test_one_image_has_no_score_and_no_pair(reads_words):
  found = reads_words.explain(BIRDS[0])
  assert found.score is None and found.shared == [] and found.differ == ([], [])
  assert len(found.attributes) == len(found.heat) == 1
  one = reads_words.explain(BIRDS[0], attribute=3, heat="occlusion")
  assert one.heat[0].shape == (12, 12) and one.shown == "occlusion"


@pytest.mark.parametrize("decides", [True, False])
def test_heat_of_words_is_shown_where_a_place_decides(reads_words, monkeypatch, decides):
  monkeypatch.setattr(explanations.occlusion, "decides", lambda found, score: decides)
  found = reads_words.explain(BIRDS[0], attribute=3)
  assert (found.heat[0] is not None) == decides
  assert found.note == (
    "" if decides else "no place of the image decides this score, so that no heat is shown"
  )
  assert reads_words.explain(BIRDS[0], attribute=3, heat="occlusion").heat[0] is not None


def test_a_pair_has_the_heat_of_the_first_shared_attribute_that_a_place_decides(
  reads_words, monkeypatch
):
  shared = reads_words.explain(*BIRDS, heat="none").shared
  assert len(shared) > 1
  asked = []
  # Of the first attribute, the second image is not decided.
  said = lambda found, score: asked.append(1) or len(asked) != 2  # noqa: E731
  monkeypatch.setattr(explanations.occlusion, "decides", said)
  found = reads_words.explain(*BIRDS)
  assert found.shown == f"occlusion of {shared[1].name}" and found.note == ""
  for bird, heat in zip(BIRDS, found.heat, strict=True):
    alone = reads_words.explain(bird, attribute=shared[1].row, heat="occlusion")
    np.testing.assert_allclose(heat, alone.heat[0], atol=1e-5)
  monkeypatch.setattr(explanations.occlusion, "decides", lambda found, score: False)
  found = reads_words.explain(*BIRDS)
  assert found.heat == [None, None] and found.shown == ""
  assert "heat='occlusion'" in found.note


def test_a_model_of_texts_explains_a_text_and_a_vocabulary(text_model):
  retriever = lafg_jax.load_retriever(str(text_model))
  words = ["a crimson crown", "a black crown", "a forked tail", "a yellow body"]
  found = retriever.explain(BIRDS[0], text=words[0], vocabulary=words, heat="occlusion")
  cosines = retriever.embed(BIRDS[0]) @ retriever.embed_text(words).T
  np.testing.assert_allclose(found.score, cosines[0, 0], atol=1e-5)
  floor = cosines.mean() + cosines.std()
  assert [one.name for one in found.attributes[0]] == [
    words[n] for n in np.argsort(-cosines[0]) if cosines[0, n] > floor
  ]
  assert found.heat[0].max() == 1
  bare = retriever.explain(*BIRDS)
  assert bare.attributes == [[], []] and "pass vocabulary=[texts]" in bare.note
  assert bare.heat == [None, None] and "share no attribute" in bare.note
  assert all(x is not None for x in retriever.explain(*BIRDS, heat="rollout").heat)


def test_a_model_of_composed_retrieval_explains_too(composed_model):
  retriever = lafg_jax.load_retriever(str(composed_model))
  found = retriever.explain(*BIRDS, vocabulary=["a crimson crown", "a black crown"])
  assert found.score is not None and len(found.heat) == 2


def test_a_model_without_attributes_says_why(reads_words):
  config = reads_words.config.copy_and_resolve_references()
  config.loss.alignment = "orthogonal"
  without = dataclasses.replace(reads_words, readout={}, config=config)
  found = without.explain(BIRDS[0], heat="none")
  assert found.attributes == [[]] and "has no attributes to read" in found.note


def test_a_name_is_said_once_and_a_shared_one_is_in_no_other_list():
  floors = np.full((2, 5), 0.1)
  cosines = np.array([[0.9, 0.8, 0.05, 0.4, 0.3], [0.2, 0.0, 0.7, 0.5, 0.0]])
  names = ["red crown", "red crown", "long tail", "thin bill", "plain wing"]
  (one, *_) = records.named(cosines[0], floors[0], names, 9)
  assert one == records.Named(0, "red crown", 0.9, 0.1)
  assert [x.name for x in records.named(cosines[0], floors[0], names, 2)] == [
    "red crown",
    "thin bill",
  ]
  shared, (a, b) = records.compared(cosines, floors, names, 9)
  assert [(x.name, x.cosine) for x in shared] == [("thin bill", 0.4), ("red crown", 0.2)]
  assert [x.name for x in a] == ["plain wing"] and [x.name for x in b] == ["long tail"]


def test_what_cannot_be_explained_is_one_line(reads_words, text_model):
  for options, said in (
    ({"heat": "gradient"}, "heat is 'gradient'"),
    ({"heat": "matches"}, "pass b"),
    ({"k": 0}, "k is 0"),
    ({"attribute": 10}, "attribute is 10; the vocabulary has 10 rows"),
    ({"text": "red"}, "embeds no texts"),
    ({"vocabulary": ["red"]}, "embeds no texts"),
    ({"b": BIRDS[1], "text": "red"}, "one of b=, text= and attribute="),
    ({"b": reads_words.embed(BIRDS[1])}, "b: this is an embedding"),
    ({"b": BIRDS}, "b holds 2 images"),
  ):
    with pytest.raises(UserError, match=said):
      reads_words.explain(BIRDS[0], **options)
  with pytest.raises(UserError, match="this model has none"):
    lafg_jax.load_retriever(str(text_model)).explain(BIRDS[0], attribute=0)
  with pytest.raises(UserError, match="takes one"):
    lafg_jax.load_retriever(str(text_model)).explain(BIRDS[0], text=["a", "b"])


def test_a_network_without_attention_shows_its_last_map_and_says_so(reads_words):
  see = reads_words.see_batch
  without = dataclasses.replace(reads_words, see_batch=lambda x: see(x)._replace(rollout=None))
  found = without.explain(BIRDS[0], heat="rollout")
  assert found.shown == "patches" and "has no attention" in found.note
  wanted = reads_words.explain(BIRDS[0], heat="patches").heat[0]
  np.testing.assert_array_equal(found.heat[0], wanted)
