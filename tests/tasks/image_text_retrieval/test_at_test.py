"""Weights of words at test, against one pair at a time and weights made by hand."""

import numpy as np
import pytest

from configs.image_text import finches
from lafg_jax.data import captions
from lafg_jax.tasks.image_text_retrieval import (
  at_test,
  embed,
  features,
  methods,
  protocol,
  reweighting,
  texts,
)
from lafg_jax.tasks.image_text_retrieval import model as models

WAYS = ("image_to_text", "text_to_image")


@pytest.fixture(scope="module")
def made():
  """A config, its model and parameters, and four birds of four classes with their embeddings."""
  config = methods.resolve(finches.get_config())
  config.captions.images_per_class, config.evaluate.ks = 1, (1, 3)
  config.evaluate.batch_size = 4
  model = models.load(config)
  captioned = captions.load_splits(config, ("test",))["test"]
  captioned = captions._take(captioned, "test", np.arange(4), captioned.class_names)
  params = models.init_params(config, model)
  found = embed.splits(config, model, captioned)(params)
  return config, model, params, captioned, protocol.of_captioned(captioned, *found)


@pytest.fixture(scope="module")
def blank(made):
  config, model, params = made[:3]
  size = config.data.image_size
  white = np.full((1, size, size, 3), 255, np.uint8)
  return embed.image_function(config, model)(params)(white)[0]


def weighted(made, blank, text, image):
  """The embedding of a caption whose words are weighed by an image, by the formulas."""
  config, model, params, captioned, embedded = made
  reader = texts.with_room(config, model.reader)
  words = texts.tokenised(reader, [captioned.captions[text]])
  of = texts.of_tokens(config, model, words.ids)
  tokens = of["token_features"][of["token_rows"][words.ids]]
  w = reweighting.changes(tokens, words.words, embedded.images[image][None], blank)
  a = reweighting.scaled(w, words.words, config.reweighting.gamma)
  return words, np.asarray(a), features.of_texts(
    config, model.clip, params, words.ids, words.ends, a
  )[0]  # fmt: skip


def test_every_pair_is_ranked_by_the_weights_of_its_own_image(made, blank):
  config, model, params, captioned, embedded = made
  count = len(embedded.images)
  cosines = np.array([
    [weighted(made, blank, text, image)[2] @ embedded.images[image] for text in range(count)]
    for image in range(count)
  ])  # fmt: skip
  found = at_test.reranked(config, model, params, captioned, embedded, (1, 3))
  for way, scores in zip(WAYS, (cosines, cosines.T), strict=True):
    own = np.diag(scores)
    before = (scores >= own[:, None]).sum(axis=1) - 1
    assert found[way] == {f"recall@{k}": pytest.approx((before < k).mean()) for k in (1, 3)}


def test_a_match_beyond_the_candidates_is_a_miss(made, monkeypatch):
  config, model, params, captioned, embedded = made
  monkeypatch.setattr(at_test, "TOP", 1)
  found = at_test.reranked(config, model, params, captioned, embedded, (1, 3))
  nearest = (embedded.images @ embedded.texts.T).argmax(axis=1)
  right = (nearest == np.arange(len(nearest))).mean()
  assert found["image_to_text"] == {"recall@1": pytest.approx(right), "recall@3": found[
    "image_to_text"]["recall@1"]}  # fmt: skip


def test_a_token_weighs_its_mean_over_training_captions(made, blank):
  config, model, params, captioned, embedded = made
  table = at_test.mean_weights(config, model, params, captioned)
  seen = {}
  for row in range(len(captioned.captions)):
    words, a, _ = weighted(made, blank, row, row)
    for token, value, word in zip(words.ids[0], a[0], words.words[0], strict=True):
      if word >= 0:
        seen.setdefault(int(token), []).append(float(value))
  assert {t: table[t] for t in seen} == {
    t: pytest.approx(np.mean(x), abs=2e-3) for t, x in seen.items()
  }
  others = np.setdiff1d(np.arange(len(table)), [*seen])
  assert (table[others] == 1).all() and len({*table.tolist()}) > 10
  config.reweighting.at_test = "mean"
  found = at_test.measured(config, model, params, captioned, captioned, embedded)
  reader = texts.with_room(config, model.reader)
  words = texts.tokenised(reader, captioned.captions)
  own = features.of_texts(config, model.clip, params, words.ids, words.ends, table[words.ids])
  cosines = embedded.images @ np.asarray(own).T
  before = (cosines >= np.diag(cosines)[:, None]).sum(axis=1) - 1
  assert found["image_to_text"]["recall@1"] == pytest.approx((before < 1).mean())
