"""The stages of composed retrieval: what each runs, reads and writes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.data import composed
from lafg_jax.evaluate import results
from lafg_jax.report import composed_page
from lafg_jax.runtime import remote_workdir
from lafg_jax.stages import Stage
from lafg_jax.tasks.composed_retrieval import (
  captions,
  corpus,
  edits,
  evaluation,
  mapping,
  methods,
  ranking,
  readings,
  restore,
  submission,
  tables,
  train,
  validating,
  words,
)
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.tasks.composed_retrieval.default import default_names
from lafg_jax.training import checkpoints, loop
from lafg_jax.utils.files import fingerprint


def studied(config: ConfigDict) -> list[str]:
  """The stages of a cell of the study."""
  return [name for name in default_names(config) if name != "report"]


def figures(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """What the study keeps of a cell."""
  return evaluation.figures(config, workdir)


def followed_by(config: ConfigDict) -> str:
  """Cells with the same queries and Phi; captions and edits are whole files, written anew."""
  config = methods.resolve(config)
  trained = _train_inputs(config, "") if methods.trains(config) else []
  sections = [config[name].to_dict() for name in ("composed", "data")]
  return fingerprint(*sections, models.weights(config), trained)[:16]


def plan(config: ConfigDict, workdir: str, names: Sequence[str]) -> tuple[ConfigDict, list[Stage]]:
  """The stages to run, and the config for them.

  Raises UserError for queries, images or weights that would stop the run later.
  """
  config = methods.resolve(config)
  if {"caption", "edit", "evaluate"} & {*names}:
    composed.load(config)
  if "caption" in names:
    captions.check(config)
  if "edit" in names:
    edits.check(config)
  if {"train", "evaluate"} & {*names}:
    clip = models.load(config).clip
    if "evaluate" in names and "phi" in methods.reads(config):
      mapping.load(config, clip)
  if "train" in names:
    corpus.check(config, corpus.training(config))
  if "evaluate" in names and methods.inverts(config):
    words.concepts_of(config)
  every = {stage.name: stage for stage in _STAGES}
  return config, [every[name] for name in names]


def summary(config: ConfigDict, workdir: str, names: Sequence[str]) -> None:
  """Prints the figures of an evaluation, and which files to look at."""
  if "evaluate" in names:
    print("\n" + tables.table(results.read_result(workdir)) + "\n")
  written = [
    file for name, file in (("caption", captions.FILE), ("edit", edits.FILE)) if name in names
  ]
  written += [composed_page.FILE, results.FILE, ranking.FILE, *submission.names()]
  for name in (*written, checkpoints.FOLDER):
    path = os.path.join(workdir, name)
    if os.path.exists(path):
      print(f"  {remote_workdir.address(path)}")


def _content(config: ConfigDict) -> list[str]:
  return [part.content for part in composed.load(config)]


def _caption_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  return [captions.inputs(config), _content(config)]


def _caption(config: ConfigDict, workdir: str) -> None:
  captions.run(config, workdir, composed.load(config))


def _edit_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  said = Path(workdir, captions.FILE) if methods.edits_captions(config) else None
  return [edits.inputs(config), _content(config), said]


def _edit(config: ConfigDict, workdir: str) -> None:
  kind = config.captioner.kind
  said = captions.read(workdir, kind) if methods.edits_captions(config) else {}
  edits.run(config, workdir, composed.load(config), said)


def _train_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  deciding = {
    key: value
    for key, value in keys.deciding(config, "embedding", "training").items()
    if keys.is_read(config, key)
  }
  return [deciding, corpus.content(config, corpus.training(config)), models.weights(config)]


def _train(config: ConfigDict, workdir: str) -> bool:
  clip = models.load(config).clip
  validation = validating.of(config, workdir) if config.train.validate_every else None
  facts = restore.facts_of(clip, config.mapping.method)
  reached = train.run(config, workdir, corpus.training(config), validation, facts)
  return loop.completed(config, *reached)


def _evaluate_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  reads = methods.reads(config)
  read: list[Any] = [Path(workdir, captions.FILE)] if "captions" in reads else []
  read += [Path(workdir, edits.FILE)] if "edit" in reads else []
  if methods.trains(config) and config.evaluate.source in ("checkpoint", "best"):
    read += checkpoints.newest_meta(workdir, checkpoints.where_of(config.evaluate.source))
  # The seed of edits is that of the row of noisy ones, too.
  read += [config.editor.seed, methods.gallery_captions(config, methods.of(config))]
  read += words.inverted_by(config) if methods.inverts(config) else []
  given = (config.composed.features, config.mapping.source)
  weights = [models.weights(config), [Path(path) if path else 0 for path in given]]
  deciding = keys.deciding(config, "embedding", "evaluation")
  return [deciding, config.mapping.method, config.seed, _content(config), read, weights]


def _evaluate_outputs(config: ConfigDict) -> list[str]:
  of = config.composed
  submits = of.split == "test" and of.missing != "partial"
  submitted = submission.FILES.get(of.source, {}).values() if submits else ()
  return [results.FILE, ranking.FILE, *submitted]


_STAGES = (
  Stage("caption", _caption, _caption_inputs, lambda config: [captions.FILE]),
  Stage("edit", _edit, _edit_inputs, lambda config: [edits.FILE]),
  Stage("train", _train, _train_inputs, loop.outputs, all_processes=True),
  Stage("evaluate", evaluation.run, _evaluate_inputs, _evaluate_outputs, all_processes=True),
  Stage("report", readings.run, readings.inputs, lambda config: [composed_page.FILE]),
)
