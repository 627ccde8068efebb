"""Batches against the sampler and the crops called directly, with workers and without."""

import gc
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax.data import images, pipeline, sampling
from lafg_jax.data.datasets import Dataset
from lafg_jax.tasks.class_retrieval import batches
from lafg_jax.utils.errors import UserError

REPOSITORY = Path(__file__).parents[2]


def section(**changes):
  return ConfigDict(
    {
      "image_size": 16,
      "resize_size": 20,
      "pad": "none",
      "train_crop": "random_resized",
      "crop_scale": (0.2, 1.0),
      "crop_ratio": (0.75, 4 / 3),
      "flip": True,
      "color_jitter": 0.0,
      "instances": False,
      "recoloured_per_batch": 0,
      "recolourings": 3,
      "classes_per_batch": 3,
      "images_per_class": 2,
      "scaled_decoding": True,
      "pack": "",
      "num_workers": 0,
      "prefetch": 2,
      **changes,
    }
  )


def array_dataset(num_classes=4, per_class=5):
  labels = np.tile(np.arange(num_classes, dtype=np.int32), per_class)
  pixels = np.random.default_rng(0).integers(0, 255, (len(labels), 24, 28, 3), np.uint8)
  names = tuple(f"class {k}" for k in range(num_classes))
  ids = tuple(f"synthetic/train/{k:06d}" for k in range(len(labels)))
  return Dataset("synthetic", "train", pixels, labels, names, ids)


@pytest.fixture
def file_dataset(tmp_path):
  arrays = array_dataset()
  paths = [tmp_path / f"{k}.png" for k in range(len(arrays))]
  for path, pixels in zip(paths, arrays.images, strict=True):
    Image.fromarray(pixels).save(path)
  ids = tuple(path.name for path in paths)
  names = np.array([str(path) for path in paths])
  return Dataset("cars", "train", names, arrays.labels, arrays.class_names, ids)


def train(dataset, data, **changes):
  arguments = {"seed": 7, "start_step": 0, "num_steps": 4, **changes}
  plan = batches.plan(dataset, data, arguments["seed"])
  return list(pipeline.train_batches(dataset, data, plan, **arguments))


def assert_same(made, expected):
  assert len(made) == len(expected)
  for got, want in zip(made, expected, strict=True):
    assert got.keys() == want.keys()
    for key in want:
      assert got[key].dtype == want[key].dtype
      np.testing.assert_array_equal(got[key], want[key], err_msg=key)


def test_batches_are_the_samplers_rows_cropped_with_the_seed_of_their_row():
  dataset, data = array_dataset(), section()
  batch_rows = sampling.make_sampler(
    dataset.labels, classes_per_batch=3, images_per_class=2, seed=7
  )
  made = train(dataset, data)
  assert len(made) == 4
  for step, batch in enumerate(made):
    rows = batch_rows(step).reshape(-1)
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
      "image": ((6, 16, 16, 3), np.uint8),
      "label": ((6,), np.int32),
      "index": ((6,), np.int32),
      "unreadable": ((6,), np.int32),
    }
    np.testing.assert_array_equal(batch["index"], rows)
    np.testing.assert_array_equal(batch["label"], dataset.labels[rows])
    assert (batch["unreadable"] == -1).all()
    for k, row in enumerate(rows):
      rng = np.random.default_rng([7, step, k])
      crop = images.random_resized_crop(dataset.images[row], rng, 16, (0.2, 1.0), (0.75, 4 / 3))
      np.testing.assert_array_equal(batch["image"][k], images.flip(crop, rng))


def test_resize_crop_without_flip():
  dataset = array_dataset()
  (batch,) = train(dataset, section(train_crop="resize_crop", flip=False), num_steps=1)
  for k, row in enumerate(batch["index"]):
    rng = np.random.default_rng([7, 0, k])
    expected = images.resize_random_crop(dataset.images[row], rng, 20, 16)
    np.testing.assert_array_equal(batch["image"][k], expected)


def test_resuming_prefetching_and_files_do_not_change_batches(file_dataset):
  unbroken = train(array_dataset(), section())
  assert_same(train(array_dataset(), section(), start_step=2, num_steps=2), unbroken[2:])
  assert_same(train(array_dataset(), section(prefetch=0)), unbroken)
  assert_same(train(file_dataset, section(prefetch=7)), unbroken)
  assert not np.array_equal(
    train(array_dataset(), section(), seed=8)[0]["image"], unbroken[0]["image"]
  )


