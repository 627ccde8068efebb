"""Batches of the training of Phi: rows of a corpus, each once an epoch, in an order of its own.

A batch is a pure function of (seed, step): a resume, and another number of processes, change no
bit.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import sampling
from lafg_jax.tasks.composed_retrieval import concepts as words_of
from lafg_jax.tasks.composed_retrieval import inversion, pseudo_words
from lafg_jax.tasks.composed_retrieval.concepts import Concepts
from lafg_jax.tasks.composed_retrieval.corpus import Corpus
from lafg_jax.training import loop
from lafg_jax.utils import random_streams

Batch = dict[str, np.ndarray]
# More phrases are not all measured: their batches are as long as the context.
_MEASURED = 100_000


def rows_of(step: int, count: int, batch_size: int, seed: int) -> tuple[int, np.ndarray]:
  """The epoch of a step, and its B distinct rows out of `count`, at least B."""
  epoch, place = divmod(step, count // batch_size)
  order = _order(seed, epoch, count)
  return epoch, order[place * batch_size : (place + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
  return random_streams.image_order(seed, epoch).permutation(count)


def length_of(reader: Any, concepts: Concepts) -> int:
  """Tokens that each phrase about a concept fits in: a multiple of 16, or the context."""
  if sum(map(len, concepts.phrases)) > _MEASURED:
    return int(reader.context)
  every = zip(concepts.names, concepts.phrases, strict=True)
  said = [before + name + after for name, phrases in every for before, after in phrases]
  # A pseudo word may take a token more than the word that it stands for.
  longest = max([*reader.lengths(said), *reader.lengths([pseudo_words.PLAIN])]) + 1
  return int(min(-(-longest // 16) * 16, reader.context))


def feed(
  config: ConfigDict,
  reader: Any,
  count: int,
  names: Callable[[], tuple[str, ...]],
  corpus: Callable[[], Corpus],
) -> loop.Feed:
  """The batches of a run for the shared loop; `corpus` is asked when the first is made."""
  mapping = config.mapping

  def batches(start: int, params: dict[str, Any], stopped: Any) -> Iterator[Batch]:
    del params, stopped
    return _batches(config, reader, count, corpus(), **loop.share(config, start))

  def names_in(step: int) -> list[str]:
    named = names()
    return [named[row] for row in rows_of(step - 1, count, mapping.batch_size, config.seed)[1]]

  unit = "texts" if mapping.method == "lincir" else "images"
  return loop.Feed(batches, f"{mapping.batch_size} {unit}", names(), names_in, unit)


def _batches(
  config: ConfigDict,
  reader: Any,
  count: int,
  corpus: Corpus,
  *,
  start_step: int,
  num_steps: int,
  num_devices: int,
  process_index: int,
  process_count: int,
) -> Iterator[Batch]:
  size = config.mapping.batch_size
  mine = sampling.process_rows(size, num_devices, process_index, process_count)
  searle = config.mapping.method == "searle"
  length = length_of(reader, corpus.concepts) if searle else 0
  for step in range(start_step, start_step + num_steps):
    epoch, rows = rows_of(step, count, size, config.seed)
    if searle:
      yield _with_phrases(config.seed, reader, corpus, step, rows, mine, length)
    elif config.mapping.method == "pic2word":
      views = corpus.arrays["feature"]
      shown = rows[mine]
      yield {"feature": views[shown, epoch % views.shape[1]], "row": shown.astype(np.int32)}
    else:
      yield {name: x[rows[mine]] for name, x in corpus.arrays.items()}


def _with_phrases(
  seed: int, reader: Any, corpus: Corpus, step: int, rows: np.ndarray, mine: np.ndarray, length: int
) -> Batch:
  """Features and inversions, and a phrase about a concept of each image, changed and plain."""
  near = corpus.arrays["near"][rows]
  drawn = words_of.draw(corpus.concepts, near, random_streams.concept_phrases(seed, step))
  changed, plain = (
    pseudo_words.widened(of, length, reader.pad)
    for of in inversion.tokens_of(reader, [drawn[row] for row in mine])
  )
  return {
    "feature": corpus.arrays["feature"][rows[mine]],
    "inverted": corpus.arrays["inverted"][rows[mine]],
    **changed._asdict(),
    "plain": plain.ids,
    "plain_ends": plain.ends,
  }
