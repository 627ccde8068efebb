"""What a training step of the paper's recipe needs on one device, as XLA plans it.

  python benchmarks/memory.py --config cars --rows 0 64 16 --remat none blocks

Nothing runs and no weights are read: the step is compiled for shapes, on the machine's own backend.
Rows of 0 embed the whole batch at once. On CPUs XLA computes bfloat16 as float32, so that a GPU
needs about half of the temporaries.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import side_by_side

from lafg_jax.config import shipped
from lafg_jax.runtime import devices, out_of_memory
from lafg_jax.tasks.class_retrieval import objective
from lafg_jax.training import step as training_step


def planned(name: str, rows: int, remat: str, batch: int = 0) -> tuple[int, float]:
  """(bytes, seconds to compile) of a step of a shipped config, `rows` at a time."""
  config = shipped.get_config(name)
  config.model.update(size="base", patch_size=16, pool="token", options="", pretrained="")
  config.model.update(mean=(0.5,) * 3, std=(0.5,) * 3, layer_norm_eps=1e-6, remat=remat)
  config.loss.alignment = "orthogonal"
  if batch:
    config.data.classes_per_batch = batch // config.data.images_per_class
  made = objective.build(config, config.data.classes_per_batch)
  optimizer, state = training_step.init_state(made, config.train)
  step = training_step.make_step(made, optimizer, config.train, None, rows)
  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
  reads = made.embed_reads | made.loss_reads
  images = {k: jax.ShapeDtypeStruct((made.rows, *x.shape), x.dtype) for k, x in reads.items()}
  given = jax.tree.map(shape, (state, images, made.constants, jnp.uint32(0)))
  start = time.perf_counter()
  compiled = devices.compiled(jax.jit(step, donate_argnums=0), *given)
  return out_of_memory.planned_bytes(compiled), time.perf_counter() - start


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", default="cars")
  parser.add_argument("--rows", type=int, nargs="+", default=[0, 256, 64, 16])
  parser.add_argument("--remat", nargs="+", default=["none", "dots", "blocks"])
  args = parser.parse_args()
  print(f"{args.config}, ViT-B/16, one device of {jax.default_backend()}, jax {jax.__version__}")
  found = {}
  for remat in args.remat:
    for rows in args.rows:
      size, seconds = planned(args.config, rows, remat)
      found[f"{rows or 'all'} rows, remat {remat}"] = size / 2**30
      print(f"| {rows or 'all'} | {remat} | {size / 2**30:.1f} GiB | {seconds:.0f} s |", flush=True)
  side_by_side.keep(f"memory-{args.config}", side_by_side.machine("jax"), {"GiB": found})


if __name__ == "__main__":
  main()
