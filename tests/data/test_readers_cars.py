"""Cars-196 as a folder a class and as Parquet; the devkit layout is in test_datasets.py."""

import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from ml_collections import ConfigDict
from PIL import Image
from scipy.io import loadmat, savemat

from lafg_jax.data import datasets, images, parquet, pipeline
from lafg_jax.data.readers import cars
from lafg_jax.tasks.class_retrieval.batches import plan

SHARED = Path(__file__).parents[2] / "../shared/data/stanford_cars"
SHIPPED = Path(cars.__file__).parents[2] / "language" / "shipped" / "cars.json"


def section(root, **changes):
  plain = {
    "name": "cars",
    "root": str(root),
    "expect_counts": False,
    "num_val_classes": 0,
    "max_train_classes": 0,
  }
  return ConfigDict(plain | {"box_crop": False} | changes)


def test_the_stored_names_are_those_of_the_shipped_descriptions():
  assert list(cars.NAMES) == list(json.loads(SHIPPED.read_text()))
  # A folder cannot hold '/', and people's copies differ in case and punctuation.
  for k, name in enumerate(cars.NAMES, 1):
    for spelt in (name, name.replace("/", "-"), name.replace(" ", "_").lower()):
      assert cars._class_id(spelt, Path()) == k


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_the_stored_names_are_those_of_the_devkit():
  cells = loadmat(SHARED / "devkit" / "cars_meta.mat")["class_names"].ravel()
  assert cars.NAMES == tuple(str(np.squeeze(cell)) for cell in cells)


@pytest.mark.parametrize("layout", ["folders", "kaggle", "parquet", "parquet_sorted"])
def test_other_layouts_have_the_classes_of_the_devkit(trees, tmp_path, layout, one_line):
  if layout.startswith("parquet"):
    by_name = sorted(trees.CARS, key=lambda k: trees.CARS[k])
    order = by_name if layout == "parquet_sorted" else tuple(trees.CARS)
    root = trees.cars_parquet(tmp_path, order)
  else:
    trees.cars_folders(tmp_path / "car_data/car_data" if layout == "kaggle" else tmp_path)
    root = tmp_path
  splits = datasets.load_splits(section(root))
  assert splits["train"].class_names == tuple(trees.CARS[k] for k in (1, 3, 98))
  assert splits["test"].class_names == tuple(trees.CARS[k] for k in (99, 174, 196))
  id_of = {name: k for k, name in trees.CARS.items()}
  for dataset in splits.values():
    # Train and test images of a class are pooled: two and one.
    assert np.bincount(dataset.labels).tolist() == [3, 3, 3] and dataset.partial
    assert len(set(dataset.ids)) == 9
    for row, label in enumerate(dataset.labels):
      red, size = trees.look(images.of_dataset(dataset, row))
      assert abs(red - trees.shade(id_of[dataset.class_names[label]])) <= 2
      assert size == trees.SIZE
  one_line(section(root, expect_counts=True), "9 images of 3 .* Cars-196's 8,054 of 98 and 8,131")
  one_line(section(root, box_crop=True), "only the original devkit has boxes")


def test_a_folder_of_no_class_is_named(trees, tmp_path, one_line):
  trees.cars_folders(tmp_path)
  (tmp_path / "train" / "Tesla Roadster 2030").mkdir()
  one_line(section(tmp_path), "'Tesla Roadster 2030' is no class of Cars-196")


def test_devkit_boxes(trees, tmp_path):
  (tmp_path / "devkit").mkdir()
  names = np.empty((1, 196), object)
  names[0] = cars.NAMES
  savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": names})
  fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
  table = np.zeros((1, 2), [(name, object) for name in fields])
  for k, (x, class_id) in enumerate(((9, 1), (9, 98))):
    table[0, k] = (x, 9, 24, 24, class_id, f"{k + 1:05d}.jpg")
    trees.photo(tmp_path / f"cars_train/{k + 1:05d}.jpg", class_id)
  savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": table})
  train = datasets.load_splits(section(tmp_path, box_crop=True))["train"]
  assert train.boxes.tolist() == [[8, 8, 24, 24]] * 2
  assert [trees.look(images.of_dataset(train, row))[1] for row in range(2)] == [(16, 16)] * 2


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_boxes_of_the_shared_copy_cover_its_images():
  test = datasets.load_splits(section(SHARED, box_crop=True), ["test"])["test"]
  for row in range(0, len(test), 400):
    with Image.open(test.images[row]) as whole:
      assert images.of_dataset(test, row).size == whole.size


