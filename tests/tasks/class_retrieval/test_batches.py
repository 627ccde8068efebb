"""What batches of class retrieval show: classes, recoloured images, and images as classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import folder, synthetic
from lafg_jax.data import colours, pipeline, sampling
from lafg_jax.data.datasets import Dataset
from lafg_jax.tasks.class_retrieval import batches
from lafg_jax.utils.errors import UserError


def section(**changes):
  data = synthetic.get_config().data
  data.update(
    {"image_size": 16, "resize_size": 20, "classes_per_batch": 3, "images_per_class": 2}
    | {"recoloured_per_batch": 0, "recolourings": 3, "color_jitter": 0.0}
    | changes
  )
  return data


@pytest.fixture
def dataset():
  labels = np.tile(np.arange(4, dtype=np.int32), 5)
  pixels = np.random.default_rng(0).integers(0, 255, (len(labels), 24, 28, 3), np.uint8)
  ids = tuple(f"{k}.png" for k in range(len(labels)))
  return Dataset("cars", "train", pixels, labels, ("a", "b", "c", "d"), ids)


@pytest.fixture
def files(dataset, tmp_path):
  """The same images in files."""
  paths = [tmp_path / name for name in dataset.ids]
  for path, pixels in zip(paths, dataset.images, strict=True):
    Image.fromarray(pixels).save(path)
  names = np.array([str(path) for path in paths])
  return Dataset("cars", "train", names, dataset.labels, dataset.class_names, dataset.ids)


@pytest.mark.parametrize(
  ("counts", "changes", "batch"),
  [
    ([40] * 30, {}, (16, 8)),
    ([40] * 15, {}, (15, 8)),
    ([40] * 2, {}, (2, 8)),
    ([1] * 9, {}, (9, 2)),
    ([3] * 100, {}, (42, 3)),
    # The median is of classes.
    ([1, 1, 5, 500, 500], {}, (5, 5)),
    ([40] * 100, {"images_per_class": 4}, (32, 4)),
    ([40] * 100, {"images_per_class": 200}, (2, 200)),
    ([40] * 100, {"classes_per_batch": 10}, (10, 8)),
    ([40] * 3, {"classes_per_batch": 2, "images_per_class": 9}, (2, 9)),
    ([4] * 10, {"instances": True}, (40, 2)),
  ],
)
def test_a_batch_that_is_auto_follows_the_training_classes(counts, changes, batch, monkeypatch):
  labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
  names = tuple(f"class {k}" for k in range(len(counts)))
  ids = tuple(map(str, range(len(labels))))
  read = {"train": Dataset("folder", "train", ids, labels, names, ids)}
  monkeypatch.setattr(batches.datasets, "load_splits", lambda data, splits: read)
  config = folder.get_config("scratch")
  config.data.update(changes)
  data = batches.resolve(config).data
  assert (data.classes_per_batch, data.images_per_class) == batch
  assert batches.resolve(batches.resolve(config)).data.to_dict() == data.to_dict()
  sampler = sampling.make_sampler(
    np.arange(len(labels)) if data.instances else labels,
    classes_per_batch=batch[0],
    images_per_class=batch[1],
    seed=0,
    instances=data.instances,
  )
  assert sampler(0).shape == batch[::-1]


def train(dataset, data, **changes):
  arguments = {"seed": 7, "start_step": 0, "num_steps": 4, **changes}
  plan = batches.plan(dataset, data, arguments["seed"])
  return list(pipeline.train_batches(dataset, data, plan, **arguments))


def test_of_instances_each_column_is_one_image_in_several_crops(dataset, monkeypatch):
  warned = []
  monkeypatch.setattr(sampling.logging, "warning", lambda *args: warned.append(args))
  data = section(instances=True, classes_per_batch=7, images_per_class=3, color_jitter=0.5)
  made = train(dataset, data, num_steps=len(dataset) // 7)
  for batch in made:
    rows = batch["index"].reshape(3, 7)
    assert (rows == rows[0]).all() and len(set(rows[0])) == 7
    np.testing.assert_array_equal(batch["label"], batch["index"])
    shown = batch["image"].reshape(3, 7, -1)
    assert all((shown[a] != shown[b]).any(axis=1).all() for a, b in ((0, 1), (0, 2), (1, 2)))
  seen = np.concatenate([batch["index"][:7] for batch in made])
  assert len(set(seen)) == len(seen)
  assert not warned


@pytest.mark.parametrize("processes", [1, 2])
def test_of_instances_a_stand_in_is_of_no_other_column(files, processes):
  data = section(instances=True, classes_per_batch=6, images_per_class=3, recoloured_per_batch=2)
  whole = train(files, data, num_steps=9, num_devices=2)
  for row in (1, 2, 5, 9):
    Path(files.images[row]).unlink()
  shares = [
    train(files, data, num_steps=9, num_devices=2, process_index=k, process_count=processes)
    for k in range(processes)
  ]
  for before, *parts in zip(whole, *shares, strict=True):
    batch = {key: np.concatenate([part[key] for part in parts]) for key in before}
    # Labels and what was wanted are those of the images that can be read.
    np.testing.assert_array_equal(batch["label"], before["label"])
    replaced = batch["unreadable"] >= 0
    np.testing.assert_array_equal(
      batch["unreadable"][replaced],
      (before["index"] // np.where(before["label"] < 0, 3, 1))[replaced],
    )
    shown = batch["index"][:18].reshape(3, 6)
    assert (shown == shown[0]).all(), "one image in all slots of a column"
    assert len(set(shown[0])) == 6, "and in no other column"
    assert not set(shown[0]) & {1, 2, 5, 9}
    stands_in = set(shown[0][replaced[:6]])
    assert not stands_in & set(before["index"][:6])
  assert any((batch["unreadable"][:18] >= 0).any() for batch in shares[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_of_instances_without_an_image_to_stand_in_is_one_line(files, workers):
  Path(files.images[3]).unlink()
  data = section(instances=True, classes_per_batch=20, num_workers=workers)
  with pytest.raises(UserError, match="^3.png cannot be read, .*classes_per_batch") as error:
    train(files, data)
  assert "\n" not in str(error.value)


def test_recoloured_images_stand_behind_those_of_classes(dataset):
  plain = section(flip=False, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
  data = plain.copy_and_resolve_references()
  data.recoloured_per_batch = 5
  drawn = set()
  for step, (batch, alone) in enumerate(
    zip(train(dataset, data), train(dataset, plain), strict=True)
  ):
    for key, rows in alone.items():
      np.testing.assert_array_equal(batch[key][:6], rows)
    assert batch["image"].shape == (11, 16, 16, 3) and (batch["label"][6:] == -1).all()
    rows, versions = np.divmod(batch["index"][6:], 3)
    assert len(set(rows)) == 5 and rows.max() < len(dataset)
    drawn |= set(zip(rows.tolist(), versions.tolist(), strict=True))
    for place, (row, version) in enumerate(zip(rows, versions, strict=True), start=6):
      rng = np.random.default_rng([7, step, place])
      crop = pipeline._augmentation(data)(Image.fromarray(dataset.images[row]), rng)
      wanted = colours.recoloured(crop, int(row), int(version))
      np.testing.assert_array_equal(batch["image"][place], wanted)
      assert np.abs(wanted.astype(int) - crop).mean() > 5
  assert len({row for row, _ in drawn}) > 5 and {version for _, version in drawn} == {0, 1, 2}


def test_processes_share_recoloured_images_too(dataset):
  data = section(recoloured_per_batch=5)
  whole = train(dataset, data, num_devices=4)
  parts = [train(dataset, data, num_devices=4, process_index=k, process_count=2) for k in range(2)]
  for batch, *shares in zip(whole, *parts, strict=True):
    assert len(batch["image"]) == 12
    for key, rows in batch.items():
      np.testing.assert_array_equal(np.concatenate([share[key] for share in shares]), rows)


def test_more_recoloured_images_than_there_are_is_one_line(dataset):
  data = section(recoloured_per_batch=21)
  with pytest.raises(UserError, match="there are 20 training images.*=20 or less"):
    train(dataset, data)
