"""Words weighed by an image, against NumPy; and texts that have seen no image, to the bit."""

import numpy as np
import pytest

from configs.image_text import finches
from lafg_jax.data import captions
from lafg_jax.language.encoders import clip_texts
from lafg_jax.report import word_weights
from lafg_jax.tasks.image_text_retrieval import embed, methods, readings, reweighting
from lafg_jax.tasks.image_text_retrieval import model as models


@pytest.fixture(scope="module")
def untrained():
  """The config of the finches, its model, its parameters, and two birds of each unseen class."""
  config = methods.resolve(finches.get_config())
  config.captions.images_per_class = 2
  config.evaluate.batch_size = 16
  model = models.load(config)
  captioned = captions.load_splits(config, ("test",))["test"]
  return config, model, models.init_params(config, model), captioned


def test_no_bit_of_a_text_depends_on_which_image_is_whose(untrained):
  config, model, params, captioned = untrained
  order = np.roll(np.arange(len(captioned.captions)), 3)
  # A table of images that can be turned; the readers take arrays.
  pixels = np.stack([np.asarray(captioned.images[row]) for row in range(len(order))])
  first, second = (
    embed.splits(config, model, captioned._replace(images=of))(params)
    for of in (pixels, pixels[order])
  )
  np.testing.assert_array_equal(first[1], second[1])
  np.testing.assert_array_equal(first[0][order], second[0])
  assert not np.allclose(first[0], second[0])


def test_words_are_weighed_as_the_formula_has_it(untrained):
  config, model, params, captioned = untrained
  found = readings.words_of(config, params, captioned, most=16)
  assert [*found] == [*range(16)]
  images = embed.splits(config, model, captioned)(params)[0]
  size = config.data.image_size
  white = embed.image_function(config, model)(params)(np.full((1, size, size, 3), 255, np.uint8))
  for row in (0, 9):
    text = captioned.captions[row]
    words = [word for word, _ in found[row]]
    assert "".join(words) == text.replace(" ", "")
    assert len(word_weights.placed(text, found[row])) == len(words)
    pieces = model.reader.pieces(words)
    ids = sorted({piece for of in pieces for piece in of})
    of_tokens = clip_texts.token_features(model.clip, model.params, model.reader, ids)
    # S of a word is the mean over its pieces; the mean of a caption is over all pieces.
    change = of_tokens @ (white[0] - images[row])
    w = [abs(np.mean([change[ids.index(piece)] for piece in of])) for of in pieces]
    mean = np.average(w, weights=[len(of) for of in pieces])
    ratio = np.clip(np.array(w) / mean, reweighting.LEAST, reweighting.MOST)
    wanted = 1 + config.reweighting.gamma * (ratio - 1)
    assert [a for _, a in found[row]] == pytest.approx(wanted, abs=2e-3)
  assert word_weights.by_kind(captioned, found)["attributes"]["words"] > 50
