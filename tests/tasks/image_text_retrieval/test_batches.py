"""Batches: every image once an epoch, the same bits however they are made, words beside images."""

import contextlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax.config import keys
from lafg_jax.data import captions
from lafg_jax.tasks.image_text_retrieval import batches, negatives
from lafg_jax.tasks.image_text_retrieval.texts import Tokens
from lafg_jax.utils.errors import UserError


def letters(texts):
  """One token a letter: 1 starts, 2 ends, 0 pads."""
  ids = [[1, *(ord(x) % 90 + 3 for x in text), 2] for text in texts]
  table = np.zeros((len(ids), max(map(len, ids))), np.int32)
  for k, row in enumerate(ids):
    table[k, : len(row)] = row
  return Tokens(table, np.array([len(row) - 1 for row in ids], np.int32), np.full_like(table, -1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """30 images of one grey each; number 4 is broken; each third has two captions."""
  root = tmp_path_factory.mktemp("images")
  lines = []
  for k in range(30):
    Image.new("RGB", (20, 16), (8 * k, 0, 0)).save(root / f"{k:02d}.png")
    for c in range(1 + (k % 3 == 0)):
      lines.append(f'{{"image": "{k:02d}.png", "caption": "elm {k} {c}", "class": "c{k % 2}"}}')
  (root / "04.png").write_bytes(b"no image")
  (root / "list.jsonl").write_text("\n".join(lines))
  return root / "list.jsonl"


@pytest.fixture
def made(files):
  """(config, pairs, tokens, drawing) of all 30 images."""
  config = ConfigDict(keys.defaults(("seed", "data", "captions", "train")).to_dict())
  config.update_from_flattened_dict({
    "captions.source": "table", "captions.file": str(files), "captions.split": "images",
    "captions.test_fraction": 0.01, "captions.batch_size": 6, "captions.negatives": "views",
    "data.image_size": 8, "data.resize_size": 9, "data.train_crop": "random_resized",
    "data.crop_scale": (0.8, 1.0), "data.flip": False, "train.steps": 12,
  })  # fmt: skip
  data = captions.load_splits(config, ["train"])["train"]
  table = negatives.build(data)
  how = negatives.Drawing(table, "views", 4, 0)
  return config, data, letters(data.captions), how


def read(made, start, steps, **share):
  config, data, words, how = made
  found = batches.train_batches(
    config, data, words, how, start_step=start, num_steps=steps, **share
  )
  with contextlib.closing(found):
    return list(found)


def test_an_epoch_shows_each_image_once_and_captions_take_turns(made):
  _, data, _, _ = made
  which = batches.order(data, 6, seed=3)
  assert which.steps_per_epoch == 5 and data.num_images == 30 and len(data.captions) == 40
  epochs = [np.concatenate([which.rows(5 * e + s) for s in range(5)]) for e in range(4)]
  for rows in epochs:
    assert sorted(data.image_of[rows]) == list(range(30))
  assert not np.array_equal(data.image_of[epochs[0]], data.image_of[epochs[1]])
  assert set(epochs[0]) | set(epochs[1]) == set(range(40)), "two epochs show all captions"
  assert set(epochs[0]) == set(epochs[2])
  left_over = batches.order(data, 7, seed=3)
  firsts = [np.concatenate([left_over.rows(4 * e + s) for s in range(4)]) for e in range(30)]
  assert all(len(set(data.image_of[rows])) == 28 for rows in firsts)
  assert set(np.concatenate(firsts)) == set(range(40)), "others are left over each time"


def test_batches_are_the_same_bits_after_a_resume_and_however_they_are_shared(made):
  whole = read(made, 0, 7)
  for one, other in zip(whole[4:], read(made, 4, 3), strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, other)
  shares = [read(made, 2, 1, num_devices=4, process_index=k, process_count=2)[0] for k in range(2)]
  joined = jax.tree.map(lambda *x: np.concatenate(x), *shares)
  assert len(joined["row"]) == 8, "6 rows, padded to a multiple of 4"
  for name, value in whole[2].items():
    np.testing.assert_array_equal(joined[name][:6], value, err_msg=name)
    np.testing.assert_array_equal(joined[name][6:], value[[0, 0]] if name != "image" else
                                  joined[name][6:])  # fmt: skip


def test_words_and_negatives_are_those_of_the_image_that_is_shown(made):
  _, data, words, how = made
  replaced = 0
  for step, batch in enumerate(read(made, 0, 10)):
    rows = batch["row"]
    assert batch["image"].shape == (6, 8, 8, 3) and batch["image"].dtype == np.uint8
    # The grey level says which image it is.
    np.testing.assert_array_equal(np.rint(batch["image"][:, 0, 0, 0] / 8), data.image_of[rows])
    assert len(set(data.image_of[rows])) == 6, "a stand-in is no image of the batch"
    np.testing.assert_array_equal(batch["tokens"], words.ids[rows])
    assert (np.take_along_axis(batch["tokens"], batch["ends"][:, None], 1) == 2).all()
    drawn = negatives.draw(how, step // 5, rows)
    np.testing.assert_array_equal(batch["negative"], drawn.string)
    np.testing.assert_array_equal(batch["negative_mask"], drawn.mask)
    np.testing.assert_array_equal(batch["category"], drawn.category)
    assert [how.table.strings[k] for k in batch["caption"]] == [data.captions[k] for k in rows]
    np.testing.assert_array_equal(batch["category"][:, 0], data.labels[rows])
    replaced += int((batch["unreadable"] >= 0).sum())
    assert 4 not in data.image_of[rows]
  assert replaced == 2, "once an epoch"


def test_an_image_without_a_stand_in_and_a_batch_that_is_too_large_are_one_line(made):
  config, data, _, _ = made
  config.captions.batch_size = 30
  with pytest.raises(UserError, match=r"04.png cannot be read, nor any image that could"):
    read(made, 0, 1)
  with pytest.raises(UserError, match=r"captions.batch_size=31: there are 30 training images"):
    batches.order(data, 31, seed=0)


def test_the_feed_names_what_a_step_shows(made):
  config, data, words, how = made
  config.captions.batch_size = 5
  feed = batches.feed(config, data, words, how.table)
  with contextlib.closing(feed.batches(10, {}, lambda: False)) as found:
    first = next(iter(found))
  rows = first["row"][:5]
  shown = [data.ids[row] for row in rows if row not in first["unreadable"]]
  assert set(shown) <= set(feed.names_in(11)) | {data.ids[k] for k in rows}
  assert feed.names_in(11) == [data.ids[k] for k in batches.order(data, 5, 0).rows(10)]
  assert feed.batch == "5 images with a caption each" and feed.names == data.ids
