"""The stages of class retrieval: what each runs, reads and writes.

Imports of jax and of the language code stand inside the functions: a misuse and --help are answered
before them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.stages import Stage
from lafg_jax.tasks.class_retrieval import choices, default

STAGES = ("describe", "encode", "prototypes", "train", "evaluate", "report")
# Not in a bare run: only people look at what they write.
ON_REQUEST = ("data", "inspect")
# What the page of the language base is made from.
_OF_LANGUAGE = ("describe", "encode", "prototypes")

check = default.validate


def default_names(config: ConfigDict) -> list[str]:
  """The stages of a bare run: those whose output something else of the run reads."""
  if config.evaluate.source not in ("checkpoint", "best"):
    return ["evaluate"]
  if not choices.reads_words(config):
    return list(STAGES[3:])
  return list(STAGES)


def studied(config: ConfigDict) -> list[str]:
  """The stages of a cell of the study."""
  return [name for name in default_names(config) if name != "report"]


def figures(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """What the study keeps of a cell."""
  from lafg_jax.tasks.class_retrieval import protocol

  return protocol.figures(workdir)


def plan(config: ConfigDict, workdir: str, names: Sequence[str]) -> tuple[ConfigDict, list[Stage]]:
  """The stages to run, with the config that they share, in which no 'auto' is left.

  What could stop a run after hours is looked at here: the data set, the weights, the model.

  Raises:
    UserError: what is missing or does not go together.
  """
  from lafg_jax.models.weights import resolve
  from lafg_jax.tasks.class_retrieval import checks
  from lafg_jax.training import checkpoints

  inspects = "inspect" in names and not config.language.inspect_all
  if inspects:
    names = [name for name in (*STAGES, *ON_REQUEST) if name in {*names, *_OF_LANGUAGE}]
  trains, embeds = "train" in names, "evaluate" in names and _embeds(config)
  if trains:
    checks.batch(config)
  if embeds:
    checks.evaluated(config)
  if {*_OF_LANGUAGE} & {*names}:
    checks.names(config)
  if trains or embeds:
    # Here, so that weights which do not go with the config stop the run before hours of encoding.
    config = resolve.resolve(config, checkpoints.recorded_config(workdir))
  if trains:
    checks.parameters(config)
  every = {stage.name: stage for stage in _STAGES}
  return config, [every[name] for name in names]


def summary(config: ConfigDict, workdir: str, names: Sequence[str]) -> None:
  """Prints the figures of an evaluation, and where people look."""
  from lafg_jax.evaluate import results
  from lafg_jax.report import language_page, run_page
  from lafg_jax.runtime import remote_workdir

  files: tuple[str, ...] = ()
  if {"evaluate", "report"} & {*names}:
    print("\n" + results.table(results.read_result(workdir)) + "\n")
    files = (results.FILE, run_page.FILE, run_page.PICTURE)
  elif "inspect" in names:
    print()
    files = (language_page.FILE,)
  for path in (os.path.join(workdir, name) for name in files):
    if os.path.exists(path):
      print(f"  {remote_workdir.address(path)}")


def _embeds(config: ConfigDict) -> bool:
  """Whether images are evaluated, and not a file of embeddings."""
  return config.evaluate.source in choices.OF_MODELS


def described(config: ConfigDict) -> tuple[Sequence[str], list[str], bool]:
  """Names to describe, names that must not be in any text, whether the former are super-classes.

  A numbered item has no words; those of its super-class are all there is, and give none away.
  """
  from lafg_jax.data import datasets

  super_classes = datasets.super_classes(config.data)
  if super_classes is not None:
    return list(dict.fromkeys(super_classes)), [], True
  splits = datasets.class_splits(config.data)
  others = [name for split, names in splits.items() if split != "train" for name in names]
  return splits["train"], others, False


def _describe_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  from lafg_jax.language.describers import describe

  names, held_out, _ = described(config)
  return [describe.inputs(config.language), names, held_out]


def _describe(config: ConfigDict, workdir: str) -> None:
  from lafg_jax.language.describers import describe

  describe.run(config.language, workdir, *described(config))


def _training_classes(config: ConfigDict) -> tuple[str, ...]:
  from lafg_jax.data import datasets

  return datasets.class_splits(config.data)["train"]


def _sees_images(config: ConfigDict) -> bool:
  """Whether the encoder sees training images."""
  return config.language.query == "image" or choices.reads_images(config)


def _encode_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  from lafg_jax.data import datasets
  from lafg_jax.language.encoders import load

  return [
    [keys.deciding(config, "features"), choices.recolourings(config)],
    datasets.super_classes(config.data),
    _training_classes(config),
    [load.content(config.language.encoder), Path(workdir, "descriptions.jsonl")],
    datasets.content_fingerprint(config.data, "train") if _sees_images(config) else None,
  ]


def _encode(config: ConfigDict, workdir: str) -> None:
  from lafg_jax.data import datasets
  from lafg_jax.language.encoders import images, texts

  language, pictures = config.language, None
  if _sees_images(config):
    pictures = datasets.load_splits(config.data, ("train",))["train"]
  if choices.reads_images(config) and pictures is not None:
    # Before the texts: an encoder without an image tower should say so at once.
    images.run(language, workdir, pictures, choices.recolourings(config))
  super_classes = datasets.super_classes(config.data)
  texts.run(language, workdir, _training_classes(config), super_classes, pictures)


def _encode_outputs(config: ConfigDict) -> list[str]:
  from lafg_jax.language.encoders import images

  return ["text_features.npz", *([images.FILE] if choices.reads_images(config) else [])]


def _prototypes_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  deciding = keys.deciding(config, "prototypes")
  return [deciding, _training_classes(config), Path(workdir, "text_features.npz")]


def _prototypes(config: ConfigDict, workdir: str) -> None:
  from lafg_jax.language import prototypes

  prototypes.run(config.language, workdir, _training_classes(config))


def _train_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  from lafg_jax.data import datasets
  from lafg_jax.language.encoders import images

  words = choices.reads_words(config)
  return [
    keys.deciding(config, "embedding", "training", *(["targets"] if words else [])),
    # Where the pack lies decides nothing.
    bool(config.data.pack),
    datasets.content_fingerprint(config.data, "train"),
    Path(workdir, "prototypes.npz") if words else None,
    Path(workdir, images.FILE) if choices.reads_images(config) else None,
    _pretrained_file(config),
  ]


def _train(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax.data import datasets
  from lafg_jax.tasks.class_retrieval import teacher_features, train

  splits = datasets.load_splits(config.data, ("train", "val"))
  loaded = None
  if choices.reads_words(config):
    loaded = teacher_features.load(config, Path(workdir, "prototypes.npz"), splits["train"])
  step, stopped = train.run(config, workdir, splits["train"], loaded, splits.get("val"))
  if stopped:
    saved = ", saved" if step else ""
    steps = config.train.steps
    logging.info("stopped at step %d of %d%s; the same command goes on", step, steps, saved)
  return not stopped


def _train_outputs(config: ConfigDict) -> list[str]:
  from lafg_jax.training import checkpoints

  return [os.path.join(checkpoints.FOLDER, str(config.train.steps))]


def _pretrained_file(config: ConfigDict) -> Path | None:
  from lafg_jax.models.weights import files

  path = files.local(config.model.pretrained)
  return Path(path) if path else None


def _evaluate_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  from lafg_jax.data import datasets
  from lafg_jax.training import checkpoints

  source, content = config.evaluate.source, None
  if _embeds(config):
    content = datasets.content_fingerprint(config.data, config.evaluate.split)
  read: list[Path | None] = [Path(source)]
  if source == "pretrained":
    read = [_pretrained_file(config)]
  elif _embeds(config):
    where = checkpoints.BEST if source == "best" else checkpoints.FOLDER
    newest, folder = checkpoints.steps(workdir, where)[:1], checkpoints.folder(workdir, where)
    read = [Path(folder, str(step), "meta", "metadata") for step in newest]
  return [keys.deciding(config, "embedding", "evaluation"), content, read]


def _evaluate(config: ConfigDict, workdir: str) -> None:
  from lafg_jax.tasks.class_retrieval import protocol

  protocol.run(config, workdir)


def _evaluate_outputs(config: ConfigDict) -> list[str]:
  from lafg_jax.evaluate import results

  return [results.FILE, *([results.EMBEDDINGS] if _embeds(config) else [])]


def _report_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  names = ("evaluation.json", "embeddings.npz", "metrics.jsonl", "prototypes.npz")
  deciding = [config.data.name, config.data.root, config.evaluate]
  return [deciding, [Path(workdir, name) for name in names]]


def _report(config: ConfigDict, workdir: str) -> None:
  from lafg_jax.report import run_page

  run_page.run(config, workdir)


def _report_outputs(config: ConfigDict) -> list[str]:
  from lafg_jax.report import run_page

  return [run_page.FILE, run_page.PICTURE]


def _data(config: ConfigDict, workdir: str) -> None:
  from lafg_jax.report import data_page

  data_page.run(config, workdir)


def _inspect_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  from lafg_jax.report import language_page

  files = [Path(workdir, name) for name in language_page.INPUTS]
  return [config.data.name, files, language_page.TEMPLATE]


def _inspect(config: ConfigDict, workdir: str) -> None:
  from lafg_jax.report import language_page

  run = language_page.run_all if config.language.inspect_all else language_page.run
  run(config, workdir)


def _inspect_outputs(config: ConfigDict) -> list[str]:
  from lafg_jax.report import language_page

  # The page of all classes is not recorded: it writes nothing beside itself.
  return [] if config.language.inspect_all else [language_page.FILE]


def _nothing(config: ConfigDict, workdir: str = "") -> list[Any]:
  return []


_PROTOTYPES = ["prototypes.npz", "prototypes_stats.json"]
_STAGES = (
  Stage("describe", _describe, _describe_inputs, lambda config: ["descriptions.jsonl"]),
  Stage("encode", _encode, _encode_inputs, _encode_outputs),
  Stage("prototypes", _prototypes, _prototypes_inputs, lambda config: _PROTOTYPES),
  Stage("train", _train, _train_inputs, _train_outputs, all_processes=True),
  Stage("evaluate", _evaluate, _evaluate_inputs, _evaluate_outputs, all_processes=True),
  Stage("report", _report, _report_inputs, _report_outputs),
  # Always: what has changed on the disk is what is asked about.
  Stage("data", _data, _nothing, _nothing),
  Stage("inspect", _inspect, _inspect_inputs, _inspect_outputs),
)