def test_parquet_images_are_read_when_asked_for(trees, tmp_path):
  dataset = datasets.load_splits(section(trees.cars_parquet(tmp_path)))["train"]
  again = pickle.loads(pickle.dumps(dataset))
  assert len(pickle.dumps(dataset)) < 10_000, "no image travels to a worker"
  parquet._group.cache_clear()
  for row in (7, 0, 8, 3):
    assert again.images[row] == dataset.images[row]
    assert Image.open(io.BytesIO(again.images[row])).size == trees.SIZE
  data = section(tmp_path, classes_per_batch=2, images_per_class=2, image_size=8, resize_size=8)
  data.update(
    {"train_crop": "resize_crop", "flip": False, "num_workers": 0, "prefetch": 2}
    | {
      "pack": "",
      "scaled_decoding": True,
      "instances": False,
      "color_jitter": 0.0,
      "recoloured_per_batch": 0,
      "recolourings": 1,
    }
  )
  batch = next(
    pipeline.train_batches(dataset, data, plan(dataset, data, 0), seed=0, start_step=0, num_steps=1)
  )
  assert batch["image"].shape == (4, 8, 8, 3) and (batch["unreadable"] == -1).all()
  np.testing.assert_array_equal(batch["label"], dataset.labels[batch["index"]])


def test_a_damaged_row_group_is_unreadable_and_the_others_are_read(trees, tmp_path):
  root = trees.cars_parquet(tmp_path)
  file = root / "data/test-00000-of-00001.parquet"
  content = bytearray(file.read_bytes())
  # The first page of the images; labels and footer stay whole.
  content[4:60] = bytes(56)
  file.write_bytes(content)
  train = datasets.load_splits(section(root))["train"]
  damaged = [row for row, name in enumerate(train.ids) if int(name.split("/")[1]) >= 12]
  assert len(damaged) == 3
  for row in range(len(train)):
    if row in damaged:
      with pytest.raises(images.UnreadableImage, match="row group 0 of .*test-00000"):
        images.of_dataset(train, row)
    else:
      assert images.of_dataset(train, row).size == trees.SIZE


def test_a_changed_parquet_file_changes_the_fingerprint(trees, tmp_path):
  data = section(trees.cars_parquet(tmp_path))
  before = datasets.content_fingerprint(data, "train")
  assert datasets.content_fingerprint(data, "train") == before
  file = tmp_path / "data/train-00000-of-00002.parquet"
  table = pyarrow.parquet.read_table(file)
  pyarrow.parquet.write_table(table, file, compression="none", row_group_size=4)
  assert datasets.content_fingerprint(data, "train") != before


@pytest.mark.parametrize(
  ("break_it", "said"),
  [
    (lambda file: file.write_bytes(b"PAR1 nothing"), "cannot be read as Parquet"),
    (lambda file: file.write_bytes(b""), "cannot be read as Parquet"),
    (lambda file: file.write_bytes(file.read_bytes()[:-30]), "cannot be read as Parquet"),
  ],
)
def test_damaged_parquet_is_one_line(trees, tmp_path, break_it, said, one_line):
  root = trees.cars_parquet(tmp_path)
  break_it(sorted((root / "data").iterdir())[-1])
  one_line(section(root), said)


def test_without_pyarrow_one_line_says_what_to_install(trees, tmp_path, monkeypatch, one_line):
  data = section(trees.cars_parquet(tmp_path))
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  one_line(data, r"train-00000-of-00002.parquet is read by pyarrow: pip install 'lafg_jax\[data\]'")


def test_other_parquet_is_one_line(trees, tmp_path, one_line):
  one_line(section(trees.cars_parquet(tmp_path / "a", names=False)), "have no names")
  for columns, said in (
    ({"image": [b"x"], "caption": ["a car"]}, "columns image, caption, not image and a numeric l"),
    ({"image": ["a.jpg"], "label": [1]}, "does not hold the bytes of image files"),
    ({"image": [{"path": "a.jpg"}], "label": [1]}, "does not hold the bytes of image files"),
  ):
    file = tmp_path / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    one_line(section(tmp_path), said)
