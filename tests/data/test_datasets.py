"""Stanford Cars from generated and real copies of its layout; the synthetic set by contract."""

import collections
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict
from PIL import Image
from scipy.io import savemat

from lafg_jax.data import datasets
from lafg_jax.data.readers import cars
from lafg_jax.data.readers.common import Published
from lafg_jax.finches import classes
from lafg_jax.utils.errors import UserError

SHARED_CARS = Path(__file__).parents[2] / "../shared/data/stanford_cars"

# (file, class id) of a small copy; class 3 has no image, 98 | 99 is the border of the halves.
TRAIN_ANNOS = [("00001.jpg", 99), ("00002.jpg", 1), ("00003.jpg", 98), ("00004.jpg", 2)]
TEST_ANNOS = [("00001.jpg", 1), ("00002.jpg", 196), ("00003.jpg", 99), ("00004.jpg", 2)]


def section(root="", **changes):
  return ConfigDict(
    {
      "name": "cars",
      "root": str(root),
      "expect_counts": False,
      "num_val_classes": 0,
      "max_train_classes": 0,
      "box_crop": False,
    }
    | changes
  )


def save_annotations(path, rows, labelled=True):
  fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"] + ["class"] * labelled + ["fname"]
  table = np.zeros((1, len(rows)), [(name, object) for name in fields])
  for k, (file, class_id) in enumerate(rows):
    values = {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 30, "bbox_y2": 20, "class": class_id}
    for name in fields:
      table[0, k][name] = file if name == "fname" else np.array([[values[name]]], np.uint16)
  savemat(path, {"annotations": table})


def save_tree(root, train=TRAIN_ANNOS, test=None, test_at="devkit"):
  (root / "devkit").mkdir(parents=True)
  names = np.empty((1, 196), object)
  names[0] = [f"Maker Model/{k} 2012" for k in range(1, 197)]
  savemat(root / "devkit/cars_meta.mat", {"class_names": names})
  save_annotations(root / "devkit/cars_train_annos.mat", train)
  if test:
    save_annotations(root / test_at / "cars_test_annos_withlabels.mat", test)
  for folder, rows in (("cars_train", train), ("cars_test", test or [])):
    if rows:
      (root / folder).mkdir()
    for file, class_id in rows:
      Image.new("RGB", (30, 20), (class_id, 0, 0)).save(root / folder / file)
  return root


def test_train_annotations_alone(tmp_path):
  splits = datasets.load_splits(section(save_tree(tmp_path / "c")))
  assert list(splits) == ["train", "test"]
  train, test = splits["train"], splits["test"]
  assert train.class_names == tuple(f"Maker Model/{k} 2012" for k in (1, 2, 98))
  assert test.class_names == ("Maker Model/99 2012",)
  assert train.ids == ("cars_train/00002.jpg", "cars_train/00003.jpg", "cars_train/00004.jpg")
  assert train.labels.tolist() == [0, 2, 1] and train.labels.dtype == np.int32
  assert test.labels.tolist() == [0] and len(test) == 1
  assert train.partial and test.partial
  assert (train.name, train.split, test.split) == ("cars", "train", "test")


@pytest.mark.parametrize("test_at", ["devkit", "."])
def test_both_annotation_files_are_pooled_and_agree_with_the_pixels(tmp_path, test_at):
  root = save_tree(tmp_path / "c", test=TEST_ANNOS, test_at=test_at)
  splits = datasets.load_splits(section(root))
  pooled = collections.Counter(class_id for _, class_id in TRAIN_ANNOS + TEST_ANNOS)
  found = collections.Counter()
  for dataset in splits.values():
    for path, label in zip(dataset.images, dataset.labels, strict=True):
      class_id = int(np.asarray(Image.open(path))[..., 0].mean() + 0.5)
      assert abs(int(dataset.class_names[label].split("/")[1].split()[0]) - class_id) <= 1
      found[int(dataset.class_names[label].split("/")[1].split()[0])] += 1
  assert found == pooled
  assert splits["train"].ids[-1] == "cars_test/00004.jpg"
  assert splits["test"].class_names == ("Maker Model/99 2012", "Maker Model/196 2012")