@pytest.mark.parametrize(("devices", "processes"), [(1, 1), (4, 1), (4, 2), (5, 5), (16, 4)])
def test_shares_of_the_processes_make_up_the_padded_global_batch(devices, processes):
  dataset, data = array_dataset(), section()
  whole = train(dataset, data, num_steps=2)
  shares = [
    train(
      dataset,
      data,
      num_steps=2,
      num_devices=devices,
      process_index=process,
      process_count=processes,
    )
    for process in range(processes)
  ]
  for step, batch in enumerate(whole):
    for key, value in batch.items():
      joined = np.concatenate([share[step][key] for share in shares])
      assert len(joined) == -(-6 // devices) * devices
      np.testing.assert_array_equal(joined[:6], value)
      np.testing.assert_array_equal(joined[6:], np.repeat(value[:1], len(joined) - 6, axis=0))


def test_unreadable_images_are_replaced_within_their_class(file_dataset):
  good = train(file_dataset, section())
  # Class 1 holds rows 1, 5, 9, 13, 17: 9 and 13 go, so that 9, 13 -> 17; class 2 loses its last.
  stand_in = {9: 17, 13: 17, 18: 2}
  Path(file_dataset.images[9]).write_bytes(b"no image")
  Path(file_dataset.images[13]).unlink()
  Path(file_dataset.images[18]).write_bytes(b"")
  replaced = 0
  for got, want in zip(train(file_dataset, section()), good, strict=True):
    np.testing.assert_array_equal(got["label"], want["label"])
    for k, row in enumerate(want["index"].tolist()):
      assert got["index"][k] == stand_in.get(row, row)
      assert got["unreadable"][k] == (row if row in stand_in else -1)
      same = np.array_equal(got["image"][k], want["image"][k])
      assert same == (row not in stand_in)
      replaced += row in stand_in
  assert replaced > 0


def test_the_last_readable_image_of_a_class_stands_in_for_all(file_dataset):
  for path in file_dataset.images[6::4]:
    Path(path).unlink()
  for batch in train(file_dataset, section()):
    of_class_2 = batch["label"] == 2
    assert (batch["index"][of_class_2] == 2).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_class_without_readable_images_is_one_line(file_dataset, workers):
  for path in file_dataset.images[2::4]:
    Path(path).unlink()
  data = section(classes_per_batch=4, num_workers=workers)
  with pytest.raises(
    UserError, match="no image of class 'class 2' can be read, e.g. .*png"
  ) as error:
    train(file_dataset, data)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_any_plan_is_shown_with_its_labels_changes_and_stand_ins(file_dataset, workers):
  def rows(step):
    row = np.array([3, 4, 5, 6]) + step
    return sampling.Rows(row, 10 * row, np.array([-1, 0, -1, 2]))

  def stand_ins(wanted, place):
    return iter([0, 19 - place])

  def change(pixels, row, version):
    return pixels // (row + version + 1)

  plan = sampling.Plan(rows, stand_ins, change, versions=4)
  for row in (0, 4, 6):
    Path(file_dataset.images[row]).unlink()
  data = section(train_crop="resize_crop", num_workers=workers)
  made = list(pipeline.train_batches(file_dataset, data, plan, seed=7, start_step=1, num_steps=2))
  for step, batch in enumerate(made, start=1):
    wanted = rows(step)
    np.testing.assert_array_equal(batch["label"], wanted.label)
    for place, (row, version) in enumerate(zip(wanted.row, wanted.version, strict=True)):
      shown = 19 - place if row in (4, 6) else row
      rng = np.random.default_rng([7, step, place])
      pixels = images.flip(
        images.resize_random_crop(array_dataset().images[shown], rng, 20, 16), rng
      )
      pixels = pixels if version < 0 else pixels // (shown + version + 1)
      np.testing.assert_array_equal(batch["image"][place], pixels)
      assert batch["index"][place] == (shown if version < 0 else 4 * shown + version)
      assert batch["unreadable"][place] == (row if row in (4, 6) else -1)


def test_eval_batches_show_all_images_once_in_order(file_dataset):
  for dataset in (array_dataset(), file_dataset):
    made = list(pipeline.eval_batches(dataset, section(), 8))
    assert [batch["image"].shape for batch in made] == [(8, 16, 16, 3)] * 3
    index = np.concatenate([batch["index"] for batch in made])
    assert index.dtype == np.int32
    assert index.tolist() == [*range(20), -1, -1, -1, -1]
    pixels = np.concatenate([batch["image"] for batch in made])
    assert not pixels[20:].any()
    for row, original in enumerate(array_dataset().images):
      np.testing.assert_array_equal(pixels[row], images.resize_centre_crop(original, 20, 16))
    assert all((batch["unreadable"] == -1).all() for batch in made)


def test_eval_batches_report_unreadable_images(file_dataset):
  Path(file_dataset.images[3]).unlink()
  Path(file_dataset.images[19]).write_bytes(b"\xff\xd8\xff")
  (batch,) = pipeline.eval_batches(file_dataset, section(), 20)
  missing = [3, 19]
  expected = np.arange(20)
  expected[missing] = -1
  np.testing.assert_array_equal(batch["index"], expected)
  assert batch["unreadable"][missing].tolist() == missing
  assert (np.delete(batch["unreadable"], missing) == -1).all()
  assert not batch["image"][missing].any()


def test_impossible_settings_are_one_line():
  dataset = array_dataset()
  for changes, said in (
    ({"train_crop": "resize"}, r"data\.train_crop='resize'"),
    ({"train_crop": "resize_crop", "resize_size": 15}, r"data\.resize_size=15"),
    ({"classes_per_batch": 5}, r"data\.classes_per_batch=5"),
    ({"num_workers": -1}, r"data\.num_workers=-1"),
    ({"prefetch": -2}, r"data\.prefetch=-2"),
  ):
    with pytest.raises(UserError, match=said) as error:
      train(dataset, section(**changes))
    assert "\n" not in str(error.value)
  with pytest.raises(UserError, match=r"data\.resize_size=15"):
    pipeline.eval_batches(dataset, section(resize_size=15), 4)


def workers():
  return [child for child in multiprocessing.active_children() if child.name == "lafg_jax-data"]


@pytest.fixture
def unparsed_flags():
  """absl as it is in a notebook, where nobody has parsed a command line."""
  was_parsed = flags.FLAGS.is_parsed()
  flags.FLAGS.unparse_flags()
  for name in flags.FLAGS:
    flags.FLAGS[name].present = 0
  yield
  if was_parsed:
    flags.FLAGS.mark_as_parsed()


def test_workers_give_the_same_bits_without_parsed_flags_and_end(file_dataset, unparsed_flags):
  expected = train(file_dataset, section(), num_steps=5)
  assert_same(train(file_dataset, section(num_workers=2), num_steps=5), expected)
  assert not flags.FLAGS.is_parsed(), "other programs' flags stay as they were"

  eval_inline = list(pipeline.eval_batches(file_dataset, section(), 8))
  assert_same(list(pipeline.eval_batches(file_dataset, section(num_workers=1), 8)), eval_inline)
  assert not workers()


def test_closing_or_dropping_the_iterator_ends_the_workers(file_dataset):
  data = section(num_workers=1)
  plan, forever = batches.plan(file_dataset, data, 0), {"start_step": 0, "num_steps": 10**6}
  closed = pipeline.train_batches(file_dataset, data, plan, seed=0, **forever)
  next(closed)
  assert len(workers()) == 1
  closed.close()
  assert not workers()
  assert next(closed, None) is None

  dropped = pipeline.train_batches(file_dataset, data, plan, seed=0, **forever)
  next(dropped)
  assert len(workers()) == 1
  del dropped
  gc.collect()
  assert not workers()


def test_jax_is_not_used_here_and_datasets_import_nothing_heavy():
  code = (
    "import sys, lafg_jax.data.datasets, lafg_jax.data.sampling\n"
    "print([m for m in ('jax', 'scipy', 'grain', 'torch', 'PIL') if m in sys.modules])"
  )
  got = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
  )
  assert got.stdout.strip() == "[]"
  for name in ("datasets", "sampling", "images", "pipeline"):
    assert "import jax" not in (REPOSITORY / f"lafg_jax/data/{name}.py").read_text()


def test_jitter_changes_colours_and_nothing_of_crop_and_flip():
  dataset = array_dataset()
  plain, other = (train(dataset, section(color_jitter=x), num_steps=1)[0] for x in (0.0, 0.8))
  assert (plain["image"] != other["image"]).any(axis=(1, 2, 3)).all()
  for one, two in zip(plain["image"], other["image"], strict=True):
    # Brightness at the same places: lumas go together.
    lumas = [x.astype(float).mean(axis=2).ravel() for x in (one, two)]
    assert np.corrcoef(*lumas)[0, 1] > 0.5
