"""Whether words help as geometry in place of targets, on features, on held-out training classes.

  python experiments/words_as_geometry.py --config configs/features.py \
      --config.data.manifest=cars.npz --config.data.last_train_label=98 \
      --config.language.describer=shipped --config.language.encoder=MINILM_FOLDER

A class's words enter no loss as a target here; they say alone how near two classes are.

  margin      in L_aux the logit of another class is raised by MARGIN x how near its words are (as a
              z-score): below 0, classes of alike words need not be kept apart so far
  neighbours  the classes of a batch are one class and those whose words are nearest

Each form has own words and, as its control, the nearness of other classes (a random cycle). The
training classes are split into four folds; each trains a head on three and retrieves among the
fourth. Test classes have no part. Batches, start, rate and steps are those of configs/features.py.
Prints means over folds and seeds, and the differences, paired, with t-intervals.
"""

import functools
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags, logging
from ml_collections import ConfigDict

from lafg_jax.ablation import statistics
from lafg_jax.config import command_line
from lafg_jax.data import datasets
from lafg_jax.data.datasets import Dataset
from lafg_jax.evaluate import metrics
from lafg_jax.language import prototypes
from lafg_jax.language.describers import describe
from lafg_jax.language.encoders import texts
from lafg_jax.losses.contrastive import unit
from lafg_jax.tasks.class_retrieval import language_base
from lafg_jax.training import optimizers
from lafg_jax.utils import random_streams
from lafg_jax.utils.vectors import unit_or_zero

FOLDS, CLASSES, SLOTS = 4, 32, 4
MARGINS = (-1.0, -0.5, 0.5, 1.0)
# {form: (margin, whether batches are of neighbours)}; each of words also with those of others.
FORMS = {f"margin {m:+g}": (m, False) for m in MARGINS} | {"neighbours": (0.0, True)}
NONE, OTHERS = "L_aux alone", " of other classes"

_SEEDS = flags.DEFINE_integer("seeds", 2, "Of each fold.", lower_bound=1)


def nearness(language: ConfigDict, names: Sequence[str]) -> np.ndarray:
  """[C, C]: the cosines of centred prototypes, as z-scores over pairs of two classes; 0 of one."""
  with tempfile.TemporaryDirectory() as workdir:
    describe.run(language, workdir, names)
    texts.run(language, workdir, names)
    path = prototypes.run(language, workdir, names)
    loaded = language_base.load(path, names, centre=True, shuffle=False, seed=0)
  vectors = unit_or_zero(loaded.prototypes)
  cosines, two = vectors @ vectors.T, ~np.eye(len(names), dtype=bool)
  return np.where(two, (cosines - cosines[two].mean()) / cosines[two].std(), 0.0)


