"""Trains and evaluates language-driven fine-grained image retrieval (LaFG).

  python -m lafg_jax.main --config configs/cars.py [--workdir DIR] [--stage NAME] \\
      [--config.KEY=VALUE ...]

Without --stage all stages run in order: describe, encode, prototypes, train, evaluate, report. A
stage whose output is there and whose inputs are unchanged is skipped; a stopped one goes on where
it stopped. On request: --stage=data checks a data set before hours are spent (counts, sizes,
unreadable images, near duplicates), and --stage=inspect makes language.html, a page to browse what
was written and mined about the classes. configs/default.py explains every key.
"""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict

from lafg_jax import command_line
from lafg_jax.config import validation
from lafg_jax.runtime import distributed, interrupts, malloc
from lafg_jax.tasks.class_retrieval import choices
from lafg_jax.utils import config_keys, packages
from lafg_jax.utils.errors import UserError

STAGES = ("describe", "encode", "prototypes", "train", "evaluate", "report")
# Not in a bare run: nothing reads what they write but people.
ON_REQUEST = ("data", "inspect")
# Every process takes part in these; the others are of process 0, and the rest wait for it.
SHARED = ("train", "evaluate")

_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder or URL (gs://) for everything that is written (default: runs/<name of the config>).",
)
_STAGE = flags.DEFINE_string(
  "stage",
  None,
  f"Run one stage: {', '.join(STAGES)} (default: all of these); on request: "
  f"{', '.join(ON_REQUEST)}.",
)


def main(argv: Sequence[str]) -> None:
  """Checks the flags and the config, then runs the stages."""
  del argv
  config = command_line.CONFIG.value
  stage = _STAGE.value
  if stage is not None and stage not in (*STAGES, *ON_REQUEST):
    raise UserError(f"--stage={stage}: it takes one of {', '.join((*STAGES, *ON_REQUEST))}")
  wanted = [stage] if stage else _default_stages(config)
  validation.validate(config, wanted)
  packages.require("train", *packages.TRAINING)
  if _WORKDIR.value == "":
    raise UserError("--workdir is empty: pass a folder, or leave it out for runs/<config name>")
  workdir = _WORKDIR.value or os.path.join("runs", command_line.config_name())
  malloc.keep_freed()
  with distributed.session():
    from lafg_jax.runtime import remote_workdir

    folder = remote_workdir.local_folder(workdir)
    command_line.make_folder("workdir", folder)
    with distributed.only_run(folder, workdir), remote_workdir.synced(workdir, folder):
      run_stages(config, folder, wanted)


def _default_stages(config: ConfigDict) -> list[str]:
  """The stages of a bare run: those whose output something else of the run reads."""
  if config.evaluate.source not in ("checkpoint", "best"):
    return ["evaluate"]
  if not choices.reads_words(config):
    return list(STAGES[3:])
  return list(STAGES)


def run_stages(config: ConfigDict, workdir: str, wanted: Sequence[str]) -> None:
  """Runs the wanted stages in order; prints the results and where to look."""
  from lafg_jax.data import datasets
  from lafg_jax.runtime import devices

  devices.keep_compiled()
  with datasets.remembered():
    _run_stages(config, workdir, wanted)


def _run_stages(config: ConfigDict, workdir: str, wanted: Sequence[str]) -> None:
  from lafg_jax.runtime import remote_workdir

  if "train" in wanted:
    _check_batch(config)
  if _embeds(config, wanted):
    _check_evaluated(config)
  inspects = "inspect" in wanted and not config.language.inspect_all
  if inspects or {"describe", "encode", "prototypes"} & set(wanted):
    _check_names(config)
  if "train" in wanted or _embeds(config, wanted):
    from lafg_jax.models.weights import resolve

    # Here, so that weights which do not go with the config stop the run before hours of encoding.
    config = resolve.resolve(config)
  if "train" in wanted:
    _check_parameters(config)
  run = {
    "describe": _describe,
    "encode": _encode,
    "prototypes": _prototypes,
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "inspect": _inspect,
    "data": _data,
  }
  for stage in wanted:
    work = functools.partial(run[stage], config, workdir)
    if not (work() if stage in SHARED else distributed.agree(f"stage {stage}", work)):
      return
    remote_workdir.exchange()
    interrupts.check()
  if {"evaluate", "report"} & set(wanted) and distributed.process_index() == 0:
    _print_results(workdir)


def _embeds(config: ConfigDict, wanted: Sequence[str]) -> bool:
  """Whether images are evaluated, and not a file of embeddings."""
  return "evaluate" in wanted and config.evaluate.source in ("checkpoint", "best", "pretrained")


def _check_names(config: ConfigDict) -> None:
  """Before hours of describing: classes without names differ by their images alone."""
  from lafg_jax.data import datasets

  if config.language.query != "image" and datasets.super_classes(config.data) is not None:
    raise UserError(
      f"--config.language.query={config.language.query}: the classes of data.name="
      f"{config.data.name} have no names of their own; pass --config.language.query=image"
    )


