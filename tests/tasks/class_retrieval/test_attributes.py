"""Attributes of images against the formulas in NumPy."""

import numpy as np
import pytest

import lafg_jax
from lafg_jax.tasks.class_retrieval import attributes
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import UserError

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


def units(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_projectors_of_the_checkpoint_are_read(trained_run):
  retriever = lafg_jax.load_retriever(trained_run)
  state = checkpoints.read(str(trained_run), 1)[0]
  # The default: 'prototype' through the mean projector, centred words.
  vocabulary = state["prototypes/vocabulary"]
  places = (vocabulary - vocabulary.mean(0)) @ state["state/averages/projectors/text"]
  vectors = retriever.embed(PIXELS)
  cosines = units(vectors @ state["state/params/projectors/image"]) @ units(places).T
  for entries, row in zip(retriever.attributes(PIXELS, k=3), cosines, strict=True):
    best = np.argsort(-row)[:3]
    assert [entry.row for entry in entries] == best.tolist()
    np.testing.assert_allclose([entry.cosine for entry in entries], row[best], atol=1e-5)
    assert entries[0].sentences == (
      f"nearest to entry {best[0]}",
      f"next to entry {best[0]}",
    )
  # Embeddings in place of images, and no more entries than there are.
  assert retriever.attributes(vectors, k=3) == retriever.attributes(PIXELS, k=3)
  assert [len(entries) for entries in retriever.attributes(vectors, k=99)] == [10] * 4
  assert retriever.attributes([], k=3) == []


@pytest.mark.parametrize("centre", [True, False])
def test_of_profiles_the_entries_are_the_axes(config_with, centre):
  config = config_with(language__prototype="profile", language__centre=centre)
  rng = np.random.default_rng(3)
  projectors = {"image": rng.standard_normal((9, 12)), "text": rng.standard_normal((7, 12))}
  found = attributes.readout(config, rng.standard_normal((7, 5)), projectors, projectors)
  wanted = (np.eye(7) - centre * np.full((7, 7), 1 / 7)) @ projectors["text"]
  np.testing.assert_allclose(found["entries"], units(wanted), atol=1e-6)


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("form", ["prototype", "orthogonal", "none"])
def test_a_model_that_learned_to_read_images_is_asked_so(config_with, form, centre):
  changes = {"loss__image_alignment": "vocabulary", "loss__alignment": form}
  config = config_with(**changes, language__centre=centre)
  rng = np.random.default_rng(4)
  vocabulary, projectors = rng.standard_normal((7, 5)), {"teacher": rng.standard_normal((9, 5))}
  found = attributes.readout(config, vocabulary, projectors, {})
  np.testing.assert_allclose(found["image"], projectors["teacher"], rtol=1e-6)
  wanted = units(vocabulary - centre * vocabulary.mean(0))
  np.testing.assert_allclose(found["entries"], wanted, atol=1e-6)


@pytest.mark.parametrize("form", ["prototype", "vocabulary"])
@pytest.mark.parametrize("projector", ["free", "mean", "fixed"])
@pytest.mark.parametrize("centre", [True, False])
def test_an_image_at_an_entry_reads_it(config_with, form, projector, centre):
  rng = np.random.default_rng(2)
  config = config_with(loss__alignment=form, loss__projector=projector, language__centre=centre)
  vocabulary = units(rng.standard_normal((7, 5)) + 1)
  projectors = {"image": rng.standard_normal((9, 12)), "text": rng.standard_normal((5, 12))}
  means = {name: rng.standard_normal(x.shape) for name, x in projectors.items()}
  readout = attributes.readout(config, vocabulary, projectors, means)
  assert {name: x.shape for name, x in readout.items()} == {"image": (9, 12), "entries": (7, 12)}
  text = (means if projector == "mean" else projectors)["text"]
  centred = form == "prototype" and centre
  wanted = (vocabulary - centred * vocabulary.mean(0)) @ text
  np.testing.assert_allclose(readout["entries"], units(wanted), atol=1e-6)
  # Images whose projection is the entry's own place, up to a length that must not matter.
  square = np.concatenate([np.eye(9), np.zeros((9, 3))], axis=1)
  readout = {"image": square, "entries": units(rng.standard_normal((7, 9))) @ square}
  found = attributes.nearest(3 * readout["entries"][:, :9], readout, [()] * 7, 1)
  assert [entries[0].row for entries in found] == list(range(7))
  np.testing.assert_allclose([entries[0].cosine for entries in found], 1, atol=1e-6)


def test_models_without_attributes_say_so(config_with):
  words = np.eye(4)
  projectors = {"image": np.eye(4), "text": np.eye(4)}
  for form in ("distribution", "orthogonal", "onehot", "none"):
    config = config_with(loss__alignment=form)
    found = attributes.readout(config, words, projectors, projectors)
    with pytest.raises(UserError, match=f"loss.alignment={form} has no attributes to read"):
      attributes.check(config, found, [("a",)])
  config = config_with(loss__alignment="vocabulary")
  found = attributes.readout(config, words, projectors, projectors)
  with pytest.raises(UserError, match="has no sentences of its vocabulary"):
    attributes.check(config, found, [])
  attributes.check(config, found, [("a",)] * 4)


def test_bad_requests_are_one_line():
  readout = {"image": np.eye(4), "entries": np.eye(4)}
  with pytest.raises(UserError, match="k is 0"):
    attributes.nearest(np.eye(4), readout, [()] * 4, 0)
  with pytest.raises(UserError, match=r"\(4, 3\), not \[B, 4\]"):
    attributes.nearest(np.ones((4, 3)), readout, [()] * 4, 1)


def test_floors_are_what_random_projectors_exceed_in_one_case_of_a_hundred():
  rng = np.random.default_rng(5)
  entries, vectors = units(rng.standard_normal((9, 12))), rng.standard_normal((3, 20)) + 2
  found = {"image": np.zeros((20, 12)), "entries": entries}
  floors = attributes.floors(found, 0.99)
  assert floors.shape == (9,)
  drawn = [
    attributes.scores(vectors, {"image": rng.standard_normal((20, 12)), "entries": entries})
    for _ in range(4000)
  ]
  np.testing.assert_allclose((np.stack(drawn) > floors).mean(axis=(0, 1)), 0.01, atol=0.004)
  assert (attributes.floors(found, 0.5) == 0).all()
  for wrong in (0.2, 1.0, 99):
    with pytest.raises(UserError, match="quantile"):
      attributes.floors(found, wrong)


def test_scores_are_cosines_with_every_entry():
  rng = np.random.default_rng(6)
  found = {"image": rng.standard_normal((5, 4)), "entries": units(rng.standard_normal((7, 4)))}
  vectors = rng.standard_normal((3, 5))
  wanted = units(vectors @ found["image"]) @ found["entries"].T
  np.testing.assert_allclose(attributes.scores(vectors, found), wanted, atol=1e-6)
  assert attributes.scores(vectors[:0], found).shape == (0, 7)
  with pytest.raises(UserError, match=r"\(3, 4\), not \[B, 5\]"):
    attributes.scores(vectors[:, :4], found)
