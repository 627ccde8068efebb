"""How times grow: with image size, batch, devices and gallery; `plots.py` draws them.

  python benchmarks/scaling.py [--rounds 3]

A small ViT (width 192, depth 4) trains on random images; a gallery of 256 numbers a row is searched
for 1,000 queries. Devices are simulated on the CPU, in processes of their own: they share its
cores, so that a flat line is what to expect.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import jax
import numpy as np
import side_by_side

from lafg_jax.evaluate import knn
from lafg_jax.runtime.devices import AXIS, replicate
from lafg_jax.tasks.class_retrieval import default, objective
from lafg_jax.training import step as training_step

SIZES, BATCHES = (32, 64, 128, 224), (16, 32, 64, 128)
DEVICES, GALLERIES = (1, 2, 4, 8), (10_000, 30_000, 100_000, 300_000)


def step_of(size: int, batch: int):
  """A training step of `batch` images of `size` px over all devices, to be called again."""
  config = default.get_config()
  config.model.update(size="custom", width=192, depth=4, num_heads=3, mlp_dim=768, patch_size=16)
  config.model.update(pool="mean", options="", pretrained="", dtype="float32", embedding_dim=128)
  config.model.update(mean=(0.5,) * 3, std=(0.5,) * 3, layer_norm_eps=1e-6)
  config.data.update(image_size=size, classes_per_batch=8, images_per_class=batch // 8)
  config.loss.update(alignment="none", reduction="mean")
  made = objective.build(config, 8)
  optimizer, state = training_step.init_state(made, config.train)
  step = training_step.make_step(made, optimizer, config.train, AXIS)
  mapped = jax.pmap(step, axis_name=AXIS, donate_argnums=0)
  count = jax.local_device_count()
  pixels = np.random.default_rng(0).integers(
    0, 256, (count, batch // count, size, size, 3), np.uint8
  )
  labels = (np.arange(batch, dtype=np.int32) % 8).reshape(count, -1)
  given, held = {"image": pixels, "label": labels}, [replicate(state)]
  fixed = replicate(made.constants), replicate(np.uint32(0))

  def run() -> None:
    held[0], metrics = mapped(held[0], given, *fixed)
    jax.block_until_ready((held[0], metrics))

  return run


def search_of(count: int):
  rng = np.random.default_rng(0)
  queries, gallery = (rng.standard_normal((n, 256), np.float32) for n in (1000, count))
  return lambda: knn.search(queries, gallery, 10)


def median_of(job, rounds: int) -> float:
  return statistics.median(side_by_side.seconds_of(job, rounds))


def on_devices(count: int, rounds: int) -> float:
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
  environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, __file__, "--only-devices", f"--rounds={rounds}"]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--only-devices", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.only_devices:
    print(json.dumps(median_of(step_of(64, 64), args.rounds)))
    return
  machine = side_by_side.machine("jax", "flax")
  print(machine)
  lines = {
    "side of an image, px": {n: median_of(step_of(n, 32), args.rounds) for n in SIZES},
    "images in a batch": {n: median_of(step_of(64, n), args.rounds) for n in BATCHES},
    "simulated devices": {n: on_devices(n, args.rounds) for n in DEVICES},
    "rows of the gallery": {n: median_of(search_of(n), args.rounds) for n in GALLERIES},
  }
  for title, line in lines.items():
    print(f"| {title} | " + " | ".join(f"{n:,}: {s:.3f} s" for n, s in line.items()) + " |")
  side_by_side.keep("scaling", machine, {"seconds": lines})


if __name__ == "__main__":
  main()