def test_whole_published_counts_are_not_partial(tmp_path, monkeypatch):
  root = save_tree(tmp_path / "c", test=TEST_ANNOS)
  monkeypatch.setattr(cars, "PUBLISHED", (Published(3, 5), Published(2, 3)))
  for expect in (True, False):
    splits = datasets.load_splits(section(root, expect_counts=expect))
    assert not splits["train"].partial and not splits["test"].partial


def test_the_published_counts():
  # Krause et al. 2013 as split by Cars-196: 16,185 images in all.
  assert cars.PUBLISHED == ((98, 8054), (98, 8131))
  assert sum(half.images for half in cars.PUBLISHED) == 16185


def one_line(data, *said):
  for call in (datasets.class_splits, datasets.load_splits):
    with pytest.raises(UserError) as error:
      call(data)
    assert "\n" not in str(error.value)
    for words in said:
      assert words in str(error.value)


def test_count_errors_say_where_labelled_test_annotations_belong(tmp_path):
  root = save_tree(tmp_path / "c")
  save_annotations(root / "devkit/cars_test_annos.mat", TEST_ANNOS, labelled=False)
  where = str(root / "devkit/cars_test_annos_withlabels.mat")
  one_line(section(root, expect_counts=True), "8,054", "8,131", where, "expect_counts=False")
  whole = save_tree(tmp_path / "d", test=TEST_ANNOS)
  one_line(
    section(whole, expect_counts=True),
    "5 images of 3",
    "3 images of 2",
    "complete the copy",
  )


def test_missing_images_are_named_or_left_out_with_their_number(tmp_path, monkeypatch):
  told = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: told.append(text % args))
  root = save_tree(tmp_path / "c", test=TEST_ANNOS)
  (root / "cars_train/00003.jpg").unlink()
  (root / "cars_test/00002.jpg").unlink()
  missing = str(root / "cars_train/00003.jpg")
  one_line(section(root, expect_counts=True), missing, "2 images", "expect_counts=False")
  splits = datasets.load_splits(section(root))
  assert splits["train"].class_names == tuple(f"Maker Model/{k} 2012" for k in (1, 2))
  assert splits["test"].class_names == ("Maker Model/99 2012",)
  assert len(splits["train"]) == 4 and len(splits["test"]) == 2
  assert len(told) == 1 and "2 images listed and not on disk" in told[0]


