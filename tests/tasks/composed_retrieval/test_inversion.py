"""Inversion against torch step by step, what keeps it apart from its batch, and its resume."""

import functools
import json

import jax
import numpy as np
import pytest

from lafg_jax.tasks.composed_retrieval import concepts as words_of
from lafg_jax.tasks.composed_retrieval import default, inversion, kept, pseudo_words, words
from lafg_jax.utils.errors import UserError

TEXTS = ["a red dog beside no wings", "a red dog", "very costs"]


def test_six_steps_equal_torch(small_clip):
  """L = (L_cos + 0.5 L_gpt) / 1.5, AdamW 2e-2, and the average from the start on."""
  import torch

  clip, reader, rng = small_clip.clip, small_clip.reader, np.random.default_rng(0)
  steps, count, width = 6, 2, clip.text.sizes[0]
  images = rng.standard_normal((count, clip.dim)).astype(np.float32)
  starts = 0.02 * rng.standard_normal((count, width)).astype(np.float32)
  table = pseudo_words.masked(reader, [x.split("$") for x in words_of.TEMPLATES])
  changed, plain = inversion.tokens_of(
    reader, [("dog", ("a photo of ", " that is red")), ("red", ("", " dog"))]
  )
  said = inversion._alike(reader, table, changed, plain)
  which, phrase = rng.integers(24, size=(steps, count)), rng.integers(2, size=(steps, count))
  given = [
    inversion._rows(of, rows) for of, rows in zip(said, (which, phrase, phrase), strict=True)
  ]
  # In two pieces, as a long inversion is computed.
  going_on = jax.jit(functools.partial(inversion.continued, clip, 2e-2, small_clip.params))
  state = inversion.begun(2e-2, starts)
  for part in (slice(0, 3), slice(3, 6)):
    state = going_on(state, images, *(inversion._rows(of, part) for of in given))
  found = state[1]

  words = torch.nn.Parameter(torch.tensor(starts))
  average, of_images = words.detach().clone(), torch.tensor(images)
  optimizer = torch.optim.AdamW([words], lr=2e-2, weight_decay=0.01)
  embedding = small_clip.torch.text_model.embeddings.token_embedding

  def features(rows, places):
    hook = lambda m, a, out: torch.where(  # noqa: E731
      torch.tensor(rows.at)[..., None], words[:, None], out
    )
    handle = embedding.register_forward_hook(hook) if places else None
    states = small_clip.torch.text_model(torch.tensor(rows.ids)).last_hidden_state
    if handle:
      handle.remove()
    ended = states[torch.arange(count), torch.tensor(rows.ends).long()]
    return small_clip.torch.text_projection(ended)

  cosine = torch.nn.functional.cosine_similarity
  for k in range(steps):
    template, of_phrase, as_it_is = (inversion._rows(of, k) for of in given)
    l_cos = 1 - cosine(features(template, True), of_images)
    l_gpt = 1 - cosine(features(of_phrase, True), features(as_it_is, False).detach())
    optimizer.zero_grad()
    ((l_cos + 0.5 * l_gpt) / 1.5).sum().backward()
    optimizer.step()
    average = 0.99 * average + 0.01 * words.detach()
  np.testing.assert_allclose(found, average.numpy(), atol=2e-5)
  # It moved, by about the rate a step.
  assert np.abs(np.asarray(found) - starts).max() > 1e-3


@pytest.fixture(scope="module")
def made(small_clip):
  config = default.get_config()
  config.mapping.update(method="searle", inversion_steps=12)
  images = np.random.default_rng(1).standard_normal((6, small_clip.clip.dim)).astype(np.float32)
  return config, images, words_of.of(config, TEXTS)


def invert(small_clip, made, folder, rows=slice(None)):
  config, images, concepts = made
  of = (small_clip.clip, small_clip.params, small_clip.reader)
  return inversion.invert(config, *of, images[rows], concepts, folder)