def _check_batch(config: ConfigDict) -> None:
  """Before hours of encoding: the batch that training will ask for can be made."""
  available = len(_training_classes(config))
  if available < 2:
    raise UserError(
      f"{config.data.root or config.data.name} has {available} training classes, and two are "
      "needed to compare: does --config.data.root point at the right folder?"
    )
  if config.data.classes_per_batch > available and not config.data.instances:
    raise UserError(
      f"--config.data.classes_per_batch={config.data.classes_per_batch}: only {available} training "
      f"classes are available; pass {available} or less"
    )
  if config.data.recoloured_per_batch:
    from lafg_jax.data import datasets
    from lafg_jax.tasks.class_retrieval import batches

    count = datasets.num_images(config.data, "train")
    batches.check_recoloured(count, config.data.recoloured_per_batch)


def _check_evaluated(config: ConfigDict) -> None:
  """Before hours of training: there are classes to evaluate on."""
  from lafg_jax.data import datasets

  data, split = config.data, config.evaluate.split
  if datasets.class_splits(data)[split]:
    return
  remedy = f"data.name={data.name} has none here; complete it"
  if data.train_fraction == 1:
    remedy = "pass --config.data.train_fraction below 1 (now 1.0), --config.data.test_classes=FILE"
  raise UserError(
    f"no class is left for evaluate.split={split}: {remedy}, or --stage=train to only train"
  )


def _check_parameters(config: ConfigDict) -> None:
  """Before hours of encoding: the model can be made, and paths of parameters find some."""
  from lafg_jax.models import embedder

  embedder.build(config.model)
  if config.train.freeze or config.model.lora_rank:
    from lafg_jax.training import step as train_step

    train_step.check_paths(config)


def _unless_done(
  workdir: str, stage: str, key: str, outputs: Sequence[str], work: Callable[[], Any]
) -> bool:
  from lafg_jax import stages

  if not _is_done(workdir, stage, key, outputs):
    work()
    if distributed.process_index() == 0:
      stages.mark_done(workdir, stage, key, outputs)
  return True


def _is_done(workdir: str, stage: str, key: str, outputs: Sequence[str]) -> bool:
  """`stages.is_done` as process 0 finds it: all run a stage together, or none does."""
  from lafg_jax import stages

  is_done = functools.partial(stages.is_done, workdir, stage, key, outputs)
  return distributed.agree(f"stage {stage}", is_done) if stage in SHARED else is_done()


def _training_classes(config: ConfigDict) -> tuple[str, ...]:
  from lafg_jax.data import datasets

  return datasets.class_splits(config.data)["train"]


