"""Batches of image-text retrieval: images of the whole training set, each with one caption.

An epoch shows each image once, in an order of its own; of an image with several captions, epoch
after epoch takes the next one. The n % B images left over differ from epoch to epoch. A batch is a
pure function of (seed, step): a resume, and another number of processes, change no bit.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import captions, pipeline, sampling
from lafg_jax.data.captions import Captioned
from lafg_jax.tasks.image_text_retrieval import negatives
from lafg_jax.tasks.image_text_retrieval.texts import Tokens
from lafg_jax.training import loop
from lafg_jax.utils import random_streams
from lafg_jax.utils.errors import UserError

Batch = dict[str, np.ndarray]


class Order(NamedTuple):
  """Which rows a step shows."""

  rows: Any  # step -> int64 [B]
  steps_per_epoch: int


def order(captioned: Captioned, batch_size: int, seed: int) -> Order:
  """The rows of each step: B = `batch_size` distinct images of an epoch's permutation.

  Raises UserError where there are fewer images than B.
  """
  of_image = np.split(
    np.argsort(captioned.image_of, kind="stable"), np.cumsum(np.bincount(captioned.image_of))[:-1]
  )
  num = len(of_image)
  if batch_size > num:
    raise UserError(
      f"--config.captions.batch_size={batch_size}: there are {num:,} training images; pass {num} "
      "or less"
    )
  steps = num // batch_size

  def rows(step: int) -> np.ndarray:
    epoch, place = divmod(int(step), steps)
    chosen = random_streams.image_order(seed, epoch).permutation(num)
    chosen = chosen[place * batch_size : (place + 1) * batch_size]
    return np.array([of_image[k][epoch % len(of_image[k])] for k in chosen.tolist()], np.int64)

  return Order(rows, steps)


def plan(captioned: Captioned, which: Order) -> sampling.Plan:
  """The images of each batch, for `pipeline.train_batches`.

  An image that the batch does not show replaces one that cannot be read, with its own caption.
  """

  def rows(step: int) -> sampling.Rows:
    shown = which.rows(step)
    return sampling.Rows(shown, captioned.labels[shown], np.full(len(shown), -1))

  def stand_ins(wanted: sampling.Rows, place: int) -> Iterator[int]:
    # Dealt out to the places in turn: no two find the same one, whatever another process reads.
    shown = set(captioned.image_of[wanted.row].tolist())
    firsts = captions.one_per_image(captioned)
    free = firsts[[int(captioned.image_of[row]) not in shown for row in firsts]]
    mine = free[place :: len(wanted.row)]
    row = int(wanted.row[place])
    yield from np.roll(mine, -int(np.searchsorted(mine, row))).tolist()
    raise UserError(
      f"{captioned.ids[row]} cannot be read, nor any image that could take its place, of those "
      "outside of a batch: fetch it again, or pass a smaller --config.captions.batch_size"
    )

  return sampling.Plan(rows, stand_ins, _unchanged, 1)


def _unchanged(pixels: np.ndarray, row: int, version: int) -> np.ndarray:
  del row, version
  return pixels


def train_batches(
  config: ConfigDict,
  captioned: Captioned,
  words: Tokens,
  how: negatives.Drawing,
  *,
  start_step: int,
  **shared: int,
) -> Iterator[Batch]:
  """Yields this process's share of the batches from `start_step` on: b rows each.

  `start_step` and `shared` are as `loop.share` has them. Of B rows, captions.batch_size, padded and
  shared as `pipeline.train_batches` does:
    image: uint8 [b, S, S, 3], cropped as the section data says.
    row: int32 [b], of `captioned`; of the image that is shown, also where it is a stand-in.
    tokens: int32 [b, L], its caption, and ends: int32 [b], the place of the end token.
    caption: int32 [b], the number of its caption: equal captions are positives of each other.
    negative, category: int32 [b, 1 + K], and negative_mask: bool [b, 1 + K] (`negatives.Drawn`).
    unreadable: int32 [b], the row that was planned and cannot be read, else -1.

  The iterator has close(). Raises UserError as `order`, `plan` and the pipeline do.
  """
  which = order(captioned, config.captions.batch_size, config.seed)
  images = pipeline.train_batches(
    captions.as_dataset(captioned),
    config.data,
    plan(captioned, which),
    seed=config.seed,
    start_step=start_step,
    **shared,
  )
  return _with_words(images, words, how, which, start_step)


def _with_words(
  images: Any, words: Tokens, how: negatives.Drawing, which: Order, start_step: int
) -> Iterator[Batch]:
  with contextlib.closing(images):
    for step, batch in enumerate(images, start_step):
      rows = batch["index"]
      drawn = negatives.draw(how, step // which.steps_per_epoch, rows)
      yield {
        "image": batch["image"],
        "row": rows,
        "tokens": words.ids[rows],
        "ends": words.ends[rows],
        "caption": how.table.own[rows],
        "negative": drawn.string,
        "negative_mask": drawn.mask,
        "category": drawn.category,
        "unreadable": batch["unreadable"],
      }


def feed(
  config: ConfigDict, captioned: Captioned, words: Tokens, table: negatives.Table
) -> loop.Feed:
  """The batches of a run for the shared loop."""
  section, which = config.captions, order(captioned, config.captions.batch_size, config.seed)
  how = negatives.Drawing(table, section.negatives, section.num_negatives, config.seed)

  def batches(start: int, params: dict[str, Any], stopped: Any) -> Iterator[Batch]:
    del params, stopped
    return train_batches(config, captioned, words, how, **loop.share(config, start))

  def names_in(step: int) -> list[str]:
    return [captioned.ids[row] for row in which.rows(step - 1)]

  return loop.Feed(
    batches, f"{section.batch_size} images with a caption each", captioned.ids, names_in
  )
