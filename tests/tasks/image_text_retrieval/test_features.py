"""Images and captions of each method against transformers' CLIP, with the same prompts put in."""

import contextlib

import jax
import numpy as np
import pytest

from lafg_jax.tasks.image_text_retrieval import features, objective, prompts

K = 3
CASES = [
  ("zero_shot", {}),
  ("coop", {}),
  ("vpt_shallow", {"prompts__place": "after_norm"}),
  ("vpt_deep", {}),
  ("ivlp", {}),
  ("maple", {}),
  ("dcar", {}),
  ("dcar", {"prompts__coupling": "mlp"}),
]


def learned(config, both):
  """Random numbers in all that the method learns."""
  params = objective.init_params(config, both.clip, both.params, [5, 6])
  rng = np.random.default_rng(1)
  draw = lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
  return {name: x if name in both.params else jax.tree.map(draw, x) for name, x in params.items()}


@contextlib.contextmanager
def hooked(hooks):
  handles = [getattr(module, f"register_forward_{kind}hook")(hook) for module, kind, hook in hooks]
  try:
    yield
  finally:
    for handle in handles:
      handle.remove()


def replacing(given, at):
  """A hook before a block that puts prompts in place of the k tokens from `at` on."""
  import torch

  def hook(module, args):
    x = args[0].clone()
    x[:, at : at + K if at + K < 0 or at >= 0 else None] = torch.tensor(np.array(given))
    return (x, *args[1:])

  return hook


def texts_of_torch(both, ids, ends, first, later, weights):
  """Pooled text features of transformers: placeholders reserve the places of prompts (CoOp)."""
  import torch

  tower = both.torch.text_model
  count = 0 if first is None else len(first)
  longer = np.concatenate([ids[:, :1], np.full((len(ids), count), 2), ids[:, 1:]], axis=1)

  def embedded(module, args, output):
    x = module.token_embedding(torch.tensor(ids).long()) * torch.tensor(weights)[..., None]
    rows = [x[:, :1], x[:, 1:]]
    if count:
      rows.insert(1, torch.tensor(np.array(first)).expand(len(x), -1, -1))
    x = torch.cat(rows, 1)
    return x + module.position_embedding.weight[: x.shape[1]]

  hooks = [(tower.embeddings, "", embedded)]
  for i, given in enumerate([] if later is None else later, 1):
    hooks.append((tower.encoder.layers[i], "pre_", replacing(given, 1)))
  with torch.no_grad(), hooked(hooks):
    x = both.torch.text_projection(tower(input_ids=torch.tensor(longer).long()).pooler_output)
  return (x / x.norm(dim=-1, keepdim=True)).numpy()


def images_of_torch(both, images, given, place):
  import torch

  tower = both.torch.vision_model
  hooks = []
  if given is not None:
    first = torch.tensor(np.array(given[0]))
    append = lambda m, a, x: torch.cat([x, first.expand(len(x), -1, -1)], 1)  # noqa: E731
    hooks = [(tower.embeddings if place == "before_norm" else tower.pre_layrnorm, "", append)]
    for i in range(1, len(given)):
      hooks.append((tower.encoder.layers[i], "pre_", replacing(given[i], -K)))
  x = (images / 255.0 - np.array(both.clip.mean)) / np.array(both.clip.std)
  pixels = torch.tensor(x.astype(np.float32)).permute(0, 3, 1, 2)
  with torch.no_grad(), hooked(hooks):
    x = both.torch.visual_projection(tower(pixel_values=pixels).pooler_output)
  return (x / x.norm(dim=-1, keepdim=True)).numpy()


@pytest.mark.parametrize("method, changes", CASES)
def test_as_transformers_with_the_same_embeddings_put_in(
  both, make_config, captioned_rows, method, changes
):
  config = make_config(method, **changes)
  clip, params = features.towers(config, both.clip), learned(config, both)
  ids, ends, words, images = captioned_rows
  weights = np.ones(ids.shape, np.float32)
  if method == "dcar":
    drawn = np.random.default_rng(2).uniform(0.3, 3, ids.shape)
    weights = np.where(words >= 0, drawn, 1).astype(np.float32)
  given = prompts.of_image(config, clip, params)
  first, later = prompts.of_text(config, clip, params)
  assert (given is None) == (method in ("zero_shot", "coop"))
  assert (first is None) == (method in ("zero_shot", "vpt_shallow", "vpt_deep"))
  assert (later is not None) == (method in ("ivlp", "maple"))
  # Not under jit: all cases share the operations that are compiled one by one.
  found = features.of_texts(config, clip, params, ids, ends, weights)
  wanted = texts_of_torch(both, ids, ends, first, later, weights)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  found = features.of_images(config, clip, params, images)
  wanted = images_of_torch(both, images, given, config.prompts.place)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_weights_of_1_and_no_prompts_are_plain_clip(both, make_config, captioned_rows):
  config = make_config("zero_shot")
  ids, ends, _, images = captioned_rows
  ones = np.ones(ids.shape, np.float32)
  plain = features.of_texts(config, both.clip, both.params, ids, ends)
  with_ones = features.of_texts(config, both.clip, both.params, ids, ends, ones)
  np.testing.assert_array_equal(plain, with_ones)
  np.testing.assert_allclose(plain, texts_of_torch(both, ids, ends, None, None, ones), atol=1e-5)
  np.testing.assert_allclose(
    features.of_images(config, both.clip, both.params, images),
    images_of_torch(both, images, None, "before_norm"),
    atol=1e-5,
  )


def test_image_prompts_by_hand(both, make_config):
  for coupling in ("linear", "mlp"):
    config = make_config("maple", prompts__coupling=coupling)
    params = learned(config, both)
    found = prompts.of_image(config, both.clip, params)
    v = np.stack([params["prompts"]["text"], *params["prompts"]["text_deep"]])
    of = {name: np.asarray(x) for name, x in params["coupling"].items()}
    for j in range(2):
      for i in range(K):
        if coupling == "linear":
          wanted = v[j, i] @ of["kernel"][j] + of["bias"][j]
        else:
          hidden = np.asarray(jax.nn.gelu(v[j, i] @ of["down_kernel"][j], approximate=False))
          wanted = hidden @ of["up_kernel"][j] + of["residual"][j, i]
        np.testing.assert_allclose(found[j, i], wanted, rtol=1e-4, atol=1e-5)


def test_adapters_by_hand(both, make_config):
  x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
  relu = lambda x: np.maximum(x, 0)  # noqa: E731
  params = learned(make_config("clip_adapter"), both)
  w1, w2 = params["adapter"]["down_kernel"], params["adapter"]["up_kernel"]
  assert w1.shape == (16, 4)
  wanted = 0.2 * relu(relu(x @ w1) @ w2) + 0.8 * x
  np.testing.assert_allclose(prompts.adapted(params, x), wanted, rtol=1e-4)
  norm = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
  for kind in ("bottleneck", "linear", "identity"):
    config = make_config("dcar", category__caa=kind)
    start = objective.init_params(config, both.clip, both.params, [5])
    np.testing.assert_allclose(prompts.caa(config, start, x), norm(x), atol=1e-6)
    params = learned(config, both)
    of = params.get("caa", {})
    wanted = x
    if kind == "bottleneck":
      wanted = x + 0.2 * relu(x @ of["down_kernel"]) @ of["up_kernel"]
    if kind == "linear":
      wanted = x @ of["kernel"]
    np.testing.assert_allclose(prompts.caa(config, params, x), norm(wanted), atol=1e-6)
