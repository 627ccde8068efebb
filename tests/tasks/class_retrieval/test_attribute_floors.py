"""Floors that are measured, against the projection of the whole CLIP that training began with."""

import json

import numpy as np
import pytest

import lafg_jax
from lafg_jax.data import datasets
from lafg_jax.models import clip as clips
from lafg_jax.tasks.class_retrieval import attribute_floors, attributes, protocol
from lafg_jax.tasks.class_retrieval import train as train_stage
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.utils.vectors import l2_normalise


def test_they_are_quantiles_of_what_the_clip_itself_gives():
  from configs import synthetic

  config = synthetic.get_config("pretrained")
  assert attribute_floors.are_measured(config)
  config.loss.alignment = "orthogonal"
  assert not attribute_floors.are_measured(config)
  config = synthetic.get_config("pretrained")
  config.loss.projector_init = "random"
  assert not attribute_floors.are_measured(config)
  config.loss.projector_init = "pretrained"
  kernel = np.asarray(clips.load("tiny_clip", 48)[1]["image"]["projection"]["kernel"])
  rng = np.random.default_rng(0)
  vocabulary = l2_normalise(rng.standard_normal((6, kernel.shape[1])), "words")
  given = []

  def untrained(images):
    given.append(l2_normalise(rng.standard_normal((len(images), len(kernel))), "images"))
    return given[-1]

  dataset = datasets.load_splits(config.data, ("test",))["test"]
  some = datasets.some_rows(dataset, np.arange(40))
  found = attribute_floors.measure(config, {"prototypes/vocabulary": vocabulary}, untrained, some)
  projected = np.concatenate(given)[:40] @ kernel
  entries = vocabulary - vocabulary.mean(axis=0)
  cosines = (projected / np.linalg.norm(projected, axis=1, keepdims=True)) @ (
    entries / np.linalg.norm(entries, axis=1, keepdims=True)
  ).T
  np.testing.assert_allclose(found, np.quantile(cosines, attributes.QUANTILE, axis=0), atol=2e-5)


def test_an_evaluation_keeps_them_for_the_restored_model(
  config_with, dataset, prototypes, tmp_path, monkeypatch
):
  """By a model whose projectors count as pretrained; what is measured stands in for any figures."""
  config, asked = config_with(train__steps=1), []

  def measure(config, arrays, untrained, dataset):
    asked.append(untrained(np.zeros((2, 16, 16, 3), np.uint8)).shape)
    return [0.25] * 10

  monkeypatch.setattr(attribute_floors, "are_measured", lambda config: True)
  monkeypatch.setattr(attribute_floors, "measure", measure)
  words = LoadedPrototypes(**{**vars(prototypes), "sentences": (("a", "b"),) * 10})
  train_stage.run(config, str(tmp_path / "run"), dataset, words)
  plain = lafg_jax.load_retriever(str(tmp_path / "run"))
  np.testing.assert_array_equal(plain.floors, attributes.floors(plain.readout))
  protocol.run(config, str(tmp_path / "run"))
  protocol.run(config, str(tmp_path / "run"))
  assert len(asked) == 1, "once a workdir"
  assert (lafg_jax.load_retriever(str(tmp_path / "run")).floors == 0.25).all()
  # Of other words they are measured again.
  path = tmp_path / "run" / protocol.UNTRAINED
  kept = json.loads(path.read_text())
  for figures in kept.values():
    figures[attribute_floors.OF] = "of other words"
  path.write_text(json.dumps(kept))
  protocol.run(config, str(tmp_path / "run"))
  assert len(asked) == 2


@pytest.mark.parametrize("evaluation", [None, {}, {"untrained": {"map@r": 0.1}}])
def test_without_an_evaluation_they_are_those_of_chance(evaluation):
  found = {"image": np.eye(6), "entries": np.eye(6)}
  floors = attribute_floors.of({"evaluation": evaluation}, found)
  np.testing.assert_array_equal(floors, attributes.floors(found))
  assert attribute_floors.of({"evaluation": evaluation}, {}) is None
