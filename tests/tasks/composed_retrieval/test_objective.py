"""The three losses by their formulas, what learns, and that the number of devices changes nothing.

Run as a script it writes the gradients on as many devices as there are.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from lafg_jax.losses import mapping as losses
from lafg_jax.tasks.composed_retrieval import default, objective, pseudo_words
from lafg_jax.tasks.composed_retrieval import mapping as networks
from lafg_jax.training import step

ROOT = Path(__file__).resolve().parents[3]
B, L = 8, 16
METHODS = ("lincir", "searle", "pic2word")
RNG = np.random.default_rng(5)
TEXTS = [
  "red dog",
  "very red",
  "no dog",
  "a photo",
  "dog and dog",
  "wings",
  "costs red",
  "has wings",
]


def make_config(method, **changes):
  config = default.get_config()
  config.mapping.update(method=method, hidden=24, batch_size=B, dropout=0.0, **changes)
  config.train.update(steps=4)
  return config


def batch_of(method, reader, dim, width):
  feature = RNG.standard_normal((B, dim)).astype(np.float32)
  said = pseudo_words.masked(reader, [["a photo of ", f" {text}", ""] for text in TEXTS])
  said = pseudo_words.widened(said, L, reader.pad)
  ids, ends = pseudo_words.padded(reader, reader.ids(TEXTS), L)
  every = {
    "lincir": {"target": feature.astype(np.float16), **said._asdict()},
    "searle": {
      "feature": feature,
      "inverted": RNG.standard_normal((B, width)).astype(np.float32),
      **said._asdict(),
      "plain": ids,
      "plain_ends": ends,
    },
    # Two rows show the same image.
    "pic2word": {"feature": feature, "row": np.array([0, 1, 2, 3, 4, 5, 6, 6], np.int32)},
  }
  return every[method]


def built(config, clip, params, reader):
  return objective.build(
    config, clip, objective.init_params(config, clip, params), length=L, reader=reader
  )


def given(made, batch, shares=0):
  """What of a batch is read, in shares for devices where asked."""
  reads = {name: batch[name] for name in (*made.embed_reads, *made.loss_reads)}
  if not shares:
    return reads
  return {name: x.reshape(shares, B // shares, *x.shape[1:]) for name, x in reads.items()}


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(method, clip, made, batch):
  """The loss without dropout and noise, in NumPy; text features by the tower."""
  of = lambda words, said: np.asarray(  # noqa: E731
    pseudo_words.features(clip, made.params, said, words), np.float64
  )
  said = [batch[name] for name in pseudo_words.Phrases._fields if name in batch]
  if method == "lincir":
    target = batch["target"].astype(np.float32)
    words = networks.apply(method, made.params["mapping"], target)
    return ((of(words, pseudo_words.Phrases(*said)) - target) ** 2).sum() / target.size
  words = networks.apply(method, made.params["mapping"], batch["feature"])
  if method == "searle":
    x = unit(np.concatenate([words, batch["inverted"]]).astype(np.float64))
    total = 0.0
    for i in range(2 * B):
      near = [np.exp(x[i] @ x[k] / 0.25) for k in range(2 * B) if k != i]
      total -= np.log(np.exp(x[i] @ x[(i + B) % (2 * B)] / 0.25) / sum(near)) / (2 * B)
    plain = pseudo_words.plain_features(clip, made.params, batch["plain"], batch["plain_ends"])
    found, wanted = unit(of(words, pseudo_words.Phrases(*said))), unit(np.asarray(plain))
    return total + 0.75 * np.mean([1 - a @ b for a, b in zip(found, wanted, strict=True)])
  said = pseudo_words.Phrases(*(np.repeat(x, B, axis=0) for x in made.constants.values()))
  texts, images = unit(of(words, said)), unit(batch["feature"].astype(np.float64))
  logits = np.exp(float(made.params["logit_scale"])) * images @ texts.T
  total, rows = 0.0, batch["row"]
  for of_pair in (logits, logits.T):
    log_p = of_pair - np.log(np.exp(of_pair).sum(axis=1, keepdims=True))
    total -= np.mean([log_p[i, rows == rows[i]].mean() for i in range(B)]) / 2
  return total


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_its_formula_and_eight_shares_give_the_gradient_of_one(small_clip, method):
  clip, reader = small_clip.clip, small_clip.reader
  batch = batch_of(method, reader, clip.dim, clip.text.sizes[0])
  config = make_config(method, noise=0.0)
  made = built(config, clip, small_clip.params, reader)
  key = step.step_key(0, 0)
  metrics = jax.jit(step.make_loss(made, None))(
    made.params, {}, given(made, batch), made.constants, key
  )[1]
  np.testing.assert_allclose(metrics["loss"], by_hand(method, clip, made, batch), rtol=2e-5)
  # vmap with a named axis stands in for devices, dropout and noise on; a longer test takes real.
  config.mapping.update(dropout=0.5, noise=1.0)
  made = built(config, clip, small_clip.params, reader)
  wanted, of_one = jax.jit(step.make_gradients(made, config.train, None))(
    made.params, {}, given(made, batch), made.constants, key
  )
  assert set(wanted) == {"mapping"}, "CLIP is frozen"
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(wanted))
  mapped = jax.vmap(
    step.make_gradients(made, config.train, "devices"),
    in_axes=(None, None, 0, None, None),
    axis_name="devices",
  )
  found, of_eight = jax.jit(mapped)(made.params, {}, given(made, batch, 8), made.constants, key)
  np.testing.assert_allclose(of_eight["loss"], np.full(8, of_one["loss"]), rtol=1e-5)
  assert abs(of_one["loss"] - metrics["loss"]) > 1e-4
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(x, np.broadcast_to(y, x.shape), rtol=1e-4, atol=1e-6)


def test_noise_is_a_uniform_factor_of_a_row_times_a_normal_vector():
  x = jnp.ones((300, 400))
  keys = jax.random.split(jax.random.key(0), 300)
  noise = np.asarray(objective.noised(x, 2.0, keys)) - 1
  scale = noise.std(axis=1) / 2
  # u of each row: uniform in (0, 1).
  assert scale.min() < 0.02 and 0.97 < scale.max() < 1.1
  np.testing.assert_allclose(np.quantile(scale, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08)
  normal = (noise / scale[:, None] / 2)[scale > 0.05].ravel()
  # The share of a normal variable within one and two deviations.
  shares = [(np.abs(normal) < k).mean() for k in (1, 2)]
  np.testing.assert_allclose(shares, [0.6827, 0.9545], atol=0.005)
  np.testing.assert_allclose(np.asarray(objective.noised(x[5:9], 2.0, keys[5:9])) - 1, noise[5:9])


def test_targets_take_no_gradient():
  x, y = (jnp.asarray(RNG.standard_normal((4, 6)), jnp.float32) for _ in range(2))
  for loss in (losses.reconstruction, lambda a, b: losses.distillation(a, b, 0.25)):
    of_found, of_wanted = jax.grad(loss, argnums=(0, 1))(x, y)
    assert np.abs(of_found).max() > 0 == np.abs(of_wanted).max()


def test_gradients_on_eight_devices_equal_those_on_one(on_devices):
  found = on_devices(__file__, (1, 8))
  assert len(found[0].files) == 3 * 7
  for name in found[0]:
    np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-4, atol=1e-6, err_msg=name)


def _main(path: str) -> None:
  from lafg_jax.runtime.devices import AXIS, replicate, unreplicate
  from lafg_jax.tasks.composed_retrieval import model as models

  every = {}
  for method in METHODS:
    config = make_config(method)
    config.data.update(image_size=48, resize_size=48)
    config.mapping.dropout = 0.5
    config.model.pretrained = "tiny_clip"
    loaded = models.load(config)
    clip = loaded.clip
    batch = batch_of(method, loaded.reader, clip.dim, clip.text.sizes[0])
    made = built(config, clip, loaded.params, loaded.reader)
    of = step.make_gradients(made, config.train, AXIS)
    mapped = jax.pmap(
      lambda p, b, c, s, of=of: of(p, {}, b, c, step.step_key(s, 0)), axis_name=AXIS
    )
    reads = given(made, batch, jax.device_count())
    seed = replicate(np.uint32(0))
    grads, metrics = mapped(replicate(made.params), reads, replicate(made.constants), seed)
    flat = traverse_util.flatten_dict(unreplicate(grads), sep="/")
    every |= {f"{method}/{name}": x for name, x in flat.items()}
    every[f"{method}/loss"] = unreplicate(metrics["loss"])
  np.savez(path, **every)


if __name__ == "__main__":
  _main(sys.argv[1])
