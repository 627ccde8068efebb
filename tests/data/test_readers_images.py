"""Photographs as they are found on people's disks, from a reader to a batch of training."""

import itertools

import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax.data import datasets, pipeline
from lafg_jax.tasks.class_retrieval.batches import plan
from lafg_jax.utils.errors import UserError

COLOURS = {"cmyk": (200, 40, 90), "grey": (120, 120, 120), "gif": (10, 220, 40)}


def section(root, classes, images):
  return ConfigDict(
    {
      "name": "cub",
      "root": str(root),
      "expect_counts": False,
      "num_val_classes": 0,
      "max_train_classes": 0,
    }
    | {"box_crop": False, "classes_per_batch": classes, "images_per_class": images}
    | {"image_size": 8, "resize_size": 8, "train_crop": "resize_crop", "flip": False}
    | {"num_workers": 0, "prefetch": 2, "pack": "", "scaled_decoding": True}
    | {"instances": False, "color_jitter": 0.0, "recoloured_per_batch": 0, "recolourings": 1}
  )


def spoil(paths):
  """One image each: CMYK, greyscale, an animation, turned on its side, and cut short."""
  cmyk, grey, gif, turned, cut, *_ = paths
  Image.new("RGB", (32, 32), COLOURS["cmyk"]).convert("CMYK").save(cmyk, "JPEG", quality=95)
  Image.new("L", (32, 32), 120).save(grey, "JPEG")
  frames = [Image.new("RGB", (32, 32), colour) for colour in (COLOURS["gif"], "black", "white")]
  frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
  # Stored on its side, with the tag that turns it upright: red is above blue then.
  upright = np.zeros((32, 32, 3), np.uint8)
  upright[:16, :, 0], upright[16:, :, 2] = 255, 255
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(np.rot90(upright).copy()).save(turned, "JPEG", quality=95, exif=exif)
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  Image.fromarray(noise).save(cut, "JPEG")
  cut.write_bytes(cut.read_bytes()[:900])


def test_odd_photographs_are_shown_and_a_truncated_one_is_replaced(trees, tmp_path):
  root = trees.cub(tmp_path, classes=(1, 2, 101), per_class=6)
  data = section(root, classes=2, images=6)
  train = datasets.load_splits(data)["train"]
  spoil([tmp_path / image_id for image_id in train.ids[:6]])
  batch = next(
    pipeline.train_batches(train, data, plan(train, data, 0), seed=0, start_step=0, num_steps=1)
  )
  shown = {}
  for image, index, unreadable in zip(
    batch["image"], batch["index"], batch["unreadable"], strict=True
  ):
    shown[int(index) if unreadable < 0 else (int(unreadable), int(index))] = image.astype(int)
  for row, colour in zip((0, 1, 2), COLOURS.values(), strict=True):
    assert np.abs(shown[row] - colour).max() <= 6
  assert shown[3][:3, :, 0].min() > 200 and shown[3][:3, :, 2].max() < 60
  assert shown[3][5:, :, 2].min() > 200 and shown[3][5:, :, 0].max() < 60
  # The truncated image is told, and the next of its class stands in.
  assert (4, 5) in shown and 4 not in shown


def test_a_class_without_any_readable_image_is_one_line(trees, tmp_path):
  root = trees.cub(tmp_path, classes=(1, 2, 101), per_class=2)
  data = section(root, classes=2, images=2)
  train = datasets.load_splits(data)["train"]
  for image_id in train.ids[:2]:
    (tmp_path / image_id).write_bytes(b"<html>not found</html>")
  with pytest.raises(UserError, match="no image of class 'Black footed Albatross' can be read"):
    next(
      pipeline.train_batches(train, data, plan(train, data, 0), seed=0, start_step=0, num_steps=1)
    )


def test_a_class_with_fewer_than_m_images_repeats_them_and_is_counted(trees, tmp_path, monkeypatch):
  root = trees.cub(tmp_path, classes=(1, 2, 101), per_class=5)
  for image in sorted((tmp_path / "images/002.Laysan_Albatross").iterdir())[2:]:
    image.unlink()
  data = section(root, classes=2, images=5)
  train = datasets.load_splits(data)["train"]
  told = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: told.append(text % args))
  batch = next(
    pipeline.train_batches(train, data, plan(train, data, 0), seed=0, start_step=0, num_steps=1)
  )
  assert told == [
    "1 of 2 classes have fewer than data.images_per_class=5 images: theirs repeat in a batch"
  ]
  rows = [batch["index"][batch["label"] == label].tolist() for label in (0, 1)]
  assert sorted(rows[0]) == [0, 1, 2, 3, 4]
  counts = [len(list(same)) for _, same in itertools.groupby(sorted(rows[1]))]
  assert sorted(counts) == [2, 3] and set(rows[1]) == {5, 6}