def test_an_inversion_does_not_depend_on_its_batch_and_goes_on_where_it_was_stopped(
  small_clip, made, tmp_path, monkeypatch
):
  config, images, _ = made
  found = invert(small_clip, made, tmp_path / "all")
  assert found.shape == (6, small_clip.clip.text.sizes[0]) and found.dtype == np.float32
  some = invert(small_clip, made, tmp_path / "some", [4, 1])
  np.testing.assert_allclose(some, found[[4, 1]], atol=1e-5)
  # In batches of four: a batch that is there is read, one that is missing or damaged is made.
  monkeypatch.setattr(inversion, "_BATCH", 4)
  folder = tmp_path / "batches"
  np.testing.assert_allclose(invert(small_clip, made, folder), found, atol=1e-5)
  (folder / "00001.npz").write_bytes(b"cut")
  before, asked = (folder / "00000.npz").stat().st_mtime_ns, []
  drawn = inversion._drawn
  monkeypatch.setattr(inversion, "_drawn", lambda *x: asked.append(1) or drawn(*x))
  np.testing.assert_allclose(invert(small_clip, made, folder), found, atol=1e-5)
  assert asked == [1] and (folder / "00000.npz").stat().st_mtime_ns == before
  # Another seed is another folder.
  names = {inversion.folder_of("w", config, images, made[2])}
  config.seed = 1
  names.add(inversion.folder_of("w", config, images, made[2]))
  config.seed = 0
  assert len(names) == 2 and {x.parent.name for x in names} == {kept.FOLDER}


def test_concepts_are_the_nouns_of_the_texts_or_those_of_files(tmp_path, made):
  config, _, concepts = made
  assert concepts.names[0] == "red dog" and "wings" in concepts.names
  assert len(words_of.TEMPLATES) == len(set(words_of.TEMPLATES)) == 24
  assert all(x.count("$") == 1 for x in words_of.TEMPLATES)
  assert len(concepts.phrases[0]) == 16 and concepts.phrases[0][0][0] == "a photo of "
  listed, phrases = tmp_path / "names.txt", tmp_path / "phrases.json"
  listed.write_text("cat\n\ndog\ncat\n")
  phrases.write_text(
    json.dumps({"cat": ["a photo of Cat that sits"], "dog": ["a dog", "dogs, dog"]})
  )
  config = config.copy_and_resolve_references()
  config.mapping.update(concepts=str(listed), concept_phrases=str(phrases))
  found = words_of.of(config, ())
  assert found.names == ("cat", "dog")
  assert found.phrases == ((("a photo of ", " that sits"),), (("a ", ""), ("dogs, ", "")))
  drawn = words_of.draw(found, np.array([[1], [1], [0]]), np.random.default_rng(0))
  assert [name for name, _ in drawn] == ["dog", "dog", "cat"]
  for content, message in (
    ('{"cat": ["a dog"]}', "of 'cat' does not have that word"),
    ('{"cat": []}', "it takes an object"),
    ("{", "it is no JSON"),
    ('{"cat": ["a cat"]}', "it has no phrases of 'dog'"),
  ):
    phrases.write_text(content)
    with pytest.raises(UserError) as error:
      words_of.of(config, ())
    assert message in str(error.value) and str(phrases) in str(error.value)
  config.mapping.update(concepts="", concept_phrases="")
  with pytest.raises(UserError, match="there are no concept words; pass a file"):
    words_of.of(config, ())


def test_the_nearest_concepts_are_those_of_the_largest_cosine():
  names = np.eye(4, dtype=np.float32) * 5
  images = np.array([[3, 1, 2, 0], [0, 0, 0.1, 0.2]], np.float32)
  found = words_of.nearest(images, names, 2)
  assert found.tolist() == [[0, 2], [3, 2]]
  assert words_of.nearest(images, names, 9).shape == (2, 4)


def test_an_inversion_of_references_takes_the_concepts_of_ones_own_texts(tmp_path):
  """A source without training texts has none of its own."""
  (tmp_path / "texts.txt").write_text("a red shoe on a table\n")
  config = default.get_config()
  config.composed.update(source="circo", root=str(tmp_path))
  with pytest.raises(UserError, match="mapping.texts"):
    words.concepts_of(config)
  config.mapping.texts = str(tmp_path / "texts.txt")
  assert "red shoe" in words.concepts_of(config).names