def _describe(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax.data import datasets
  from lafg_jax.language.describers import describe
  from lafg_jax.utils.files import fingerprint

  language, splits = config.language, datasets.class_splits(config.data)
  names: Sequence[str] = splits["train"]
  held_out = [name for split, others in splits.items() if split != "train" for name in others]
  super_classes = datasets.super_classes(config.data)
  variants = super_classes is not None
  if super_classes is not None:
    # A numbered item has no words; those of its super-class are all there is, and give none away.
    names, held_out = list(dict.fromkeys(super_classes)), []
  key = fingerprint(describe.inputs(language), names, held_out)
  work = lambda: describe.run(language, workdir, names, held_out, variants)  # noqa: E731
  return _unless_done(workdir, "describe", key, ["descriptions.jsonl"], work)


def _encode(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax.data import datasets
  from lafg_jax.language.encoders import images as image_features
  from lafg_jax.language.encoders import images as images_
  from lafg_jax.language.encoders import texts
  from lafg_jax.utils.files import fingerprint

  language, names = config.language, _training_classes(config)
  inputs = (texts.encoder_folder(language.encoder), Path(workdir, "descriptions.jsonl"))
  super_classes = datasets.super_classes(config.data)
  reads_images = choices.reads_images(config)
  pictures = language.query == "image" or reads_images
  options: tuple = (language.encoder, language.prompt, language.long_sentences, super_classes)
  versions = choices.recolourings(config)
  if versions:
    options = (*options, versions)
  content = datasets.content_fingerprint(config.data, "train") if pictures else None
  key = fingerprint(options, names, inputs, content)
  outputs = ["text_features.npz", *([images_.FILE] if reads_images else [])]

  def work() -> None:
    images = datasets.load_splits(config.data, ("train",))["train"] if pictures else None
    if reads_images and images is not None:
      # Before the texts: an encoder without an image tower should say so at once.
      image_features.run(language, workdir, images, versions)
    texts.run(language, workdir, names, super_classes, images)

  return _unless_done(workdir, "encode", key, outputs, work)


def _prototypes(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax.language import prototypes
  from lafg_jax.utils.files import fingerprint

  language, names = config.language, _training_classes(config)
  features = Path(workdir, "text_features.npz")
  key = fingerprint([language[name] for name in prototypes.DECIDING], names, features)
  work = lambda: prototypes.run(language, workdir, names)  # noqa: E731
  outputs = ["prototypes.npz", "prototypes_stats.json"]
  return _unless_done(workdir, "prototypes", key, outputs, work)


def _train(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax import stages
  from lafg_jax.data import datasets
  from lafg_jax.language.encoders import images as images_
  from lafg_jax.tasks.class_retrieval import teacher_features
  from lafg_jax.training import checkpoints, loop, resume
  from lafg_jax.utils.files import fingerprint

  path = Path(workdir, "prototypes.npz")
  words = choices.reads_words(config)
  reads_images = choices.reads_images(config)
  deciding = {key: config_keys.get(config, key) for key in resume.deciding_keys(config)}
  if config.data.pack:
    # Where it lies decides nothing.
    deciding["data.pack"] = True
  key = fingerprint(
    deciding,
    datasets.content_fingerprint(config.data, "train"),
    path if words else None,
    _pretrained_file(config),
    *([Path(workdir, images_.FILE)] if reads_images else []),
  )
  outputs = [os.path.join(checkpoints.FOLDER, str(config.train.steps))]
  if _is_done(workdir, "train", key, outputs):
    return True
  splits = datasets.load_splits(config.data, ("train", "val"))
  dataset = splits["train"]
  loaded = teacher_features.load(config, path, dataset) if words else None
  step, stopped = loop.run(config, workdir, dataset, loaded, splits.get("val"))
  if step == config.train.steps and distributed.process_index() == 0:
    stages.mark_done(workdir, "train", key, outputs)
  if stopped:
    logging.info(
      "stopped at step %d of %d%s; the same command goes on",
      step,
      config.train.steps,
      ", saved" if step else "",
    )
  return not stopped


def _pretrained_file(config: ConfigDict) -> Path | None:
  from lafg_jax.models.weights import files as weight_files

  path = weight_files.local(config.model.pretrained)
  return Path(path) if path else None


def _evaluate(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax.data import datasets
  from lafg_jax.evaluate import results
  from lafg_jax.tasks.class_retrieval import protocol as stage
  from lafg_jax.training import checkpoints
  from lafg_jax.utils.files import fingerprint

  source = config.evaluate.source
  reads_images = source in ("checkpoint", "best", "pretrained")
  outputs = [results.FILE, results.EMBEDDINGS] if reads_images else [results.FILE]
  if source in ("checkpoint", "best"):
    where = checkpoints.BEST if source == "best" else checkpoints.FOLDER
    newest = checkpoints.steps(workdir, where)[:1]
    inputs: list[Path | None] = [
      Path(checkpoints.folder(workdir, where), str(step), "meta", "metadata") for step in newest
    ]
  elif source == "pretrained":
    inputs = [_pretrained_file(config)]
  else:
    inputs = [Path(source)]
  key = fingerprint(
    [config.evaluate, config.model, config.seed, config.data.image_size, config.data.resize_size],
    datasets.content_fingerprint(config.data, config.evaluate.split) if reads_images else None,
    inputs,
  )
  return _unless_done(workdir, "evaluate", key, outputs, lambda: stage.run(config, workdir))


def _report(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax.report import run_page
  from lafg_jax.utils.files import fingerprint

  names = ("evaluation.json", "embeddings.npz", "metrics.jsonl", "prototypes.npz")
  key = fingerprint(
    [config.data.name, config.data.root, config.evaluate],
    [Path(workdir, name) for name in names],
  )
  work = lambda: run_page.run(config, workdir)  # noqa: E731
  return _unless_done(workdir, "report", key, [run_page.FILE, run_page.PICTURE], work)


def _inspect(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax.report import language_page
  from lafg_jax.runtime import remote_workdir
  from lafg_jax.utils.files import fingerprint

  if config.language.inspect_all:
    language_page.run_all(config, workdir)
  else:
    for make in (_describe, _encode, _prototypes):
      make(config, workdir)
    files = [Path(workdir, name) for name in language_page.INPUTS]
    key = fingerprint(config.data.name, files, language_page.TEMPLATE)
    work = lambda: language_page.run(config, workdir)  # noqa: E731
    _unless_done(workdir, "inspect", key, [language_page.FILE], work)
  print(f"\n  {remote_workdir.address(os.path.join(workdir, language_page.FILE))}")
  return True


def _data(config: ConfigDict, workdir: str) -> bool:
  from lafg_jax.report import data_page

  # Always: what has changed on the disk is what is asked about.
  data_page.run(config, workdir)
  return True


def _print_results(workdir: str) -> None:
  from lafg_jax.evaluate import results
  from lafg_jax.report import run_page
  from lafg_jax.runtime import remote_workdir

  print("\n" + results.table(results.read_result(workdir)) + "\n")
  for name in (results.FILE, run_page.FILE, run_page.PICTURE):
    path = os.path.join(workdir, name)
    if os.path.exists(path):
      print(f"  {remote_workdir.address(path)}")


if __name__ == "__main__":
  command_line.run(main, __doc__ or "")
