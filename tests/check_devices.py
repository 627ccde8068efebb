"""Run by test_train.py with 8 simulated devices: prints how far 8 devices are from 1, as JSON."""

import json

import jax
import numpy as np

from configs import synthetic
from lafg_jax import train
from lafg_jax.data import sampling
from lafg_jax.data.prototypes import LoadedPrototypes

CASES = [
  (100, 9, "prototype", "mean", "sum"),
  (100, 9, "none", "mean", "sum"),
  (5, 3, "distribution", "mean", "mean"),
  (5, 3, "distribution", "free", "sum"),
  (7, 2, "vocabulary", "free", "mean"),
  (8, 2, "onehot", "mean", "sum"),
  (3, 9, "orthogonal", "mean", "mean"),
]


def config_of(n, m, form, projector, reduction):
  config = synthetic.get_config()
  config.update_from_flattened_dict(
    {
      "data.image_size": 16,
      "data.classes_per_batch": n,
      "data.images_per_class": m,
      "model.width": 16,
      "model.depth": 1,
      "model.num_heads": 2,
      "model.mlp_dim": 32,
      "model.embedding_dim": 12,
      "loss.alignment": form,
      "loss.projector": projector,
      "loss.reduction": reduction,
      # Well-conditioned losses: the check is of the formulas, not of float32's last bits.
      "loss.temperature": 1.0,
      "loss.alignment_temperature": 0.5,
    }
  )
  return config


def check(n, m, form, projector, reduction):
  config = config_of(n, m, form, projector, reduction)
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.standard_normal(shape).astype(np.float32)

  words = LoadedPrototypes(draw(n, 20), draw(n, 20), draw(11, 20), draw(20), "random")
  wordless = form in ("none", "onehot", "orthogonal")
  embedder, _, state = train.init_state(config, n, None if wordless else 20)
  targets = train.alignment_targets(config, n, None if wordless else words)
  images = rng.integers(0, 256, (n * m, 16, 16, 3), np.uint8)
  labels = np.tile(np.arange(n, dtype=np.int32), m)

  def value_and_grad(axis):
    loss = train.make_loss(embedder, config, axis)

    def mapped(batch):
      (value, _), grads = jax.value_and_grad(loss, has_aux=True)(
        state.params, state.mean_projectors, batch, targets
      )
      return value, grads if axis is None else jax.lax.pmean(grads, axis)

    return mapped

  value, grads = jax.jit(value_and_grad(None))({"image": images, "label": labels})
  rows = sampling.process_rows(n * m, 8, 0, 1)
  # The sampler pads with copies of row 0; anything else there must not matter either.
  padded = images[rows]
  padded[n * m :] = 255 - padded[n * m :]
  batch = {
    "image": padded.reshape(8, -1, 16, 16, 3),
    "label": labels[rows].reshape(8, -1),
  }
  values, grads8 = jax.pmap(value_and_grad(train.AXIS), axis_name=train.AXIS)(batch)
  pairs = [
    (np.asarray(a, np.float64).ravel(), np.asarray(b[k], np.float64).ravel())
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads8), strict=True)
    for k in range(8)
  ]
  one, eight = (np.concatenate(side) for side in zip(*pairs, strict=True))
  return {
    "case": [n, m, form, projector, reduction],
    "loss_error": float(np.max(np.abs(np.asarray(values) - value)) / abs(value)),
    "gradient_error": float(np.linalg.norm(one - eight) / np.linalg.norm(one)),
  }


if __name__ == "__main__":
  print(json.dumps({"devices": jax.device_count(), "cases": [check(*case) for case in CASES]}))