def batches(
  labels: np.ndarray, near: np.ndarray | None, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Rows [steps, SLOTS, N] and classes [steps, N]; of neighbours where `near` is given."""
  rng, count = random_streams.of_seed(seed), labels.max() + 1
  members, rows, of_step = [np.flatnonzero(labels == c) for c in range(count)], [], []
  for _ in range(steps):
    chosen = rng.permutation(count)[:CLASSES]
    if near is not None:
      others = np.argsort(-near[chosen[0]], kind="stable")
      chosen = np.append(chosen[:1], others[others != chosen[0]][: CLASSES - 1])
    drawn = [rng.choice(members[c], SLOTS, replace=len(members[c]) < SLOTS) for c in chosen]
    rows.append(np.stack(drawn, axis=1))
    of_step.append(chosen)
  return np.array(rows), np.array(of_step)


def loss(z: jax.Array, bias: jax.Array, temperature: float) -> jax.Array:
  """L_aux of z [SLOTS, N, D] with `bias` [N, N], 0 on its diagonal, added to the logits of classes.

  With a bias of 0 it is `losses.contrastive.pairwise_contrastive` of reduction 'mean'.
  """
  z = unit(z)
  logits = (2 * jnp.einsum("aid,bkd->aibk", z, z) - 2) / temperature + bias[None, :, None, :]
  same_slot, slots = jnp.einsum("aiak->aik", logits), z.shape[0]
  within = jnp.where(jnp.eye(z.shape[1], dtype=bool), -1e30, same_slot)
  others = jax.nn.logsumexp(within, axis=2)[:, :, None]
  positive = jnp.einsum("aibi->aib", logits)
  found = jnp.logaddexp(jax.nn.logsumexp(logits, axis=3), others) - positive
  pairs = ~jnp.eye(slots, dtype=bool)[:, None, :]
  return jnp.where(pairs, found, 0).sum() / z.shape[1] / (slots * (slots - 1))


@functools.partial(jax.jit, static_argnames=("optimizer", "temperature"))
def trained(x, rows, classes, bias, *, optimizer, temperature):
  """The head [D, D] after all steps, from the identity."""
  head = jnp.eye(x.shape[1])

  def step(carry, of_step):
    head, state = carry
    row, chosen = of_step

    def of_head(head):
      return loss(x[row] @ head, bias[chosen][:, chosen], temperature)

    update, state = optimizer.update(jax.grad(of_head)(head), state, head)
    return (optax.apply_updates(head, update), state), None

  (head, _), _ = jax.lax.scan(step, (head, optimizer.init(head)), (rows, classes))
  return head


def retrieval(head: np.ndarray, seen: np.ndarray, held_out: Dataset) -> tuple[float, float]:
  """R@1 and MAP@R in % of held-out classes, centred on the mean of the images that trained."""
  mean = unit_or_zero(seen @ head).mean(axis=0)
  vectors = unit_or_zero(unit_or_zero(features(held_out) @ head) - mean).astype(np.float32)
  found = metrics.evaluate_embeddings(vectors, held_out.labels, (1,))
  return 100 * found["recall@1"], 100 * found["map@r"]


def features(dataset: Dataset) -> np.ndarray:
  return np.asarray(dataset.images, np.float32)


def measured(config: ConfigDict, seeds: int, folds: int = FOLDS) -> dict[str, np.ndarray]:
  """{form: [folds x seeds, 2]} in %; 'the features' are centred, without a training."""
  whole = datasets.load_splits(config.data, ("train",))["train"]
  rate = optimizers.schedule(config.train)
  optimizer = optax.adamw(rate, weight_decay=config.train.weight_decay)
  found: dict[str, list[tuple[float, float]]] = {}
  for fold in range(folds):
    held = whole.class_names[fold::FOLDS]
    rest = [name for name in whole.class_names if name not in held]
    train_half = datasets.of_classes(whole, "train", rest)
    held_out = datasets.of_classes(whole, "val", held)
    own, x = nearness(config.language, rest), features(train_half)
    start = retrieval(np.eye(x.shape[1], dtype=np.float32), x, held_out)
    for seed in range(seeds):
      found.setdefault("the features", []).append(start)
      given = language_base.other_classes(len(rest), seed)
      for name, near, margin, together in settings(own, own[given][:, given]):
        drawn = batches(train_half.labels, near if together else None, config.train.steps, seed)
        bias, temperature = margin * near, config.loss.temperature
        head = trained(x, *drawn, bias, optimizer=optimizer, temperature=temperature)
        found.setdefault(name, []).append(retrieval(np.asarray(head), x, held_out))
        print(f"fold {fold} seed {seed} {name}: {found[name][-1]}", file=sys.stderr, flush=True)
  return {name: np.array(of) for name, of in found.items()}


def settings(own: np.ndarray, others: np.ndarray) -> list[tuple[str, np.ndarray, float, bool]]:
  """(name, nearness, margin, whether batches are of neighbours) of each training."""
  rows = [(NONE, own, 0.0, False)]
  for name, (margin, together) in FORMS.items():
    rows += [(name, own, margin, together), (f"{name}{OTHERS}", others, margin, together)]
  return rows


def table(found: dict[str, np.ndarray]) -> str:
  """Markdown: means, and MAP@R against L_aux alone and against the words of other classes."""
  head = "| form | R@1 | MAP@R | MAP@R - L_aux alone | MAP@R - that of other classes |"
  lines = [head, "|---|---:|---:|---:|---:|"]
  for name, x in found.items():
    others = found.get(f"{name}{OTHERS}")
    cells = [f"{x[:, 0].mean():.1f}", f"{x[:, 1].mean():.1f}"]
    cells += ["" if name == NONE else difference(x, found[NONE]), difference(x, others)]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def difference(x: np.ndarray, y: np.ndarray | None) -> str:
  """Of MAP@R, paired, with its 95% t-interval; '' without y."""
  if y is None:
    return ""
  paired = (x - y)[:, 1]
  interval: Any = statistics.t_interval(paired)
  shown = "" if interval is None else f" [{interval[0]:+.1f}, {interval[1]:+.1f}]"
  return f"{paired.mean():+.1f}{shown}"


def main(argv: Sequence[str]) -> None:
  """Prints the table; what is done, to stderr."""
  del argv
  logging.set_verbosity(logging.WARNING)
  print(table(measured(command_line.CONFIG.value, _SEEDS.value)))


if __name__ == "__main__":
  command_line.run(main, __doc__ or "")
