"""Captions as tokens with room for prompts, and stored features of plain texts."""

import numpy as np
import pytest

from lafg_jax.data import captions
from lafg_jax.tasks.image_text_retrieval import default, embed, methods, stored_features, texts
from lafg_jax.tasks.image_text_retrieval import model as models
from lafg_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def config():
  config = default.get_config()
  config.data.update(image_size=48, resize_size=48)
  config.model.pretrained = "tiny_clip"
  config.captions.update(images_per_class=4, nearest_classes=2)
  return methods.resolve(config)


@pytest.fixture(scope="module")
def model(config):
  return models.load(config)


@pytest.fixture(scope="module")
def captioned(config):
  return captions.load_splits(config, ("train",))["train"]


def test_a_long_caption_is_cut_and_its_end_token_is_not(config, model):
  long = "a black bird with a crimson cap and yellow wings, " * 20
  room = texts.with_room(config, model.reader)
  found = texts.tokenised(room, [long, "a bird"])
  assert found.ids.shape == (2, 80 - 4)
  assert found.ends[0] == 75 and found.ids[0, 75] == room.end
  whole = texts.tokenised(model.reader, ["a bird"])
  length = whole.ids.shape[1]
  np.testing.assert_array_equal(found.ids[1, :length], whole.ids[0])
  assert found.ends[1] == whole.ends[0] == length - 1
  # With the k = 4 prompts the end token is at 1 + k + L, the last place of the context.
  assert found.ends[0] + 4 == 79
  many = config.copy_and_resolve_references()
  many.prompts.number = 78
  with pytest.raises(UserError, match=r"prompts.number=78: .* 80 tokens, .* pass 77 or less"):
    texts.with_room(many, model.reader)


def test_pieces_of_a_word_have_its_number(model):
  text = "A barred xylophone, double-barred."
  found = texts.tokenised(model.reader, [text], 40)
  numbers = found.words[0]
  assert numbers[0] == -1 and (numbers[found.ends[0] :] == -1).all()
  content = numbers[numbers >= 0]
  assert content[0] == 0 and content.max() == 7 and (np.diff(content) >= 0).all()
  # A word that the tokenizer does not have whole.
  assert (content == 2).sum() > 1
  for number, word in enumerate(("A", "barred", "xylophone", ",", "double", "-", "barred", ".")):
    pieces = model.reader.pieces([word])[0]
    np.testing.assert_array_equal(found.ids[0][numbers == number], pieces)


def test_stored_features_are_those_of_each_text_by_itself(config, model, captioned, tmp_path):
  import torch
  import transformers

  stored_features.run(config, str(tmp_path), captioned, model.clip, model.params)
  found = stored_features.load(config, str(tmp_path), captioned)
  strings, dtype = found.table.strings, found.features.dtype
  assert len(strings) > len(captioned.captions) and dtype == np.float16
  oracle = transformers.CLIPModel.from_pretrained(model.clip.tokens.folder, dtype=torch.float32)

  def of(ids):
    with torch.no_grad():
      output = oracle.text_model(input_ids=torch.tensor([ids]))
      x = oracle.text_projection(output.pooler_output)[0].numpy()
    return x / np.linalg.norm(x)

  for row in range(0, len(strings), 9):
    wanted = of(model.reader.ids([strings[row]])[0])
    np.testing.assert_allclose(found.features[row], wanted, atol=1e-3)
  constants = stored_features.constants(config, found, 744)
  word = model.reader.pieces(["bird"])[0][0]
  row = constants["token_rows"][word]
  wanted = of([model.reader.start, word, model.reader.end])
  np.testing.assert_allclose(constants["token_features"][row], wanted, atol=1e-3)
  other = captioned._replace(captions=[f"{x} Indeed." for x in captioned.captions[:-1]])
  other = other._replace(labels=other.labels[:-1], image_of=other.image_of[:-1])
  with pytest.raises(UserError, match="is of other captions: run --stage=encode again"):
    stored_features.load(config, str(tmp_path), other)


def test_no_text_embedding_sees_its_image(config, model, captioned):
  # Permuting which image belongs to which caption changes no bit of any text embedding.
  params = models.init_params(config, model)
  order = np.random.default_rng(0).permutation(len(captioned.captions))
  pictures = np.stack([np.asarray(captioned.images[row]) for row in range(len(order))])
  straight, permuted = (
    embed.splits(config, model, captioned._replace(images=x))(params)
    for x in (pictures, pictures[order])
  )
  np.testing.assert_array_equal(straight[1], permuted[1])
  np.testing.assert_allclose(straight[0][order], permuted[0], atol=1e-6)
  assert np.abs(straight[0] - permuted[0]).max() > 0.1
