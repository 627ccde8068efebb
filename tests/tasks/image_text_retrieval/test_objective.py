"""What is learned, which loss moves what, and how many devices there are changes nothing.

Run as a script it writes the gradients on as many devices as there are.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from lafg_jax.tasks.image_text_retrieval import features, objective, prompts
from lafg_jax.training import partition, step

ROOT = Path(__file__).resolve().parents[3]
B, N = 8, 2
CAPTIONS = np.array([0, 1, 2, 3, 0, 5, 6, 7], np.int32)
RNG = np.random.default_rng(3)
STORED = RNG.standard_normal((14, 16)).astype(np.float16)
NEGATIVE = np.array([[own, 8 + i % 6, (own + 1) % 8] for i, own in enumerate(CAPTIONS)], np.int32)
THERE = np.ones((B, 1 + N), bool)
THERE[2, 2] = False
CATEGORY = np.array([[i % 3, (i + 1) % 3, i % 3] for i in range(B)], np.int32)
CONSTANTS = {
  "features": STORED,
  "token_features": RNG.standard_normal((5, 16)).astype(np.float16),
  "token_rows": np.arange(40, dtype=np.int32) % 5,
  "quantiles": np.linspace(0.25, 4, 9).astype(np.float32),
}


def batch_of(rows):
  ids, ends, words, images = rows
  return {
    "image": images,
    "other": np.roll(images, 1, axis=0),
    "tokens": ids,
    "ends": ends,
    "words": words,
    "caption": CAPTIONS,
    "negative": NEGATIVE,
    "negative_mask": THERE,
    "category": CATEGORY,
  }


def built(config, both, length=9):
  clip = features.towers(config, both.clip)
  params = objective.init_params(config, clip, both.params, [5, 6])
  if "caa" in params:
    # Off the start, where W2 is zero and W1 takes no gradient.
    params["caa"] = jax.tree.map(lambda x: x + 0.1, params["caa"])
  return objective.build(
    config, clip, params, rows=B, length=length, negatives=N, constants=CONSTANTS
  )


def gradients(config, made, batch):
  reads = {name: batch[name] for name in (*made.embed_reads, *made.loss_reads)}
  computed = jax.jit(step.make_gradients(made, config.train, None))
  return computed(made.params, {}, reads, made.constants, step.step_key(0, 0))


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


LEARNED = {
  "dcar": {
    *("prompts/text", "coupling/kernel", "coupling/bias"),
    *("caa/down_kernel", "caa/up_kernel"),
  },
  "coop": {"prompts/text"},
  "vpt_shallow": {"prompts/image"},
  "vpt_deep": {"prompts/image", "prompts/image_deep"},
  "ivlp": {"prompts/text", "prompts/text_deep", "prompts/image", "prompts/image_deep"},
  "maple": {"prompts/text", "prompts/text_deep", "coupling/kernel", "coupling/bias"},
  "clip_adapter": {"adapter/down_kernel", "adapter/up_kernel"},
}


@pytest.mark.parametrize("method", [*LEARNED, "finetune", "finetune_distill"])
def test_what_each_method_learns(both, make_config, captioned_rows, method):
  config = make_config(method)
  made = built(config, both)
  learned = flat(partition.split(made.params, made.is_frozen)[0])
  towers = {path for path in flat(both.params) if path.startswith(("image/", "text/"))}
  assert set(learned) == LEARNED.get(method, towers)
  if method in ("maple", "finetune_distill"):
    grads, metrics = gradients(config, made, batch_of(captioned_rows))
    assert set(flat(grads)) == set(learned)
    for path, x in flat(grads).items():
      # A bias of keys moves no attention.
      assert np.isfinite(x).all() and (np.abs(x).max() > 0 or path.endswith("key/bias")), path
    assert "l_cate" not in metrics
    # The model is its own start.
    assert abs(metrics.get("l_distil", 0)) < 1e-5
    assert ("l_distil" in metrics) == (method == "finetune_distill")


def test_the_words_start_the_text_prompts(both, make_config):
  config = make_config("dcar")
  params = objective.init_params(config, both.clip, both.params, [5, 6])
  embedding = both.params["text"]["token_embedding"]["embedding"]
  np.testing.assert_array_equal(params["prompts"]["text"][:2], embedding[np.array([5, 6])])
  assert 0 < np.abs(params["prompts"]["text"][2]).max() < 0.2
  kernel = objective.init_params(
    make_config("maple", prompts__depth=2), both.clip, both.params, [5]
  )["coupling"]["kernel"]
  assert kernel.shape == (2, 32, 24) and np.abs(kernel[0] - kernel[1]).max() > 0


def test_which_loss_moves_what(both, make_config, captioned_rows):
  batch = batch_of(captioned_rows)

  def of(config):
    """{path: [gradient of L_con, gradient of L_cate]} of what is learned."""
    made = built(config, both)
    loss = step.make_loss(made, None)
    trained, fixed = partition.split(made.params, made.is_frozen)
    reads = {name: batch[name] for name in (*made.embed_reads, *made.loss_reads)}

    def both_losses(trained):
      params = partition.join(trained, fixed)
      found = loss(params, {}, reads, made.constants, step.step_key(0, 0))[1]
      return jnp.stack([found["l_con"], found["l_cate"]])

    found = flat(jax.jit(jax.jacrev(both_losses))(trained))
    return {path: [float(np.abs(x).max()) for x in pair] for path, pair in found.items()}

  coupled = of(make_config())
  for path in ("coupling/kernel", "coupling/bias", "prompts/text"):
    # L_cate reaches G and v through the image.
    assert min(coupled[path]) > 0, path
  free = of(make_config(prompts__coupling="none"))
  assert free["prompts/text"][0] > 0 == free["prompts/text"][1], "no coupling: L_cate moves no v"
  assert min(free["prompts/image"]) > 0
  for found in (coupled, free):
    for path in ("caa/down_kernel", "caa/up_kernel"):
      assert found[path][0] == 0 < found[path][1], "CAA is in L_cate alone"


@pytest.mark.parametrize("candidates", ["negatives", "batch"])
def test_l_cate_by_hand(both, make_config, captioned_rows, candidates):
  config = make_config(category__candidates=candidates, reweighting__gamma=0.0)
  made, batch = built(config, both), batch_of(captioned_rows)
  images = np.asarray(features.of_images(config, both.clip, made.params, batch["image"]))
  scale, wanted = float(np.exp(both.params["logit_scale"])), 0.0
  of = np.asarray(prompts.caa(config, made.params, STORED.astype(np.float32)))
  for i in range(B):
    offered = [(s, c) for s, c, t in zip(NEGATIVE[i], CATEGORY[i], THERE[i], strict=True) if t]
    if candidates == "batch":
      for j, other in enumerate(CAPTIONS):
        if other not in [s for s, _ in offered]:
          offered.append((other, CATEGORY[j, 0]))
    terms = [
      (1.5 if category == CATEGORY[i, 0] else 1.0) * np.exp(scale * images[i] @ of[string])
      for string, category in offered
    ]
    wanted -= np.log(terms[0] / sum(terms)) / B
  reads = {name: batch[name] for name in made.loss_reads}
  found = made.loss({"image": images, "text": images}, made.params, {}, reads, CONSTANTS, None)
  np.testing.assert_allclose(found[1]["l_cate"], wanted, rtol=1e-4)
  np.testing.assert_allclose(found[0], found[1]["l_con"] + found[1]["l_cate"], rtol=1e-6)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"weights": "shuffled"},
    {"weights": "other"},
    {"weights": "random"},
    {"similarity": "contextual"},
    {"raw": True},
  ],
)
def test_weights_take_no_gradient_and_are_those_asked_for(
  both, make_config, captioned_rows, changes
):
  of_weights = {f"reweighting__{name}": x for name, x in changes.items()}
  config = make_config(reweighting__plain=0.0, **of_weights)
  made, batch = built(config, both), batch_of(captioned_rows)
  clip, keys = features.towers(config, both.clip), jax.random.split(jax.random.key(0), B)

  def weights(params, rows):
    images = features.of_images(config, clip, params, rows["image"])
    return objective._weights(config, clip, params, rows, images, CONSTANTS, keys)

  rows = {name: jnp.asarray(batch[name]) for name in batch}
  compute = jax.jit(weights)
  a, words = np.asarray(compute(made.params, rows)), batch["words"]
  np.testing.assert_array_equal(a[words < 0], 1)
  assert a[words >= 0].std() > 0
  if not changes:
    gradient = jax.jit(jax.grad(lambda p: weights(p, rows).sum()))(made.params)
    assert all(np.abs(x).max() == 0 for x in jax.tree.leaves(gradient))
  moved = np.asarray(compute(made.params, rows | {"image": rows["image"][::-1]}))
  reads_image = changes.get("weights") not in ("other", "random")
  assert (np.abs(moved - a).max() > 0) == reads_image


def test_a_caption_is_plain_as_often_as_asked(both, make_config, captioned_rows):
  for plain, wanted in ((1.0, True), (0.0, False)):
    config = make_config(reweighting__plain=plain)
    made, batch = built(config, both), batch_of(captioned_rows)
    rows = {name: batch[name] for name in made.embed_reads}
    keys = jax.random.split(jax.random.key(0), B)
    found = jax.jit(made.embed)(made.params, {}, rows, made.constants, keys)["text"]
    clip = features.towers(config, both.clip)
    as_evaluated = features.of_texts(config, clip, made.params, rows["tokens"], rows["ends"])
    assert np.allclose(found, as_evaluated, atol=1e-5) == wanted


def test_random_crops_show_a_part_of_the_image():
  row = np.linspace(0, 255, 16)
  image = np.broadcast_to(row[None, :, None], (16, 16, 3)).astype(np.uint8)
  keys = jax.random.split(jax.random.key(0), 4)
  crops = objective.random_crops(jnp.asarray(image[None].repeat(4, 0)), keys)
  assert crops.shape == (4, 16, 16, 3)
  for crop in np.asarray(crops):
    inner = crop[2:-2, 2:-2, 0]
    spread = (inner[0, -1] - inner[0, 0]) / (row[13] - row[2])
    assert 0.4 < spread < 0.95 and np.abs(inner - inner[:1]).max() < 1


def test_gradients_of_eight_shares_equal_those_of_one(both, make_config, captioned_rows):
  # vmap with a named axis stands in for devices; a test of minutes takes real ones.
  config = make_config(reweighting__weights="shuffled")
  made, batch = built(config, both), batch_of(captioned_rows)
  one, metrics = gradients(config, made, batch)
  reads = {
    name: np.asarray(batch[name]).reshape(8, B // 8, *np.shape(batch[name])[1:])
    for name in (*made.embed_reads, *made.loss_reads)
  }
  of = step.make_gradients(made, config.train, "devices")
  mapped = jax.vmap(of, in_axes=(None, None, 0, None, None), axis_name="devices")
  given = (made.params, {}, reads, made.constants, step.step_key(0, 0))
  eight, of_eight = jax.jit(mapped)(*given)
  for path, x in flat(one).items():
    for share in flat(eight)[path]:
      np.testing.assert_allclose(share, x, rtol=1e-4, atol=1e-6, err_msg=path)
  np.testing.assert_allclose(of_eight["loss"], np.full(8, metrics["loss"]), rtol=1e-5)


def test_gradients_on_eight_devices_equal_those_on_one(on_devices):
  found = on_devices(__file__, (1, 8))
  for name in found[0]:
    np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-4, atol=1e-6, err_msg=name)


def _main(path: str) -> None:
  from lafg_jax.finches import captions as finches
  from lafg_jax.runtime.devices import AXIS, replicate, unreplicate
  from lafg_jax.tasks.image_text_retrieval import default, methods, model, texts

  config = default.get_config()
  config.data.update(image_size=48, resize_size=48)
  config.model.pretrained = "tiny_clip"
  config.captions.batch_size = B
  config = methods.resolve(config)
  loaded = model.load(config)
  name = finches.class_names("individuals", "seen")[0]
  said = [finches.caption("individuals", name, i)[0] for i in range(B)]
  words = texts.tokenised(texts.with_room(config, loaded.reader), said)
  batch = batch_of((*words, np.stack([finches.image("individuals", name, i) for i in range(B)])))
  rng = np.random.default_rng(0)
  constants = CONSTANTS | {
    "features": rng.standard_normal((14, 64)).astype(np.float16),
    "token_features": rng.standard_normal((5, 64)).astype(np.float16),
    "token_rows": np.arange(744, dtype=np.int32) % 5,
  }
  params = model.init_params(config, loaded)
  made = objective.build(
    config, loaded.clip, params, rows=B, length=words.ids.shape[1], negatives=N, constants=constants
  )
  count = jax.device_count()
  reads = {
    name: np.asarray(batch[name]).reshape(count, B // count, *np.shape(batch[name])[1:])
    for name in (*made.embed_reads, *made.loss_reads)
  }
  of = step.make_gradients(made, config.train, AXIS)
  key = lambda seed: step.step_key(seed, 0)  # noqa: E731
  mapped = jax.pmap(lambda p, b, c, s: of(p, {}, b, c, key(s))[0], axis_name=AXIS)
  grads = mapped(replicate(made.params), reads, replicate(constants), replicate(np.uint32(0)))
  np.savez(path, **flat(unreplicate(grads)))


if __name__ == "__main__":
  _main(sys.argv[1])
