"""What follows training: weights between start and trained, and the mean of training embeddings.

Both are learned from the last checkpoint. `<workdir>/final/<step>/` is a checkpoint with the result
in place of the trained weights: it is evaluated and restored where the config asks for any.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

from lafg_jax.data.datasets import Dataset
from lafg_jax.evaluate import metrics
from lafg_jax.evaluate.embed import embed_dataset, embedding_function
from lafg_jax.models import embedder as embedders
from lafg_jax.runtime import distributed
from lafg_jax.tasks.class_retrieval.start import CENTRE_IMAGES, sample
from lafg_jax.training import checkpoints, learned_weights, resume
from lafg_jax.training.checkpoints import FINAL
from lafg_jax.training.frozen_weights import Arrays, Frozen
from lafg_jax.utils import config_keys, files

# The table of alphas of a workdir.
FILE = "interpolation.json"
# What train.interpolate=auto chooses from.
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
# What embeds an image: projectors and proxies stay as they were trained.
_MOVED = ("backbone", "embedding", "gem_p", "prompts", "lora")

Params = dict[str, Any]


def is_wanted(config: ConfigDict) -> bool:
  """Whether the config asks for more than the trained weights."""
  return bool(config.model.centre or config.train.interpolate != 1)


def where(config: ConfigDict) -> str:
  """The folder of the checkpoint that evaluate.source of a config means."""
  newest = config.evaluate.source == "checkpoint"
  return FINAL if newest and is_wanted(config) else checkpoints.where_of(config.evaluate.source)


def run(
  config: ConfigDict,
  workdir: str,
  dataset: Dataset,
  val: Dataset | None,
  start: Callable[[], Params],
) -> None:
  """Writes the final checkpoint of the newest one, unless it is there; on all processes together.

  Where the config asks for none, one that is there is set aside: it is of other weights.

  Args:
    dataset, val: training images, and those of validation classes for train.interpolate=auto.
    start: makes the parameters before training.
  """
  if not is_wanted(config):
    _set_aside(workdir)
    return
  arrays, meta = checkpoints.require(workdir)
  if distributed.agree("the final checkpoint", lambda: _is_there(config, workdir, meta)):
    return
  trained = learned_weights.of(arrays)
  alphas, before = [config.train.interpolate], trained
  if config.train.interpolate != 1:
    before = jax.tree.map(np.asarray, start())
    alphas = list(ALPHAS) if config.train.interpolate == -1 else alphas
  with distributed.unhurried("the final weights"):
    found = [between(before, trained, alpha) for alpha in alphas]
    if config.model.centre:
      found = centred(config, found, dataset)
    chosen = 0
    if val is not None and config.train.interpolate == -1:
      rows = _measured(config, found, val)
      # The nearest to the start, of equals.
      chosen = int(np.argmax([row["val_map@r"] for row in rows]))
      _say(workdir, meta["step"], alphas, rows, chosen)
    elif jax.process_index() == 0:
      # The table of another run.
      Path(workdir, FILE).unlink(missing_ok=True)
  meta = meta | {"config": meta["config"] | _asked(config)}
  _save(workdir, arrays, meta, found[chosen], float(alphas[chosen]))


def between(start: Params, trained: Params, alpha: float) -> Params:
  """(1 - alpha) start + alpha trained, of what embeds an image; all else as it was trained.

  WiSE-FT (Wortsman et al., CVPR 2022). Of LoRA's A B, which starts at 0, B alone is scaled: so the
  kernel it is added to is interpolated.
  """
  if alpha == 1:
    return trained
  before = traverse_util.flatten_dict(start)

  def moved(path: tuple[str, ...], x: Any) -> Any:
    factor_a = path[0] == "lora" and path[-1] == "a"
    if path[0] not in _MOVED or factor_a:
      return x
    # Equal numbers, such as those of frozen parameters, stay as they are.
    s = np.asarray(before[path])
    return (s + np.float32(alpha) * (np.asarray(x) - s)).astype(s.dtype)

  flat = traverse_util.flatten_dict(trained)
  return traverse_util.unflatten_dict({path: moved(path, x) for path, x in flat.items()})


def centred(config: ConfigDict, models: Sequence[Params], dataset: Dataset) -> list[Params]:
  """Each model with 'centre' [D]: the mean of its embeddings of some training images."""
  vectors, _ = _embedded(config, models, sample(dataset, CENTRE_IMAGES))
  means = [x.mean(axis=0, dtype=np.float64).astype(np.float32) for x in vectors]
  return [model | {"centre": mean} for model, mean in zip(models, means, strict=True)]


def _embedded(config: ConfigDict, models: Sequence[Params], dataset: Dataset) -> Any:
  """Embeddings of each model, images decoded once for all, and the rows of the dataset."""
  embedding = embedding_function(embedders.build(config.model))
  embeds = [embedding(model) for model in models]
  return embed_dataset(embeds, dataset, config.data, config.evaluate.batch_size)


def _measured(config: ConfigDict, models: Sequence[Params], val: Dataset) -> list[dict[str, float]]:
  vectors, rows = _embedded(config, models, val)
  asks = None if val.is_query is None else val.is_query[rows]
  found = [metrics.evaluate_embeddings(x, val.labels[rows], (1,), is_query=asks) for x in vectors]
  return [{f"val_{name}": float(x[name]) for name in ("recall@1", "map@r")} for x in found]


def _say(workdir: str, step: int, alphas: list[float], rows: list[dict], chosen: int) -> None:
  table = [{"alpha": alpha, **row} for alpha, row in zip(alphas, rows, strict=True)]
  for k, row in enumerate(table):
    logging.info(
      "train: alpha %.2f between start and trained: MAP@R %.2f, recall@1 %.2f on validation "
      "classes%s", row["alpha"], 100 * row["val_map@r"], 100 * row["val_recall@1"],
      " (chosen)" if k == chosen else "",
    )  # fmt: skip
  content = {"step": step, "alpha": alphas[chosen], "validation": table}
  if jax.process_index() == 0:
    with files.replacing(os.path.join(workdir, FILE)) as temporary:
      temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _asked(config: ConfigDict) -> dict[str, Any]:
  """What a config asks of the weights after training."""
  flat = config_keys.flatten(config)
  return {key: flat[key] for key in resume.AFTERWARDS}


def _set_aside(workdir: str) -> None:
  """Renames final checkpoints, so that nobody takes them for the newest, and drops the table."""
  if jax.process_index() == 0:
    checkpoints.rename(workdir, checkpoints.steps(workdir, FINAL), "before", FINAL)
    Path(workdir, FILE).unlink(missing_ok=True)


def _is_there(config: ConfigDict, workdir: str, meta: dict[str, Any]) -> bool:
  """Whether the final checkpoint is there, whole, and made of this meta's by the same config."""
  if meta["step"] not in checkpoints.steps(workdir, FINAL):
    return False
  try:
    final = checkpoints.read(workdir, meta["step"], FINAL)[1]
    return (
      final.get("made_from") == meta["crc32"] and _asked(config).items() <= final["config"].items()
    )
  except checkpoints.Damaged as error:
    logging.warning("the final checkpoint is damaged (%s), and made again", error)
    return False


def _save(workdir: str, arrays: Arrays, meta: dict, params: Params, alpha: float) -> None:
  step, frozen = meta["step"], Frozen(**meta["frozen"])
  beside = {p: x for p, x in arrays.items() if not p.startswith(_NOT_KEPT)}
  chosen = checkpoints.flatten({"state": {"params": params}})
  kept = {p: x for p, x in (beside | chosen).items() if p not in frozen.arrays}
  with checkpoints.manager(workdir, 1, FINAL) as mngr:
    if mngr is not None and step in mngr.all_steps():
      # Of other weights, from a run that was started anew.
      mngr.delete(step)
    checkpoints.save(mngr, step, kept, meta | {"made_from": meta["crc32"], "alpha": alpha}, frozen)


# Of a checkpoint, what only training goes on from.
_NOT_KEPT = ("state/params/", "state/opt_state/", "state/ema/", "state/step")
