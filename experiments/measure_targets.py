"""What class targets could bring at best: true attributes, an oracle, beside targets without words.

  python experiments/measure_targets.py [--seeds=2] [--targets=orthogonal,looks]

A small model at 32 px, from scratch, on the finches' 40 seen classes in four folds: each trains on
30 of them, with their words alone, and retrieves among the images of the other 10. Test classes
have no part. The targets are prototypes of loss.alignment=prototype, and the two controls without
words; all else is the same. Prints means over folds and seeds, and the difference to `orthogonal`,
paired, with a t-interval.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import measure_geometry
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

from lafg_jax.ablation import statistics
from lafg_jax.config import shipped
from lafg_jax.data import datasets
from lafg_jax.data.datasets import Dataset
from lafg_jax.evaluate import metrics
from lafg_jax.evaluate.embed import embed_dataset, inference_params, make_embed
from lafg_jax.language import prototypes
from lafg_jax.language.describers import describe
from lafg_jax.language.encoders import texts
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import language_base as reading
from lafg_jax.tasks.class_retrieval import train
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import checkpoints
from lafg_jax.utils.vectors import l2_normalise

FOLDS = 4
# Too small to be good, and trained in seconds, so that there can be many of it.
SMALL = {
  "data.image_size": 32,
  "data.resize_size": 32,
  "data.classes_per_batch": 15,
  "model.width": 64,
  "model.depth": 2,
  "model.num_heads": 2,
  "model.mlp_dim": 128,
  "model.embedding_dim": 64,
  "train.learning_rate": 3e-3,
}
CONTROLS = ("orthogonal", "onehot")
KINDS = {"T_c": "attention", "profile": "profile"}
OF_CLASSES = {"claims": measure_geometry.claims, "looks": measure_geometry.looks}
TARGETS = (*CONTROLS, *KINDS, *OF_CLASSES, "T_c of another class", "looks of another class")

_SEEDS = flags.DEFINE_integer("seeds", 2, "Of each fold.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 400, "Of each training.", lower_bound=1)
_TARGETS = flags.DEFINE_list("targets", list(TARGETS), "Some of these.")


def config(steps: int, cache: str) -> ConfigDict:
  """That of the small model; `cache` is a folder of text features."""
  made = shipped.get_config("synthetic:prototypes")
  made.update_from_flattened_dict(SMALL)
  made.train.steps = made.train.checkpoint_every = made.train.log_every = steps
  made.language.cache = cache
  return made


def split(whole: Dataset, fold: int) -> tuple[Dataset, Dataset]:
  """The seen classes as (those that train, those that are retrieved)."""
  held_out = whole.class_names[fold::FOLDS]
  rest = [name for name in whole.class_names if name not in held_out]
  return datasets.of_classes(whole, "train", rest), datasets.of_classes(whole, "val", held_out)


def words(language: Any, names: Sequence[str]) -> dict[str, LoadedPrototypes]:
  """{target: prototypes} of these classes alone."""
  with tempfile.TemporaryDirectory() as workdir:
    describe.run(language, workdir, names)
    texts.run(language, workdir, names)
    path = prototypes.run(language, workdir, names)
    as_in_training = {"centre": True, "shuffle": False, "seed": 0}
    found = {
      target: reading.load(path, names, kind=kind, **as_in_training)
      for target, kind in KINDS.items()
    }
  for target, of_classes in OF_CLASSES.items():
    x = of_classes(tuple(names))
    centred = l2_normalise(x - x.mean(axis=0), target).astype(np.float32)
    mean = np.zeros(centred.shape[1], np.float32)
    found[target] = dataclasses.replace(found["T_c"], prototypes=centred, mean=mean)
  return found


def retrieval(
  made: ConfigDict, train_half: Dataset, held_out: Dataset, loaded: LoadedPrototypes | None
) -> tuple[float, float]:
  """R@1 and MAP@R among classes held out, in [0, 1], after a training."""
  with tempfile.TemporaryDirectory() as workdir:
    train.run(made, workdir, train_half, loaded)
    arrays, _ = checkpoints.require(workdir)
  embedder = embedders.build(made.model)
  params = inference_params(embedder, checkpoints.subtree(arrays, "state/params"))
  (vectors,), rows = embed_dataset([make_embed(embedder, params)], held_out, made.data, 100)
  found = metrics.evaluate_embeddings(vectors, held_out.labels[rows], (1,))
  return found["recall@1"], found["map@r"]


def measured(
  targets: Sequence[str], steps: int, seeds: int, cache: str, folds: int = FOLDS
) -> dict[str, np.ndarray]:
  """{target: [folds x seeds, 2]} in %."""
  made = config(steps, cache)
  whole = datasets.load_splits(made.data, ("train",))["train"]
  rows: dict[str, list[tuple[float, float]]] = {target: [] for target in targets}
  for fold in range(folds):
    train_half, held_out = split(whole, fold)
    known = words(made.language, train_half.class_names)
    for seed in range(seeds):
      for target in targets:
        made.seed = seed
        made.loss.alignment = target if target in CONTROLS else "prototype"
        name, _, other = target.partition(" of another")
        loaded = None if target in CONTROLS else known[name]
        if loaded is not None and other:
          given = reading.other_classes(len(train_half.class_names), seed)
          loaded = dataclasses.replace(loaded, prototypes=loaded.prototypes[given])
        rows[target].append(retrieval(made, train_half, held_out, loaded))
        print(f"fold {fold} seed {seed} {target}: {rows[target][-1]}", file=sys.stderr, flush=True)
  return {target: 100 * np.array(of_target) for target, of_target in rows.items()}


def table(found: dict[str, np.ndarray]) -> str:
  """Markdown, the best MAP@R first."""
  lines = ["| targets | R@1 | MAP@R | MAP@R - orthogonal | 95% t |", "|---|---:|---:|---:|---:|"]
  for target, x in sorted(found.items(), key=lambda item: -item[1][:, 1].mean()):
    line = f"| {target} | {x[:, 0].mean():.1f} | {x[:, 1].mean():.1f} |"
    if "orthogonal" in found and target != "orthogonal":
      difference = (x - found["orthogonal"])[:, 1]
      interval = statistics.t_interval(difference)
      shown = "" if interval is None else f"[{interval[0]:+.1f}, {interval[1]:+.1f}]"
      line += f" {difference.mean():+.1f} | {shown} |"
    else:
      line += " | |"
    lines.append(line)
  return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
  """Prints the table; what is done, to stderr."""
  del argv
  unknown = [target for target in _TARGETS.value if target not in TARGETS]
  if unknown:
    raise app.UsageError(f"--targets: {unknown[0]} is none of {', '.join(TARGETS)}")
  logging.set_verbosity(logging.WARNING)
  print(table(measured(_TARGETS.value, _STEPS.value, _SEEDS.value, flags.FLAGS.cache)))


if __name__ == "__main__":
  app.run(main)
