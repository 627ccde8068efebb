"""What a run reads from elsewhere, looked for before its first stage: weights, models, files."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config.table.train import OF_MODELS
from lafg_jax.language import descriptions
from lafg_jax.language.describers import chat, endpoint, local_llm
from lafg_jax.language.encoders import runtimes
from lafg_jax.models.weights import files, resolve
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import UserError


def resolved(config: ConfigDict, workdir: str, names: Sequence[str], describes: bool) -> ConfigDict:
  """The config without 'auto', once everything that the stages `names` read has been found.

  Weights of the backbone are downloaded; of other models only their being there is asked.
  `describes` says whether the describe stage will run and not be skipped.

  Raises:
    UserError: something is missing or cannot be used; one line names all of it.
  """
  recorded = checkpoints.recorded_config(workdir)
  trains = "train" in names
  problems: list[str] = []

  def attempt(function: Callable[..., Any], *args: Any) -> Any:
    try:
      return function(*args)
    except UserError as error:
      problems.append(str(error))

  found = None
  if trains or ("evaluate" in names and config.evaluate.source in OF_MODELS):
    found = attempt(resolve.resolve, config, recorded)
  # A run that goes on has its weights in the checkpoint.
  if found and trains and config.model.pretrained and not recorded:
    attempt(files.find, config.model.pretrained)
  for check, value in _of_language(config.language, names, describes):
    attempt(check, value)
  if problems:
    several = f"{len(problems)} things that this run reads cannot be had: "
    numbered = "; ".join(f"({i}) {problem}" for i, problem in enumerate(problems, 1))
    raise UserError(problems[0] if len(problems) == 1 else several + numbered)
  return found or config


def _of_language(
  language: Any, names: Sequence[str], describes: bool
) -> list[tuple[Callable[[Any], Any], Any]]:
  """Functions that raise UserError for what is missing, each with its argument."""
  found: list[tuple[Callable[[Any], Any], Any]] = []
  # A skeleton is a file that is to be written.
  describes = describes and language.describer != "skeleton"
  written = language.descriptions or language.describer == "file"
  asks = describes and not written and language.describer in ("transformers", "openai")
  if "encode" in names or (asks and language.num_neighbours and not language.neighbours):
    found.append(
      (functools.partial(runtimes.check, asked=language.encoder_runtime), language.encoder)
    )
  if describes and written:
    found.append((descriptions.read_file, language.descriptions))
  if asks:
    check = local_llm.check if language.describer == "transformers" else endpoint.check
    found.append((check, chat.of_language(language)))
  return found
