"""The report stage: the page of an evaluation, and which words of captions weigh most."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import captions
from lafg_jax.data.captions import Captioned
from lafg_jax.evaluate import results
from lafg_jax.report import comparison, image_text_page
from lafg_jax.report.word_weights import Weights
from lafg_jax.tasks.image_text_retrieval import embed, methods, protocol, reweighting, texts
from lafg_jax.tasks.image_text_retrieval import model as models
from lafg_jax.training import checkpoints, metrics_log

# Captions whose words are weighed, evenly spaced.
_MOST = 512


def run(config: ConfigDict, workdir: str) -> None:
  """Writes `report.html`, and `word_weights.json` of a method that weighs words.

  Raises UserError as `image_text_page.run`.
  """
  config = methods.resolve(config)
  result, split = results.read_result(workdir), config.evaluate.split
  captioned = captions.load_splits(config, (split,))[split]
  image_text_page.check(config, workdir, result, captioned)
  weights = None
  if config.evaluate.source in ("checkpoint", "best") and methods.reweights(config):
    weights = words_of(config, _params(config, workdir), captioned)
  image_text_page.run(config, workdir, captioned, protocol.tables(result), weights)


def inputs(config: ConfigDict, workdir: str) -> list[Any]:
  """What the page depends on, for `stages.Stage`."""
  names = (results.FILE, results.EMBEDDINGS, metrics_log.FILE)
  read = [Path(workdir, name) for name in names]
  return [config.captions, config.evaluate, read, *comparison.inputs(config.evaluate.compare)]


def _params(config: ConfigDict, workdir: str) -> Any:
  where = checkpoints.where_of(config.evaluate.source)
  return checkpoints.subtree(checkpoints.require(workdir, where)[0], "state/params")


def words_of(config: ConfigDict, params: Any, captioned: Captioned, most: int = _MOST) -> Weights:
  """{row: [(word, a), ...]}: the words of some captions, weighed by their own images.

  The weights are those of training, reweighting.gamma included; in evaluation all are 1. A caption
  whose tokens are not those of its words one by one is left out.
  """
  model = models.load(config)
  rows, images = embed.sampled(config, model, params, captioned, most)
  reader = texts.with_room(config, model.reader)
  tokens = texts.tokenised(reader, [captioned.captions[row] for row in rows])
  w = embed.weights(
    config, model, params, tokens, images, texts.of_tokens(config, model, tokens.ids)
  )
  options = config.reweighting
  a = np.asarray(reweighting.scaled(w, tokens.words, options.gamma, options.raw))
  found = {}
  for row, weights, numbers in zip(rows.tolist(), a, tokens.words, strict=True):
    if words := _weighed(reader, captioned.captions[row], numbers, weights):
      found[row] = words
  return found


def _weighed(
  reader: Any, text: str, numbers: np.ndarray, weights: np.ndarray
) -> list[tuple[str, float]]:
  """The words of a caption and the weight of the tokens [L] of each."""
  parts = texts.parts(text)
  every = [number for number, of in enumerate(reader.pieces(parts)) for _ in of] if parts else []
  content = numbers >= 0
  if every[: content.sum()] != numbers[content].tolist():
    return []
  first = np.unique(numbers[content], return_index=True)[1]
  pairs = zip(numbers[content][first].tolist(), weights[content][first].tolist(), strict=True)
  return [(parts[number], a) for number, a in pairs]
