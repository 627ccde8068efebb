"""Pseudo words: their places, and features that are transformers' with a hook on the embeddings."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from lafg_jax.language.encoders import tokens
from lafg_jax.models.weights import files
from lafg_jax.tasks.composed_retrieval import pseudo_words
from lafg_jax.utils.errors import UserError

# At the start, inside and at the end of a template, with a user's own $, cut and padded.
CASES = [
  ("a photo of $ that {text}", "is red and has no wings"),
  ("a photo of $ that {text}", "costs $ 5, not $9"),
  ("$ {text}", "and a dog"),
  ("{text} $", "a dog beside"),
  ("a photo of $", ""),
  ("a photo of $ that {text}.", "is " + "very " * 60 + "red"),
  ("{text} $", "very " * 60),
  ("a photo of $, {text}", "{text} {added}"),
]


@pytest.mark.parametrize("template, text", CASES)
def test_features_are_those_of_a_hook_on_the_token_embedding(small_clip, template, text):
  import torch

  reader, transformers_tokenizer = small_clip.reader, small_clip.tokenizer
  width = small_clip.clip.text.sizes[0]
  word = np.random.default_rng(1).standard_normal(width).astype(np.float32)
  rows = pseudo_words.phrases(reader, template, [text, "x"])
  compute = jax.jit(functools.partial(pseudo_words.features, small_clip.clip))
  found = np.asarray(compute(small_clip.params, rows, np.stack([word, word])))

  # The same text with a word that stands nowhere else, by transformers' own tokenizer.
  said = template.replace("$", " @ ").replace("{text}", text)
  ids = transformers_tokenizer(said)["input_ids"]
  special = transformers_tokenizer.convert_tokens_to_ids("@</w>")
  assert ids.count(special) == 1
  context, place = small_clip.clip.text.context, ids.index(special)
  if place >= context - 1:
    # The pseudo word is kept, as the last before the end.
    place = context - 2
    ids = [*ids[:place], special, ids[-1]]
  ids = [*ids[:-1][: context - 1], ids[-1]]
  assert rows.at[0] == place and rows.ends[0] == len(ids) - 1

  def hook(module, args, output):
    output = output.clone()
    output[:, place] = torch.tensor(word)
    return output

  handle = small_clip.torch.text_model.embeddings.token_embedding.register_forward_hook(hook)
  try:
    with torch.no_grad():
      wanted = small_clip.torch.get_text_features(torch.tensor([ids]))
      wanted = getattr(wanted, "pooler_output", wanted).numpy()[0]
  finally:
    handle.remove()
  np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_a_users_own_dollar_is_a_token_like_any_other(small_clip):
  of = functools.partial(pseudo_words.phrases, small_clip.reader, "$ that {text}")
  dollar = small_clip.tokenizer.convert_tokens_to_ids("$</w>")
  rows = of(["costs $ 5"])
  assert rows.at.tolist() == [1] and np.flatnonzero(rows.ids[0] == dollar).tolist() == [4]
  # Signs beside the place of the template make no token with it, and braces stay as they are.
  added = pseudo_words.phrases(small_clip.reader, "a $. And {added}", ["x"], added=["{text} $"])
  said = small_clip.tokenizer.convert_ids_to_tokens(added.ids[0])
  assert said[3:5] == [".</w>", "and</w>"] and said.count("$</w>") == 1
  assert added.at.tolist() == [2]


@pytest.mark.parametrize("template", ["a photo that {text}", "$ and $ that {text}"])
def test_templates_without_one_place_are_refused(small_clip, template):
  with pytest.raises(UserError) as error:
    pseudo_words.phrases(small_clip.reader, template, ["is red"])
  assert repr(template) in str(error.value) and "\n" not in str(error.value)


def test_several_places_share_the_pseudo_word(small_clip):
  reader, width = small_clip.reader, small_clip.clip.text.sizes[0]
  long = "very " * 90
  rows = pseudo_words.masked(reader, [["", " beside ", ""], ["a", ""], [long, ""], ["x"]])
  assert rows.at.sum(axis=1).tolist() == [2, 1, 1, 1]
  # Those that have lost all places, or had none, are "a photo of $".
  np.testing.assert_array_equal(rows.ids[2], rows.ids[3])
  assert rows.at[2].tolist().index(True) == 4 and rows.ends[2] == 5
  word = np.random.default_rng(2).standard_normal((4, width)).astype(np.float32)
  compute = jax.jit(functools.partial(pseudo_words.features, small_clip.clip))
  found = np.asarray(compute(small_clip.params, rows, word))
  # The word as an entry of the embeddings, at an id that no text has.
  table = np.array(small_clip.params["text"]["token_embedding"]["embedding"])
  unused = 7
  assert not (rows.ids == unused).any()
  table[unused] = word[0]
  text = {**small_clip.params["text"], "token_embedding": {"embedding": table}}
  ids = np.where(rows.at[:1], unused, rows.ids[:1])
  plain = pseudo_words.plain_features(small_clip.clip, {"text": text}, ids, rows.ends[:1])
  np.testing.assert_allclose(found[0], plain[0], atol=1e-5)


def test_other_vocabularies_and_padding_on_the_left():
  """The tiny CLIP has no $, and its end token is not the largest; others pad on the left."""
  reader = tokens.load(Path(files.local("tiny_clip")))
  rows = pseudo_words.phrases(reader, "a photo of $ that {text}", ["has a red crown"])
  whole = reader.ids(["a photo of that has a red crown"])[0]
  row, at = rows.ids[0].tolist(), int(rows.at[0])
  assert row[:at] + row[at + 1 : len(whole) + 1] == whole and row[rows.ends[0]] == reader.end
  assert at == len(reader.before) + len(reader.pieces(["a photo of"])[0])
  left = reader._replace(left=True, fixed=True, context=40)
  moved = pseudo_words.phrases(left, "a photo of $ that {text}", ["has a red crown"])
  assert moved.at[0] == at + 40 - len(whole) - 1 and moved.ends[0] == 39
  assert moved.ids[0, -len(whole) - 1 :].tolist() == row[: len(whole) + 1]
