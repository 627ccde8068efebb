"""The text tower against transformers: whole texts, inserted embeddings, prompts at depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lafg_jax.models import clip as clips

CONTEXT, START, END, PAD = 12, 1, 3, 0


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch")


def drawn(lengths, seed=0):
  """Ids [B, 12] of texts of so many tokens, padded, and the places of their end tokens.

  Words are ids above the end token's, as in no vocabulary where its id is the largest.
  """
  rng = np.random.default_rng(seed)
  ids = np.full((len(lengths), CONTEXT), PAD)
  for row, length in zip(ids, lengths, strict=True):
    row[:length] = [START, *rng.integers(4, 40, length - 2), END]
  return ids, np.asarray(lengths) - 1


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def of_torch(torch, model, ids, **arguments):
  with torch.no_grad():
    out = model.get_text_features(input_ids=torch.from_numpy(ids), **arguments)
  return unit(out.pooler_output.numpy())


# One padded, one that was cut to the context, one without words.
LENGTHS = (7, CONTEXT, 2)


@pytest.mark.parametrize("name", ["clip", "clip_gelu", "siglip", "siglip2"])
def test_texts_equal_those_of_transformers(torch, whole, loaded, name):
  model, (clip, params) = whole(name)[0], loaded(name)
  ids, ends = drawn(LENGTHS)
  got = clips.embed_texts(clip, params, clips.token_embeddings(clip, params, ids), ends)
  assert got.dtype == jnp.float32 and got.shape == (3, clip.dim)
  np.testing.assert_allclose(got, of_torch(torch, model, ids), atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_padding_changes_no_text_of_clip_and_a_mask_neither(torch, whole, loaded):
  model, (clip, params) = whole("clip")[0], loaded("clip")
  ids, ends = drawn((7, 5))
  tokens = clips.token_embeddings(clip, params, ids)
  long, short = (clips.embed_texts(clip, params, tokens[:, :n], ends) for n in (CONTEXT, 7))
  np.testing.assert_allclose(long, short, atol=1e-6)
  mask = torch.from_numpy((np.arange(CONTEXT) <= ends[:, None]).astype(np.int64))
  np.testing.assert_allclose(long, of_torch(torch, model, ids, attention_mask=mask), atol=1e-5)


def test_a_text_too_long_and_a_siglip_text_that_is_not_padded_are_refused(loaded):
  ends = np.array([6])
  for name, length in (("siglip", 7), ("clip", CONTEXT + 1)):
    clip, params = loaded(name)
    tokens = jnp.zeros((1, length, 32))
    with pytest.raises(ValueError, match=f"{length} tokens of a text: the tower has 12 positions"):
      clips.embed_texts(clip, params, tokens, ends)


def test_every_token_is_pooled_as_the_end_token_is(loaded):
  clip, params = loaded("clip")
  ids, ends = drawn(LENGTHS)
  tokens = clips.token_embeddings(clip, params, ids)
  states = clip.text.apply({"params": params["text"]}, tokens, ends, states=True)
  assert states.shape == (3, CONTEXT, 24)
  pooled = clip.text.apply({"params": params["text"]}, tokens, ends)
  np.testing.assert_allclose(states[np.arange(3), ends], pooled, atol=1e-5)


def hooked(torch, model, inserted, deep, at):
  """Handles of hooks: `inserted` replaces token embeddings, deep[i] states before block i + 1."""
  text = model.text_model
  places = slice(at, at + inserted.shape[-2])

  def replaced(x, new):
    return torch.cat([x[:, : places.start], new.expand(len(x), -1, -1), x[:, places.stop :]], 1)

  handles = [
    text.embeddings.token_embedding.register_forward_hook(lambda m, a, x: replaced(x, inserted))
  ]
  for i, new in enumerate(deep):

    def before(module, args, kwargs, new=new):
      return (replaced(args[0], new), *args[1:]), kwargs

    handles.append(text.encoder.layers[i + 1].register_forward_pre_hook(before, with_kwargs=True))
  return handles


# MaPLe's J = 2 with two prompts, after which they flow on through block 2; J = 3; pseudo words in
# the middle of a text.
@pytest.mark.parametrize(("name", "at", "deep"), [("clip", 1, 1), ("siglip", 1, 2), ("clip", 3, 0)])
def test_inserted_embeddings_and_their_gradients_equal_those_of_torch(
  torch, whole, loaded, name, at, deep
):
  model, (clip, params) = whole(name)[0], loaded(name)
  rng = np.random.default_rng(1)
  first, later = (rng.standard_normal((*n, 2, 32)).astype(np.float32) for n in ((), (deep,)))
  ids, ends = drawn((9, CONTEXT))
  probe = rng.standard_normal(clip.dim).astype(np.float32)

  def embedded(first, later):
    tokens = clips.token_embeddings(clip, params, ids)
    tokens = tokens.at[:, at : at + 2].set(first)
    return clips.embed_texts(clip, params, tokens, ends, later if deep else None, at)

  def summed(first, later):
    x = embedded(first, later)
    return jnp.sum(x @ probe), x

  grads, got = jax.jit(jax.grad(summed, argnums=(0, 1), has_aux=True))(first, later)
  theirs = [torch.from_numpy(x).requires_grad_() for x in (first, later)]
  handles = hooked(torch, model, *theirs, at)
  try:
    want = model.get_text_features(input_ids=torch.from_numpy(ids)).pooler_output
  finally:
    for handle in handles:
      handle.remove()
  want = want / want.norm(dim=-1, keepdim=True)
  (want @ torch.from_numpy(probe)).sum().backward()
  np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-5)
  for ours, x in zip(grads[: 1 + bool(deep)], theirs, strict=False):
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(ours, x.grad.numpy(), atol=1e-4)
  # The prompts are read at all.
  assert np.abs(want.detach().numpy() - of_torch(torch, model, ids)).max() > 1e-3


def test_more_deep_prompts_than_blocks_are_refused(loaded):
  clip, params = loaded("clip")
  tokens, ends = jnp.zeros((1, CONTEXT, 32)), jnp.zeros(1, jnp.int32)
  with pytest.raises(ValueError, match="3 deep prompts: 2 of 3 blocks can take them"):
    clips.embed_texts(clip, params, tokens, ends, jnp.zeros((3, 2, 32)))


def test_bfloat16_is_close_and_its_features_are_float32(loaded):
  clip, params = loaded("clip")
  ids, ends = drawn(LENGTHS)
  half = clip._replace(text=clip.text.clone(dtype=jnp.bfloat16))
  tokens = clips.token_embeddings(clip, params, ids)
  exact, rough = (clips.embed_texts(c, params, tokens, ends) for c in (clip, half))
  assert rough.dtype == jnp.float32
  difference = np.abs(exact - rough).max()
  assert 1e-5 < difference < 0.03
