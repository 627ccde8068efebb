"""What the data stage finds of planted trouble."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax.data import check, datasets
from lafg_jax.data.datasets import Dataset

DATA = ConfigDict(
  {
    "name": "cars",
    "root": "somewhere",
    "images_per_class": 3,
    "image_size": 60,
    "num_workers": 2,
  }
)


def photograph(seed, width=150, height=110):
  coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8))
  return coarse.resize((width, height), Image.Resampling.BICUBIC)


def half(folder, split, first, per_class):
  """Classes of `per_class` images each, all of them different."""
  folder = folder / split
  folder.mkdir()
  paths, labels = [], []
  for label, count in enumerate(per_class):
    for k in range(count):
      paths.append(folder / f"{label}_{k}.jpg")
      photograph(1000 * first + 50 * label + k).save(paths[-1], quality=92)
      labels.append(label)
  names = tuple(f"{split} class {k}" for k in range(len(per_class)))
  ids = tuple(f"{split}/{path.name}" for path in paths)
  files = np.array([str(path) for path in paths])
  return Dataset("cars", split, files, np.array(labels, np.int32), names, ids)


@pytest.fixture
def splits(tmp_path):
  return {"train": half(tmp_path, "train", 1, (4, 5, 2)), "test": half(tmp_path, "test", 2, (3, 4))}


@pytest.fixture
def found(splits, monkeypatch):
  def run():
    monkeypatch.setattr(datasets, "load_splits", lambda data: splits)
    findings, _ = check.run(DATA)
    # What goes into data.json.
    return json.loads(json.dumps(findings))

  return run


def pairs(findings, kind):
  listed = findings["near_duplicates"][kind]["pairs"]
  return {tuple(sorted(each["image"] for each in pair["images"])) for pair in listed}


def test_a_sound_data_set_is_counted_and_only_its_small_class_named(found):
  findings = found()
  train, test = findings["splits"]["train"], findings["splits"]["test"]
  assert (train["images"], train["classes"]) == (11, 3) and (test["images"], test["classes"]) == (
    7,
    2,
  )
  assert train["per_class"] == {"min": 2, "median": 4, "max": 5}
  assert train["small_classes"] == {"train class 2": 2} and test["num_small_classes"] == 0
  assert train["histogram"] == {"counts": [1, 0, 1, 1], "first": 2, "step": 1}
  assert findings["kinds"] == {"JPEG RGB": 18}
  assert findings["sizes"]["width"] == {"min": 150, "median": 150, "max": 150}
  assert findings["sizes"]["aspect"]["max"] == pytest.approx(150 / 110)
  assert findings["unreadable"] == {"count": 0, "images": []}
  for kind in ("across_splits", "across_classes", "within_class"):
    assert findings["near_duplicates"][kind] == {"images": 0, "pairs": []}
  assert findings["problems"] == []
  assert len(findings["remarks"]) == 1 and "1 training class with fewer" in findings["remarks"][0]


def test_planted_copies_are_found_where_they_are(splits, found):
  train, test = splits["train"].images, splits["test"].images
  # Smaller and of lower quality, in a test class; turned into a PNG, in another class; and twice
  # in one class, with a comment that changes the bytes.
  original = Image.open(train[0])
  original.resize((136, 100), Image.Resampling.BICUBIC).save(test[5], quality=45)
  Image.open(train[1]).save(train[6], "PNG")
  Image.open(test[0]).save(test[1], quality=80, comment=b"again")
  findings = found()
  ids = splits["train"].ids, splits["test"].ids
  assert pairs(findings, "across_splits") == {(ids[1][5], ids[0][0])}
  assert pairs(findings, "across_classes") == {tuple(sorted((ids[0][1], ids[0][6])))}
  assert pairs(findings, "within_class") == {tuple(sorted((ids[1][0], ids[1][1])))}
  assert {kind: findings["near_duplicates"][kind]["images"] for kind in (
    "across_splits", "across_classes", "within_class")} == {
    "across_splits": 2, "across_classes": 2, "within_class": 2}  # fmt: skip
  assert findings["kinds"] == {"JPEG RGB": 17, "PNG RGB": 1}
  near = [[x for x in findings[of] if "near dup" in x] for of in ("problems", "remarks")]
  assert [len(lines) for lines in near] == [2, 1] and "in its own class" in near[1][0]


def test_many_equal_images_are_all_counted(splits, found):
  for path in splits["train"].images:
    Image.new("RGB", (80, 80), "grey").save(path, "JPEG")
  findings = found()
  near = findings["near_duplicates"]
  assert near["across_classes"]["images"] == 11 and near["within_class"]["images"] == 11
  # Three pairs of classes, and one pair for each class.
  assert len(near["across_classes"]["pairs"]) == len(near["within_class"]["pairs"]) == 3


def test_unreadable_and_small_images_are_named(splits, found):
  train = splits["train"].images
  Path(train[3]).write_bytes(b"<html>")
  Path(train[7]).write_bytes(Path(train[7]).read_bytes()[:400])
  Path(train[8]).unlink()
  photograph(5, 44, 20).save(train[9])
  findings = found()
  names = [each["image"] for each in findings["unreadable"]["images"]]
  assert findings["unreadable"]["count"] == 3
  assert names == [splits["train"].ids[row] for row in (3, 7, 8)]
  assert findings["sizes"]["below_image_size"] == 1
  assert findings["sizes"]["smallest"][0] == {
    "image": splits["train"].ids[9], "width": 44, "height": 20
  }  # fmt: skip
  assert any("3 images cannot be read" in line for line in findings["problems"])
  assert findings["sizes"]["elongated"] == 1, "44 x 20"
  assert any("both ends are cut off" in line for line in findings["remarks"])
  assert findings["splits"]["train"]["class_names"] == list(splits["train"].class_names)


def test_boxes_queries_bytes_and_arrays(splits, found):
  test = splits["test"]
  # The same photograph everywhere, but another part of it each.
  content = [Path(path).read_bytes() for path in test.images[:1]] * len(test)
  boxes = np.array([[10.0 * k, 5.0 * k, 10.0 * k + 70, 5.0 * k + 60] for k in range(len(test))])
  splits["test"] = dataclasses.replace(
    test, images=content, boxes=boxes, is_query=np.arange(len(test)) < 2
  )
  arrays = np.stack([np.asarray(photograph(900 + k)) for k in range(len(splits["train"]))])
  splits["train"] = dataclasses.replace(splits["train"], images=arrays)
  findings = found()
  assert findings["splits"]["test"]["queries"] == 2
  assert findings["kinds"] == {"array RGB": 11, "JPEG RGB": 7}
  assert findings["sizes"]["height"]["min"] == 60 and findings["sizes"]["height"]["max"] == 110
  assert pairs(findings, "within_class") == set()


def test_nothing_readable_is_said(splits, found):
  for dataset in splits.values():
    for path in dataset.images:
      Path(path).write_bytes(b"")
  findings = found()
  assert findings["unreadable"]["count"] == 18 and findings["sizes"]["width"] == {}
  assert findings["near_duplicates"]["across_splits"]["images"] == 0


@pytest.mark.parametrize("values", [[5], [1, 2, 25], [0, 24], [3, 3, 900, 17]])
def test_histograms_of_whole_numbers(values):
  got = check._histogram(values)
  assert 1 <= len(got["counts"]) <= 24 and got["counts"][-1] > 0
  for k, count in enumerate(got["counts"]):
    low = got["first"] + k * got["step"]
    assert count == sum(low <= value < low + got["step"] for value in values)


@pytest.mark.parametrize(
  ("broken", "problem", "remark"),
  [
    ((0, 1, 2), "nothing can be measured: .* one class to find", ""),
    ((0, 1), "", "test: 1 image without another one of the class .*'test class 0'"),
    ((0, 1, 3, 4, 5), "2 images of 2 classes, 5 images left out that cannot be read", ""),
    (tuple(range(7)), "test has 0 images", ""),
    ((), "", ""),
  ],
)
def test_what_can_be_read_of_the_test_must_have_matches(splits, found, broken, problem, remark):
  for row in broken:
    Path(splits["test"].images[row]).write_bytes(b"")
  findings = found()
  for name, said in (("problems", problem), ("remarks", remark)):
    lines = [x for x in findings[name] if "cannot be read, such" not in x and "training" not in x]
    assert len(lines) == bool(said) and all(re.search(said, line) for line in lines), lines