def test_missing_and_broken_files_are_one_line(tmp_path):
  layout = "--config.data.root=FOLDER with devkit/ and cars_train/, or train/CLASS/"
  one_line(section(""), "data.root is not set", layout)
  one_line(section(tmp_path / "nowhere"), str(tmp_path / "nowhere"), layout)
  (tmp_path / "bare").mkdir()
  layouts = ("devkit/", "train/CLASS/", "data/train-*.parquet")
  one_line(section(tmp_path / "bare"), *layouts, "tensorflow-datasets", "dead for years")
  (tmp_path / "bare" / "devkit").mkdir()
  one_line(section(tmp_path / "bare"), "cars_meta.mat is missing", layout)

  root = save_tree(tmp_path / "c")
  annos = root / "devkit/cars_train_annos.mat"
  whole = annos.read_bytes()
  for content in (b"", b"<html>", whole[: len(whole) // 2], whole[:130], b"\x89HDF\r\n\x1a\n" * 30):
    annos.write_bytes(content)
    one_line(section(root), str(annos))
  save_annotations(annos, TRAIN_ANNOS, labelled=False)
  one_line(section(root), str(annos), "not a labelled annotation file")
  save_annotations(annos, [("00001.jpg", 197)])
  one_line(section(root), str(annos), "class 197")
  savemat(annos, {"annotation": np.arange(3)})
  one_line(section(root), str(annos), "'annotations'")
  savemat(root / "devkit/cars_meta.mat", {"class_names": np.array(["a", "b"], object)})
  one_line(section(root), "2 class names", "196")


def test_a_copy_without_training_images_is_refused(tmp_path):
  root = save_tree(tmp_path / "c", train=[("00001.jpg", 150)])
  one_line(section(root), "no training image of Cars-196")


def test_a_data_set_is_listed_once_within_a_run_and_anew_outside(tmp_path, monkeypatch):
  root, calls = save_tree(tmp_path), []
  read = cars.read
  monkeypatch.setattr(cars, "read", lambda data: calls.append(data.root) or read(data))
  data = section(root)
  with datasets.remembered():
    before = datasets.content_fingerprint(data, "train")
    splits = datasets.load_splits(data)
    assert datasets.class_splits(section(root)) == {k: x.class_names for k, x in splits.items()}
    assert len(calls) == 1
    data.num_val_classes = 1
    assert len(datasets.load_splits(data)) == 3 and len(calls) == 2
    Path(splits["train"].images[0]).write_bytes(b"another size")
    assert datasets.content_fingerprint(section(root), "train") != before and len(calls) == 2
    with pytest.raises(UserError):
      datasets.load_splits(section(tmp_path / "none"))
  for path in splits["test"].images:
    Path(path).unlink()
  assert "test" in datasets.class_splits(section(root)) and len(calls) == 4
  with datasets.remembered():
    assert not datasets.load_splits(section(root))["test"].class_names and len(calls) == 5
  assert datasets.class_splits(section(root)) and len(calls) == 6


def test_unknown_names_suggest_the_nearest():
  one_line(section(name="car"), "data.name='car'", "did you mean 'cars'?")
  one_line(section(name="sythetic"), "did you mean 'synthetic'?")
  one_line(section(name="zzz"), "choose from aircraft, cars, ")
  with pytest.raises(UserError, match="unknown split 'dev'"):
    datasets.load_splits(section(), ["dev"])


@pytest.fixture
def synthetic(monkeypatch):
  """Ten seen and two unseen classes of three images each, in the place of the finches."""
  names = {"seen": tuple(f"finch {k}" for k in range(10)), "unseen": ("wren", "tit")}
  monkeypatch.setattr(classes, "class_names", names.__getitem__)
  monkeypatch.setattr(classes, "IMAGES_PER_CLASS", {"seen": 3, "unseen": 3})
  monkeypatch.setattr(classes, "image_id", lambda name, j: f"synthetic/{name}/{j}")
  monkeypatch.setattr(classes, "image", lambda name, j: np.zeros((48, 48, 3), np.uint8))
  return names


def test_synthetic_splits(synthetic):
  splits = datasets.load_splits(section(name="synthetic", num_val_classes=2))
  assert list(splits) == ["train", "val", "test"]
  assert splits["test"].class_names == synthetic["unseen"]
  assert [image.shape for image in splits["val"].images] == [(48, 48, 3)] * 6
  for split, dataset in splits.items():
    assert dataset.split == split and dataset.labels.dtype == np.int32 and not dataset.partial
    assert all(
      dataset.class_names[label] == image_id.split("/")[1]
      for label, image_id in zip(dataset.labels, dataset.ids, strict=True)
    )
  asked = datasets.load_splits(section(name="synthetic"), ["val", "test"])
  assert list(asked) == ["test"], "no validation classes without data.num_val_classes"


@pytest.mark.parametrize("num_val", range(9))
def test_validation_classes_are_whole_and_evenly_spaced(synthetic, num_val):
  data = section(name="synthetic", num_val_classes=num_val)
  names = datasets.class_splits(data)
  val = names.get("val", ())
  assert len(val) == num_val and ("val" in names) == (num_val > 0)
  assert sorted(names["train"] + val) == sorted(synthetic["seen"])
  assert names["test"] == synthetic["unseen"]
  position = [synthetic["seen"].index(name) for name in val]
  assert position == sorted(position)
  if num_val > 1:
    gaps = np.diff(position)
    assert gaps.max() - gaps.min() <= 1
  loaded = datasets.load_splits(data)
  assert {split: dataset.class_names for split, dataset in loaded.items()} == names


@pytest.mark.parametrize("most", range(1, 9))
def test_fewer_training_classes_are_evenly_spaced_over_those_left(synthetic, most):
  whole = datasets.class_splits(section(name="synthetic", num_val_classes=2))
  data = section(name="synthetic", num_val_classes=2, max_train_classes=most)
  names = datasets.class_splits(data)
  # Who is held out, and who is tested, does not depend on how many train.
  assert names["val"] == whole["val"] and names["test"] == whole["test"]
  position = [whole["train"].index(name) for name in names["train"]]
  assert len(position) == most and position == sorted(set(position))
  rest = len(whole["train"])
  # As far from the first to the start as from the last to the end, and stretches alike.
  assert abs(position[0] - (rest - 1 - position[-1])) <= 1
  gaps = np.diff(position)
  assert most == 1 or gaps.max() - gaps.min() <= 1
  loaded = datasets.load_splits(data)
  assert {split: dataset.class_names for split, dataset in loaded.items()} == names
  assert len(loaded["train"]) == 3 * most


def test_more_training_classes_than_there_are_is_one_line(synthetic):
  one_line(section(name="synthetic", num_val_classes=2, max_train_classes=9), "only 8 training")
  everything = section(name="synthetic", num_val_classes=2, max_train_classes=8)
  assert len(datasets.class_splits(everything)["train"]) == 8


@pytest.mark.parametrize("num_val", [-1, 9, 10, 11])
def test_too_many_validation_classes_are_one_line(synthetic, num_val):
  one_line(section(name="synthetic", num_val_classes=num_val), f"data.num_val_classes={num_val}")


def test_validation_labels_of_cars(tmp_path):
  rows = [(f"{k:05d}.jpg", 1 + k % 6) for k in range(1, 31)]
  root = save_tree(tmp_path / "c", train=rows)
  splits = datasets.load_splits(section(root, num_val_classes=2))
  assert len(splits["train"]) + len(splits["val"]) == 30 and len(splits["test"]) == 0
  class_of = {f"cars_train/{file}": f"Maker Model/{class_id} 2012" for file, class_id in rows}
  for dataset in splits.values():
    named = [dataset.class_names[label] for label in dataset.labels]
    assert named == [class_of[image_id] for image_id in dataset.ids]


def test_fingerprint_changes_with_ids_labels_and_names(synthetic):
  base = datasets.load_splits(section(name="synthetic"))["train"]
  same = datasets.load_splits(section(name="synthetic"))["train"]
  assert datasets.fingerprint(base) == datasets.fingerprint(same)
  changed = [
    dataclasses.replace(base, ids=base.ids[::-1]),
    dataclasses.replace(base, labels=base.labels[::-1]),
    dataclasses.replace(base, class_names=base.class_names[::-1]),
    dataclasses.replace(base, class_names=base.class_names + ("",)),
  ]
  prints = {datasets.fingerprint(dataset) for dataset in [base, *changed]}
  assert len(prints) == 5 and all(len(text) == 12 for text in prints)


@pytest.mark.skipif(not SHARED_CARS.exists(), reason="needs ../shared/data")
def test_the_shared_copy_of_stanford_cars():
  data = section(SHARED_CARS)
  splits = datasets.load_splits(data)
  train, test = splits["train"], splits["test"]
  assert (len(train), len(train.class_names)) == (4052, 98)
  assert (len(test), len(test.class_names)) == (2042, 49)
  assert train.partial and test.partial
  assert train.class_names[0] == "AM General Hummer SUV 2000"
  assert not set(train.class_names) & set(test.class_names)
  assert datasets.class_splits(data) == {"train": train.class_names, "test": test.class_names}
  assert all(Path(path).is_file() for path in train.images[::500])
  one_line(section(SHARED_CARS, expect_counts=True), "4,052", "2,042", "expect_counts=False")


def test_finches_are_named_counted_and_fingerprinted_without_drawing_them(config_with, monkeypatch):
  data = config_with(data__num_val_classes=4).data
  monkeypatch.setattr(classes, "image", None)
  found = datasets.load_splits(data, ("train", "val", "test"))
  counts = {split: datasets.num_images(data, split) for split in found}
  assert counts == {split: len(dataset) for split, dataset in found.items()}
  # Part of keys that the tables of docs/ were measured under.
  assert [datasets.content_fingerprint(data, split) for split in found] == [
    "2ce892e507c8", "6b7bbd760d36", "734a744e50db",
  ]  # fmt: skip


def test_finches_are_drawn_one_by_one_and_travel_by_name(config_with):
  dataset = datasets.load_splits(config_with(data__max_train_classes=3).data, ("train",))["train"]
  classes.image.cache_clear()
  image = dataset.images[31]
  assert classes.image.cache_info().currsize == 1
  np.testing.assert_array_equal(image, classes.image(dataset.class_names[1], 1))
  assert dataset.ids[31] == classes.image_id(dataset.class_names[1], 1)
  assert len(list(dataset.images)) == len(dataset) == 90
  packed = pickle.dumps(dataset)
  assert len(packed) < 20_000
  np.testing.assert_array_equal(pickle.loads(packed).images[31], image)
