"""Run by test_step.py with 8 simulated devices: prints how far 8 devices are from 1, as JSON.

Arguments: a workdir, and as JSON what a run of the training loop there changes in the config.
"""

import json
import sys

import jax
import numpy as np

from configs import synthetic
from lafg_jax.data import datasets, sampling
from lafg_jax.runtime import devices
from lafg_jax.tasks.class_retrieval import choices, objective, train
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import step

# n, m, the alignment, its projector and reduction, the rank of LoRA, blocks (the gradient of
# one takes long to compile, and is the same whatever the loss), and L_aux.
CASES = [
  (100, 9, "prototype", "mean", "sum", 0, 1),
  (5, 3, "distribution", "mean", "mean", 0, 0),
  (7, 2, "vocabulary", "free", "mean", 0, 0),
  (8, 2, "onehot", "mean", "sum", 0, 0),
  (3, 9, "orthogonal", "mean", "mean", 0, 0),
  (5, 3, "prototype", "mean", "mean", 2, 1),
  (5, 3, "none", "mean", "mean", 0, 0, "supcon"),
  (5, 3, "none", "mean", "mean", 0, 0, "norm_softmax"),
  (5, 3, "orthogonal", "mean", "mean", 0, 0, "proxy_anchor"),
  (5, 3, "none", "mean", "sum", 0, 0, "pairwise", "vocabulary"),
  (5, 3, "prototype", "mean", "sum", 0, 0, "pairwise", "vocabulary", 6),
]


def config_of(
  n,
  m,
  form,
  projector,
  reduction,
  lora_rank,
  depth,
  auxiliary="pairwise",
  images="none",
  recoloured=0,
):
  config = synthetic.get_config("prototypes")
  config.update_from_flattened_dict(
    {
      "data.image_size": 16,
      "data.classes_per_batch": n,
      "data.images_per_class": m,
      "model.conv_stem": False,
      "model.width": 16,
      "model.depth": depth,
      "model.num_heads": 2,
      "model.mlp_dim": 32,
      "model.embedding_dim": 12,
      "model.lora_rank": lora_rank,
      "loss.alignment": form,
      "loss.projector": projector,
      "loss.reduction": reduction,
      "loss.auxiliary": auxiliary,
      "loss.image_alignment": images,
      "data.recoloured_per_batch": recoloured,
    }
  )
  return config


def check(n, m, form, projector, reduction, lora_rank, depth, *others, rows_per_chunk=0):
  case = [n, m, form, projector, reduction, lora_rank, depth, *others]
  config = config_of(*case)
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.standard_normal(shape).astype(np.float32)

  count = n * m + config.data.recoloured_per_batch
  seen = {"directions": draw(11, 20), "image_cosine": draw(count, 11)}
  words = LoadedPrototypes(draw(n, 20), draw(n, 20), draw(11, 20), draw(20), "random", (), seen)
  reads_words = choices.reads_words(config)
  made = objective.build(config, n, words if reads_words else None)
  averages = step.init_state(made, config.train)[1].averages
  params = dict(made.params)
  if lora_rank:
    # B starts at 0, where A has no gradient.
    params["lora"] = jax.tree.map(lambda x: draw(*x.shape), params["lora"])
  images = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
  labels = np.resize(np.arange(n, dtype=np.int32), count)
  labels[n * m :] = -1
  index = rng.permutation(count).astype(np.int32)

  def value_and_grad(axis, rows_per_chunk=0):
    gradients = step.make_gradients(made, config.train, axis, rows_per_chunk)

    def mapped(batch):
      key = step.step_key(0, 0)
      grads, metrics = gradients(params, averages, batch, made.constants, key)
      return metrics["loss"], grads

    return mapped

  value, grads = jax.jit(value_and_grad(None))({"image": images, "label": labels, "index": index})
  rows = sampling.process_rows(count, 8, 0, 1)
  # The sampler pads with copies of row 0; anything else there must not matter either.
  padded = images[rows]
  padded[count:] = 255 - padded[count:]
  batch = {
    "image": padded.reshape(8, -1, 16, 16, 3),
    "label": labels[rows].reshape(8, -1),
    "index": index[rows].reshape(8, -1),
  }
  # Where there are several rows a device, the last chunk is a ragged one.
  mapped = value_and_grad(devices.AXIS, rows_per_chunk)
  values, grads8 = jax.pmap(mapped, axis_name=devices.AXIS)(batch)
  pairs = [
    (np.asarray(a, np.float64).ravel(), np.asarray(b[k], np.float64).ravel())
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads8), strict=True)
    for k in range(8)
  ]
  one, eight = (np.concatenate(side) for side in zip(*pairs, strict=True))
  # Some gradients are 0 but for rounding (a key's bias): those are held to the whole's scale.
  floor = 1e-3 * np.linalg.norm(one) / np.sqrt(len(pairs))
  worst = max(np.linalg.norm(a - b) / max(np.linalg.norm(a), floor) for a, b in pairs)
  return {
    "case": case,
    "rows_per_chunk": rows_per_chunk,
    "loss_error": float(np.max(np.abs(np.asarray(values) - value)) / abs(value)),
    "worst_leaf_error": float(worst),
    "gradient_error": float(np.linalg.norm(one - eight) / np.linalg.norm(one)),
  }


def run_loop(workdir, changes):
  """The run that test_step.py repeats on one device."""
  config = synthetic.get_config("prototypes")
  config.update_from_flattened_dict(changes)
  dataset = datasets.load_splits(config.data, splits=("train",))["train"]
  train.run(config, workdir, dataset, None)


if __name__ == "__main__":
  run_loop(sys.argv[1], json.loads(sys.argv[2]))
  found = [check(*case) for case in CASES] + [check(*CASES[0], rows_per_chunk=50)]
  print(json.dumps({"devices": jax.device_count(), "cases": found}))
