"""Rollout against attention weights of transformers, and heat of patches against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lafg_jax.explain import heat, towers
from lafg_jax.losses.contrastive import unit
from lafg_jax.models import clip as clips
from lafg_jax.models import embedder as embedders
from lafg_jax.models import explained
from lafg_jax.models.embedder import Embedder
from lafg_jax.models.resnet import ResNet
from lafg_jax.models.vit import ViT
from lafg_jax.models.weights import load

RNG = np.random.default_rng(7)
IMAGES = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
MEAN = STD = (0.5, 0.5, 0.5)


def embedder_of(backbone, **changes):
  options = {"embedding_dim": 5, "mean": MEAN, "std": STD} | changes
  embedder = Embedder(backbone=backbone, **options)
  return embedder, embedders.init_params(embedder, 32, jax.random.key(0))


def vit(**changes):
  sizes = {"width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24, "patch_size": 8}
  return ViT(**(sizes | changes))


def test_rollout_is_that_of_the_weights_that_transformers_gives(tmp_path):
  torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
  torch.manual_seed(0)
  config = transformers.ViTConfig(
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    patch_size=8,
    image_size=32,
    layer_norm_eps=1e-6,
    attn_implementation="eager",
  )
  model = transformers.ViTModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.3 * torch.randn_like(parameter))
    pixels = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    layers = model(pixels, output_attentions=True).attentions
  model.save_pretrained(tmp_path)
  wanted = np.eye(17)[None]
  for layer in layers:
    wanted = (0.5 * layer.numpy().mean(axis=1) + 0.5 * np.eye(17)) @ wanted

  network = vit(depth=3)
  embedder, params = embedder_of(network)
  params["backbone"] = load.load_backbone(str(tmp_path), params["backbone"])
  seen = jax.jit(functools.partial(towers.of_embedder, embedder))(params, IMAGES)
  assert seen.rollout.shape == (2, 4, 4)
  np.testing.assert_allclose(seen.rollout, wanted[:, 0, 1:].reshape(2, 4, 4), atol=1e-5)
  # Far from even: a rollout of random weights is no test.
  assert np.ptp(wanted[:, 0, 1:]) > 0.005


def flows(layers, prefix, prompts, replaced):
  """Rollout with whole matrices: what a replaced prompt held is dropped, column by column."""
  tokens = layers[0].shape[-1]
  total = np.eye(tokens)
  for i, layer in enumerate(layers):
    if 0 < i < replaced:
      total[prefix : prefix + prompts] = 0
    total = (layer.mean(axis=0) + np.eye(tokens)) / 2 @ total
  return total[:, prefix + prompts :]


@pytest.mark.parametrize("replaced", [1, 2, 3])
@pytest.mark.parametrize("pool", ["token", "mean", "map"])
def test_prompts_carry_nothing_of_the_image(pool, replaced):
  layers = [x / x.sum(axis=-1, keepdims=True) for x in RNG.random((3, 1, 2, 9, 9))]
  head = RNG.random((1, 2, 1, 6))
  head /= head.sum(axis=-1, keepdims=True)
  found = heat.rollout([jnp.asarray(x) for x in layers], 1, pool, None, (2, replaced))
  if pool == "map":
    found = heat.rollout(
      [jnp.asarray(x) for x in layers], 1, pool, jnp.asarray(head), (2, replaced)
    )
  total = flows([x[0] for x in layers], 1, 2, replaced)
  wanted = {"token": total[0], "mean": total[3:].mean(axis=0)}
  wanted["map"] = head[0].mean(axis=0)[0] @ total[3:]
  np.testing.assert_allclose(found[0], wanted[pool], atol=1e-6)
  assert found.sum() <= 1 + 1e-6


@pytest.mark.parametrize(
  "network",
  [vit(pool="mean", conv_stem=True, remat="blocks"), ResNet((1, 1), (16, 32), 8)],
)
def test_products_of_patches_are_the_parts_of_the_whole(network):
  embedder, params = embedder_of(network)
  seen = jax.jit(functools.partial(towers.of_embedder, embedder))(params, IMAGES)
  v = jax.jit(embedder.apply)({"params": params}, IMAGES)
  np.testing.assert_allclose(seen.embedding, unit(v), atol=1e-5)
  direction = RNG.standard_normal(5).astype(np.float32)
  parts = heat.similarity(np.asarray(seen.patches), direction)
  np.testing.assert_allclose(parts.mean(axis=(1, 2)), v @ direction, atol=1e-4)
  assert (seen.rollout is None) == isinstance(network, ResNet)


@pytest.mark.parametrize("pool", ["gem", "map"])
def test_keeping_changes_neither_parameters_nor_results(pool):
  embedder, params = embedder_of(vit(pool=pool), embedding_norm="layer", num_prompts=2)
  assert set(jax.eval_shape(embedder.init, jax.random.key(0), IMAGES)) == {"params"}
  v = jax.jit(embedder.apply)({"params": params}, IMAGES)
  keeping = functools.partial(embedder.apply, mutable=[explained.COLLECTION])
  found, state = jax.jit(keeping)({"params": params}, IMAGES)
  np.testing.assert_allclose(found, v, atol=1e-5)
  weights = state[explained.COLLECTION]["backbone"]["block_1"]["attention"]["weights"]
  np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
  seen = jax.jit(functools.partial(towers.of_embedder, embedder))(params, IMAGES)
  assert seen.patches.shape == (2, 4, 4, 5) and seen.rollout.shape == (2, 4, 4)
  assert np.isfinite(seen.patches).all() and (np.asarray(seen.rollout) >= 0).all()


def test_a_clip_sees_as_it_embeds():
  clip, params = clips.load("tiny_clip", 48)
  images = RNG.integers(0, 256, (3, 48, 48, 3), np.uint8)
  see = towers.seeing(lambda p, x: towers.of_clip(clip, p, x), {"image": params["image"]})
  seen = see(images)
  embedded = jax.jit(functools.partial(clips.embed_images, clip))(params, images)
  np.testing.assert_allclose(seen.embedding, embedded, atol=1e-5)
  assert seen.patches.shape[0] == 3 and seen.patches.shape[3] == clip.dim
  assert seen.rollout.shape == seen.patches.shape[:3]
  # Chunks change nothing.
  many = see(np.resize(images, (19, 48, 48, 3)))
  np.testing.assert_allclose(many.patches[18], seen.patches[0], atol=1e-5)


def test_heat_by_hand():
  patches, others = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((5, 1, 4))
  direction = RNG.standard_normal(4)
  wanted = [[float(np.dot(x, direction)) for x in row] for row in patches]
  np.testing.assert_allclose(heat.similarity(patches, direction), wanted)
  found = heat.matches(patches, others)
  cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
  wanted = [[max(cosine(x, y) for y in others[:, 0]) for x in row] for row in patches]
  np.testing.assert_allclose(found, wanted)
  assert heat.unit_range(np.array([[1.0, 3.0], [2.0, 5.0]])).tolist() == [[0, 0.5], [0.25, 1]]
  assert (heat.unit_range(np.full((2, 2), 7.0)) == 0).all()
