"""The stages of image-text retrieval: what each runs, reads and writes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config import keys
from lafg_jax.config.table.train import OF_MODELS
from lafg_jax.data import captions
from lafg_jax.evaluate import results
from lafg_jax.models.weights import files
from lafg_jax.report import image_text_page
from lafg_jax.runtime import remote_workdir
from lafg_jax.stages import Stage
from lafg_jax.tasks.image_text_retrieval import (
  batches,
  evaluation,
  methods,
  protocol,
  readings,
  stored_features,
  texts,
  train,
)
from lafg_jax.tasks.image_text_retrieval import model as models
from lafg_jax.tasks.image_text_retrieval.default import default_names
from lafg_jax.training import checkpoints, loop
from lafg_jax.utils.errors import UserError


def studied(config: ConfigDict) -> list[str]:
  """The stages of a cell of the study."""
  return [name for name in default_names(config) if name != "report"]


def figures(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """What the study keeps of a cell."""
  return protocol.figures(workdir)


def plan(config: ConfigDict, workdir: str, names: Sequence[str]) -> tuple[ConfigDict, list[Stage]]:
  """The stages to run, and the config for them, in which no 'auto' is left.

  Raises UserError for data, weights or prompts that would stop the run later.
  """
  config = methods.resolve(config)
  asked = {"train"} & {*names} and ("train", "val")
  embeds = "evaluate" in names and config.evaluate.source in OF_MODELS
  wanted = [*(asked or ()), *([config.evaluate.split] if embeds else [])]
  found = captions.load_splits(config, list(dict.fromkeys(wanted)))
  if embeds and config.evaluate.split not in found:
    raise UserError(
      f"--config.evaluate.split={config.evaluate.split}: there are no captions of it; pass "
      "--config.captions.val_fraction=0.1"
    )
  if wanted:
    # Its weights, and the room that prompts leave for captions.
    model = models.load(config)
    texts.with_room(config, model.reader)
    _check_similarity(config, model.clip)
  if asked:
    batches.order(found["train"], config.captions.batch_size, config.seed)
  every = {stage.name: stage for stage in _STAGES}
  return config, [every[name] for name in names]


def _check_similarity(config: ConfigDict, clip: Any) -> None:
  """Raises UserError for hidden states of a text tower in which a token reads those after it."""
  contextual = config.reweighting.similarity == "contextual" and methods.reweights(config)
  if contextual and not clip.text.causal:
    raise UserError(
      "--config.reweighting.similarity=contextual: it takes a CLIP, whose tokens read those before "
      f"them alone, and {config.model.pretrained} is a {clip.family}; pass context_free"
    )


def summary(config: ConfigDict, workdir: str, names: Sequence[str]) -> None:
  """Prints the figures of an evaluation, and which files to look at."""
  if "evaluate" in names:
    print("\n" + protocol.table(results.read_result(workdir)) + "\n")
  for name in (image_text_page.FILE, results.FILE, checkpoints.FOLDER):
    path = os.path.join(workdir, name)
    if os.path.exists(path):
      print(f"  {remote_workdir.address(path)}")


def weights(config: ConfigDict) -> Any:
  """The files of CLIP's weights by their content; the name of those of a hub."""
  source = config.model.pretrained
  if files.local(source) is None:
    return source
  return [Path(path) for path in files.find(source, files.WHOLE)]


def _content(config: ConfigDict, split: str) -> str | None:
  found = captions.load_splits(config, (split,)).get(split)
  return None if found is None else found.content


def _shuffle(config: ConfigDict) -> list[Any]:
  how = config.image_text.shuffle_captions
  return [how, config.seed if how != "none" else 0]


def _encode_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  drawn, of = config.captions.negatives, config.captions
  read = [methods.has_categories(config), methods.reads_tokens(config)]
  # Which view is drawn decides no string, but whether there are swaps and given ones.
  kinds = [drawn in ("views", "category"), drawn == "given", of.nearest_classes]
  return [read, kinds, _shuffle(config), _content(config, "train"), weights(config)]


def _encode(config: ConfigDict, workdir: str) -> None:
  captioned = captions.load_splits(config, ("train",))["train"]
  model = models.load(config)
  captioned = train.shuffled(config, captioned)
  stored_features.run(config, workdir, captioned, model.clip, model.params)


def _train_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  read = methods.reads_stored(config)
  return [
    keys.deciding(config, "embedding", "training"),
    bool(config.data.pack),
    _content(config, "train"),
    Path(workdir, stored_features.FILE) if read else None,
    weights(config),
  ]


def _train(config: ConfigDict, workdir: str) -> bool:
  splits = captions.load_splits(config, ("train", "val"))
  reached = train.run(config, workdir, splits["train"], splits.get("val"))
  return loop.completed(config, *reached)


def _evaluate_inputs(config: ConfigDict, workdir: str) -> list[Any]:
  source, content = config.evaluate.source, None
  read: list[Any] = [Path(source)]
  if source in OF_MODELS:
    content = _content(config, config.evaluate.split)
    read = [*checkpoints.newest_meta(workdir, checkpoints.where_of(source))]
  return [keys.deciding(config, "embedding", "evaluation"), content, read, weights(config)]


def _evaluate_outputs(config: ConfigDict) -> list[str]:
  return [results.FILE, *([results.EMBEDDINGS] if config.evaluate.source in OF_MODELS else [])]


_STAGES = (
  Stage("encode", _encode, _encode_inputs, lambda config: [stored_features.FILE]),
  Stage("train", _train, _train_inputs, loop.outputs, all_processes=True),
  Stage("evaluate", evaluation.run, _evaluate_inputs, _evaluate_outputs, all_processes=True),
  Stage("report", readings.run, readings.inputs, lambda config: [image_text_page.FILE]),
)
