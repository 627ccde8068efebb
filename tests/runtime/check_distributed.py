"""Run by test_distributed.py, one process of a topology each: trains, waits for the other
topologies, restores the checkpoints of all of them and embeds with them.

Arguments: FOLDER NAME JSON and the flags of lafg_jax.runtime.distributed. JSON has 'changes' (of
configs/synthetic.py), 'runs' ({name: further changes}), 'trains' (whether this topology does) and
'saved' (the topologies whose checkpoints are restored). Process 0 writes FOLDER/<NAME>.npz: for
each saved topology and run the embeddings and the metrics, and the losses of its own runs.
"""

import json
import os
import sys
import time

import jax
import numpy as np
from absl import flags

from configs import synthetic
from lafg_jax.data import datasets
from lafg_jax.evaluate import embed, metrics
from lafg_jax.models import embedder as embedders
from lafg_jax.runtime import distributed
from lafg_jax.tasks.class_retrieval import train
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import checkpoints, metrics_log


def config_of(*changes):
  config = synthetic.get_config("prototypes")
  for more in changes:
    config.update_from_flattened_dict(more)
  return config


def words(count):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  return LoadedPrototypes(draw(count, 24), draw(count, 24), draw(10, 24), draw(24), "random")


def evaluated(folder, config, gallery):
  """Embeddings [n, D], metrics [4] and the step of the newest checkpoint of a folder."""
  arrays, meta = checkpoints.require(folder)
  params = checkpoints.subtree(arrays, "state/params")
  apply = embed.make_embed(embedders.build(config.model), params)
  # 50 images of 120 at once: the last batch is short, and shares differ.
  (vectors,), rows = embed.embed_dataset([apply], gallery, config.data, 50)
  np.testing.assert_array_equal(rows, np.arange(len(gallery.labels)))
  found = metrics.evaluate_embeddings(vectors, gallery.labels, (1, 4))
  values = [found[name] for name in ("recall@1", "recall@4", "map@r", "r_precision")]
  return vectors, np.array(values)


def wait_for(path):
  until = time.monotonic() + 500
  while not os.path.exists(path):
    assert time.monotonic() < until, f"{path} does not come"
    time.sleep(0.1)


def main(folder, name, spec):
  configs = {run: config_of(spec["changes"], more) for run, more in spec["runs"].items()}
  results = {"devices": jax.device_count(), "processes": jax.process_count()}
  if spec["trains"]:
    for run, config in configs.items():
      dataset = datasets.load_splits(config.data, splits=("train",))["train"]
      workdir = os.path.join(folder, name, run)
      os.makedirs(workdir, exist_ok=True)
      train.run(config, workdir, dataset, words(len(dataset.class_names)))
      distributed.barrier("the metrics are written")
      lines = metrics_log.read(os.path.join(workdir, metrics_log.FILE))
      results[f"loss {run}"] = np.array([line["loss"] for line in lines])
    if jax.process_index() == 0:
      open(os.path.join(folder, f"{name}.trained"), "w").close()
  test = datasets.load_splits(synthetic.get_config("prototypes").data, splits=("test",))["test"]
  gallery = datasets.of_classes(test, "test", test.class_names[:6])
  for saved in spec["saved"]:
    wait_for(os.path.join(folder, f"{saved}.trained"))
    for run, config in configs.items():
      vectors, values = evaluated(os.path.join(folder, saved, run), config, gallery)
      results[f"vectors {saved} {run}"], results[f"metrics {saved} {run}"] = vectors, values
  if jax.process_index() == 0:
    np.savez(os.path.join(folder, f"{name}.npz"), **results)


if __name__ == "__main__":
  folder_, name_, spec_, *flags_ = sys.argv[1:]
  flags.FLAGS([sys.argv[0], *flags_])
  with distributed.session():
    main(folder_, name_, json.loads(spec_))
