"""The stages of class retrieval: what each runs, reads and writes."""

import itertools
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.config.table.train import OF_MODELS
from lafg_jax.data import datasets
from lafg_jax.evaluate import results
from lafg_jax.language import prototypes
from lafg_jax.language.describers import describe, leaks
from lafg_jax.language.encoders import images, load, texts
from lafg_jax.models import heads
from lafg_jax.models.weights import files
from lafg_jax.report import data_page, language_page, run_page
from lafg_jax.runtime import remote_workdir
from lafg_jax.stages import Stage, will_run
from lafg_jax.tasks.class_retrieval import (
  batches,
  checks,
  choices,
  finishing,
  given_features,
  protocol,
  readings,
  sources,
  teacher_features,
  train,
)
from lafg_jax.tasks.class_retrieval.default import ON_REQUEST, STAGES, default_names
from lafg_jax.training import board, checkpoints, loop

# What the page of the language base is made from.
_OF_LANGUAGE = ("describe", "encode", "prototypes")
_PROTOTYPES = ["prototypes.npz", "prototypes_stats.json"]


def studied(config: ConfigDict) -> list[str]:
  """The stages of a cell of the study."""
  return [name for name in default_names(config) if name != "report"]


def figures(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """What the study keeps of a cell."""
  return protocol.figures(workdir)


def plan(config: ConfigDict, workdir: str, names: Sequence[str]) -> tuple[ConfigDict, list[Stage]]:
  """The stages to run, and the config for them, in which no 'auto' is left.

  A bare run of one's own images that all train has neither evaluation nor report.

  Raises UserError for data, weights or a model that would stop the run later, perhaps after hours.
  """
  if "inspect" in names and not config.language.inspect_all:
    names = [name for name in (*STAGES, *ON_REQUEST) if name in {*names, *_OF_LANGUAGE}]
  trains = "train" in names
  given_features.check_stages(config, names)
  if {"train", "report"} <= {*names} and checks.leaves_no_test(config):
    logging.warning(
      "all classes train (data.train_fraction=%s): none is left to evaluate on, so that the stages "
      "evaluate and report are left out", config.data.train_fraction,
    )  # fmt: skip
    names = [name for name in names if name not in ("evaluate", "report")]
  embeds = "evaluate" in names and config.evaluate.source in OF_MODELS
  if trains:
    checks.batch(config)
    checks.validated(config)
  if embeds:
    checks.evaluated(config, trains)
  if {*_OF_LANGUAGE} & {*names}:
    checks.names(config)
  if trains or "data" in names:
    config = batches.resolve(config)
  if trains or embeds:
    config = given_features.sized(config)
  if trains:
    _say_targets(config, workdir)
  every = {stage.name: stage for stage in _STAGES}
  describes = "describe" in names and will_run(every["describe"], config, workdir)
  config = sources.resolved(config, workdir, names, describes)
  if trains or (embeds and config.evaluate.source == "untrained"):
    checks.parameters(config)
  return config, [every[name] for name in names]


def _say_targets(config: ConfigDict, workdir: str) -> None:
  """Says that class targets have no words where none are given, and what is not read then."""
  language, alignment = config.language, config.loss.alignment
  given = language.descriptions or language.describer != "file"
  if given or choices.reads_words(config) or alignment == "none":
    return
  logging.info(
    "class targets without words (loss.alignment=%s): --config.language.descriptions=FILE gives "
    "words", alignment,
  )  # fmt: skip
  made = Path(workdir, "prototypes.npz")
  if made.exists():
    logging.warning("%s is not read: --config.loss.alignment=prototype reads it", made)


def summary(config: ConfigDict, workdir: str, names: Sequence[str]) -> None:
  """Prints the figures of an evaluation, and which files to look at.

  `names` are those of the stages that ran.
  """
  written: tuple[str, ...] = ()
  if {"evaluate", "report"} & {*names}:
    print("\n" + results.table(results.read_result(workdir)) + "\n")
    written = (results.FILE, run_page.FILE, run_page.PICTURE)
  elif "inspect" in names:
    print()
    written = (language_page.FILE,)
  elif "train" in names:
    where = remote_workdir.address(workdir)
    print(f"\nTrained. python -m lafg_jax.export --workdir={where} --out=exported takes it along:")
    written = (checkpoints.FOLDER,)
  for path in (os.path.join(workdir, name) for name in written):
    if os.path.exists(path):
      print(f"  {remote_workdir.address(path)}")
  if written and os.path.isdir(os.path.join(workdir, board.FOLDER)):
    print(f"  tensorboard --logdir {shlex.quote(workdir)}   (pip install tensorboard)")


def described(config: ConfigDict) -> tuple[Sequence[str], list[str], bool]:
  """Names to describe, names that must not be in any text, whether the former are super-classes.

  Classes that are only numbered have no words of their own. Their super-classes are described; the
  name of one gives no class away.
  """
  super_classes = datasets.super_classes(config.data)
  if super_classes is not None:
    return list(dict.fromkeys(super_classes)), [], True
  splits = datasets.class_splits(config.data)
  others = [name for split, names in splits.items() if split != "train" for name in names]
  return splits["train"], others, False


def _describe_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  names, held_out, _ = described(config)
  return [describe.inputs(config.language), names, held_out]


def _describe(config: ConfigDict, workdir: str) -> None:
  describe.run(config.language, workdir, *described(config))


def _describe_outputs(config: ConfigDict) -> list[str]:
  # The file to be filled in lies where the user wants it.
  return [] if config.language.describer == "skeleton" else ["descriptions.jsonl"]


def _training_classes(config: ConfigDict) -> tuple[str, ...]:
  return datasets.class_splits(config.data)["train"]


def _encodes_images(config: ConfigDict) -> bool:
  return config.language.query == "image" or choices.reads_images(config)


def _encode_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  return [
    [keys.deciding(config, "features"), choices.recolourings(config)],
    datasets.super_classes(config.data),
    _training_classes(config),
    [load.content(config.language.encoder), Path(workdir, "descriptions.jsonl")],
    datasets.content_fingerprint(config.data, "train") if _encodes_images(config) else None,
  ]


def _encode(config: ConfigDict, workdir: str) -> None:
  language, seen = config.language, _encodes_images(config)
  # The file may come from another split, or have been edited.
  leaks.refuse_in_file(workdir, *described(config)[:2])
  pictures = datasets.load_splits(config.data, ("train",))["train"] if seen else None
  if pictures is not None and choices.reads_images(config):
    # Before the texts: an encoder without an image tower should fail at once.
    images.run(language, workdir, pictures, choices.recolourings(config))
  super_classes = datasets.super_classes(config.data)
  texts.run(language, workdir, _training_classes(config), super_classes, pictures)


def _encode_outputs(config: ConfigDict) -> list[str]:
  return ["text_features.npz", *([images.FILE] if choices.reads_images(config) else [])]


def _prototypes_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  deciding = keys.deciding(config, "prototypes")
  return [deciding, _training_classes(config), Path(workdir, "text_features.npz")]


def _prototypes(config: ConfigDict, workdir: str) -> None:
  prototypes.run(config.language, workdir, _training_classes(config))


def _train_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  words = choices.reads_words(config)
  return [
    keys.deciding(config, "embedding", "training", *(["targets"] if words else [])),
    # The folder of the pack decides nothing.
    bool(config.data.pack),
    datasets.content_fingerprint(config.data, "train"),
    Path(workdir, "prototypes.npz") if words else None,
    Path(workdir, images.FILE) if choices.reads_images(config) else None,
    _pretrained_file(config),
  ]


def _train(config: ConfigDict, workdir: str) -> bool:
  splits = datasets.load_splits(config.data, ("train", "val"))
  loaded = None
  if choices.reads_words(config):
    loaded = teacher_features.load(config, Path(workdir, "prototypes.npz"), splits["train"])
    said = dict.fromkeys(itertools.chain.from_iterable(loaded.sentences))
    leaks.refuse(said, *described(config)[:2], f"{workdir}/prototypes.npz")
  images = batches.some(splits["train"], config)
  reached = train.run(config, workdir, images, loaded, splits.get("val"))
  return loop.completed(config, *reached)


def _pretrained_file(config: ConfigDict) -> Path | None:
  path = files.local(config.model.pretrained)
  return Path(path) if path else None


def _evaluate_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  source, content, learned = config.evaluate.source, None, None
  read: list[Path | None] = [Path(source)]
  if source in OF_MODELS:
    content = datasets.content_fingerprint(config.data, config.evaluate.split)
    read = [*checkpoints.newest_meta(workdir, finishing.where(config))]
    learned = config.train.interpolate
  if source in ("pretrained", "untrained"):
    read = [_pretrained_file(config)]
  if source == "untrained" and (config.model.centre or config.model.head_init in heads.LEARNED):
    learned = datasets.content_fingerprint(config.data, "train")
  return [keys.deciding(config, "embedding", "evaluation"), content, learned, read]


def _evaluate_outputs(config: ConfigDict) -> list[str]:
  return [results.FILE, *([results.EMBEDDINGS] if config.evaluate.source in OF_MODELS else [])]


def _report(config: ConfigDict, workdir: str) -> None:
  readings.run(config, workdir)
  if not given_features.are(config):
    readings.pictured(workdir)


def _report_outputs(config: ConfigDict) -> list[str]:
  return [run_page.FILE, *([] if given_features.are(config) else [run_page.PICTURE])]


def _inspect_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  read = [Path(workdir, name) for name in language_page.INPUTS]
  return [config.data.name, read, language_page.TEMPLATE]


def _inspect(config: ConfigDict, workdir: str) -> None:
  (language_page.run_all if config.language.inspect_all else language_page.run)(config, workdir)


def _inspect_outputs(config: ConfigDict) -> list[str]:
  # The page of all classes is made each time, as that of the data is.
  return [] if config.language.inspect_all else [language_page.FILE]


_STAGES = (
  Stage("describe", _describe, _describe_inputs, _describe_outputs),
  Stage("encode", _encode, _encode_inputs, _encode_outputs),
  Stage("prototypes", _prototypes, _prototypes_inputs, lambda config: _PROTOTYPES),
  Stage("train", _train, _train_inputs, train.outputs, all_processes=True),
  Stage("evaluate", protocol.run, _evaluate_inputs, _evaluate_outputs, all_processes=True),
  Stage("report", _report, readings.inputs, _report_outputs),
  # Without outputs, so that it runs each time: people ask it about what is on the disk now.
  Stage("data", data_page.run, lambda config, workdir: [], lambda config: []),
  Stage("inspect", _inspect, _inspect_inputs, _inspect_outputs),
)
