"""What training gains over its start, on held-out training classes, from few runs.

  python experiments/measure_start.py --config configs/cub.py:small --config.data.root=FOLDER \
      --config.data.expect_counts=False --config.data.num_val_classes=12 \
      [--targets=start,l_aux,words,shuffled,orthogonal] [--seeds=2] \
      --workdir=runs/start --out=start.json

A run trains with one kind of class targets and one seed, and an average of its weights beside it,
which changes nothing. From each run are read, on the validation classes: the start, weights between
start and trained, the trained ones and their average; each plain, and centred on the mean embedding
of training images. `chosen` has its alpha (and whether to centre) from every second class, and its
figures from the others, and the other way round. `start` trains nothing. Test classes have no part.
A run that is done is not repeated, and one that was killed goes on.
"""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from lafg_jax import tasks
from lafg_jax.config import command_line
from lafg_jax.data import datasets
from lafg_jax.evaluate.embed import embed_dataset, embedding_function
from lafg_jax.models import embedder as embedders
from lafg_jax.models.weights import resolve
from lafg_jax.tasks.class_retrieval import default, finishing, protocol, start
from lafg_jax.training import checkpoints, learned_weights
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.vectors import unit_or_zero

_SEEDS = flags.DEFINE_integer("seeds", 1, "Of each kind of targets.", lower_bound=1)
_TARGETS = flags.DEFINE_list("targets", ["l_aux", "words"], "Kinds of class targets.")
_EMA = flags.DEFINE_float("ema", 0.95, "Decay of the average of weights.")
_OUT = flags.DEFINE_string("out", None, "JSON to which the figures are added.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs.", allow_override=True)
_IMAGES = flags.DEFINE_integer("images", 512, "Training images whose mean centres.")

TARGETS: dict[str, dict[str, Any]] = {
  "start": {"loss.alignment": "none"},
  "l_aux": {"loss.alignment": "none"},
  "words": {"loss.alignment": "prototype"},
  "shuffled": {"loss.alignment": "prototype", "language.shuffle": "all"},
  "orthogonal": {"loss.alignment": "orthogonal"},
}


def main(argv: Sequence[str]) -> None:
  """Trains what is missing, and adds its figures."""
  del argv
  out, config = Path(_OUT.value), command_line.CONFIG.value
  for seed, name in itertools.product(range(_SEEDS.value), _TARGETS.value):
    rows = json.loads(out.read_text()) if out.exists() else []
    about = {"data": config.data.name, "targets": name, "seed": seed, "steps": config.train.steps}
    if any(row.items() >= about.items() for row in rows):
      continue
    made = config.copy_and_resolve_references()
    made.update_from_flattened_dict(TARGETS[name] | {"seed": seed, "train.ema": _EMA.value})
    workdir = os.path.join(_WORKDIR.value, f"{made.data.name}-{name}-{seed}")
    found = of_start(made) if name == "start" else of_run(made, workdir)
    rows.append(about | found)
    with files.replacing(out) as temporary:
      temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for reading, found in rows[-1]["readings"].items():
      print(f"{name:<12}{seed:>2}  {reading:<24}{found}", flush=True)


def of_start(config: ConfigDict) -> dict[str, Any]:
  """The figures of the model before training, as `of_run` has them."""
  config = resolve.resolve(config)
  return measured(config, {"alpha=0": embedders.init_model(config)[1]})


def of_run(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """The figures of one run: {'classes', 'images', 'ema', 'readings', 'by_class'}."""
  stages = [x for x in default.default_names(config) if x not in ("evaluate", "report")]
  default.validate(config, stages)
  tasks.run(config, workdir, stages)
  arrays, meta = checkpoints.require(workdir)
  resolved = config_keys.nested(meta["config"])
  trained = checkpoints.subtree(arrays, "state/params")
  before = jax.tree.map(np.asarray, embedders.init_model(resolved)[1])
  before |= {name: x for name, x in trained.items() if name not in before}
  models = {f"alpha={a:g}": finishing.between(before, trained, a) for a in finishing.ALPHAS}
  models["ema"] = learned_weights.of(arrays)
  return {"ema": _EMA.value} | measured(resolved, models)


def measured(config: ConfigDict, models: dict[str, Any]) -> dict[str, Any]:
  """The readings of models by their names, each plain and centred."""
  splits = datasets.load_splits(config.data, ("train", "val"))
  embedding = embedding_function(embedders.build(config.model))
  embeds = [embedding(model) for model in models.values()]
  size, few = config.evaluate.batch_size, start.sample(splits["train"], _IMAGES.value)
  seen, _ = embed_dataset(embeds, few, config.data, size)
  found, rows = embed_dataset(embeds, splits["val"], config.data, size)
  labels, count = splits["val"].labels[rows], len(splits["val"].class_names)
  by_class = {}
  for name, training, vectors in zip(models, seen, found, strict=True):
    centred = unit_or_zero(vectors - training.mean(axis=0)).astype(np.float32)
    by_class[name] = protocol.by_class_means(vectors, labels, count)
    by_class[f"{name} centred"] = protocol.by_class_means(centred, labels, count)
  readings = {name: mean(of, range(count)) for name, of in by_class.items()}
  alphas = {name: of for name, of in by_class.items() if name.startswith("alpha=")}
  plain = {name: of for name, of in alphas.items() if not name.endswith("centred")}
  readings["chosen"] = chosen(plain, count)
  readings["chosen, maybe centred"] = chosen(alphas, count)
  about = {"classes": count, "images": len(labels)}
  return about | {"readings": readings, "by_class": by_class}


def mean(by_class: dict[str, list[float]], classes: Any) -> dict[str, float]:
  """Recall@1 and MAP@R over the queries of some classes, in percent."""
  weights = np.array(by_class["num_queries"])[list(classes)]
  return {
    name: round(
      100 * float(np.average(np.array(by_class[name])[list(classes)], weights=weights)), 2
    )
    for name in ("recall@1", "map@r")
  }


def chosen(by_class: dict[str, Any], count: int) -> dict[str, float]:
  """Means over both halves of the classes, each by what is best on the other half."""
  halves = range(0, count, 2), range(1, count, 2)
  found = []
  for here, there in (halves, halves[::-1]):
    best = max(by_class, key=lambda name: mean(by_class[name], there)["map@r"])
    found.append(mean(by_class[best], here))
  return {name: round(float(np.mean([x[name] for x in found])), 2) for name in found[0]}


if __name__ == "__main__":
  command_line.run(main, __doc__ or "")
