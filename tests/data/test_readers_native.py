"""CUB-200-2011 and FGVC-Aircraft from generated copies of their layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from lafg_jax.data import datasets, images
from lafg_jax.data.readers import aircraft, common, cub
from lafg_jax.data.readers.common import Published
from lafg_jax.utils.errors import UserError

SHIPPED = Path(cub.__file__).parents[2] / "language" / "shipped" / "cub.json"


def section(name, root, **changes):
  plain = {
    "name": name,
    "root": str(root),
    "expect_counts": False,
    "num_val_classes": 0,
    "max_train_classes": 0,
  }
  return ConfigDict(plain | {"box_crop": False} | changes)


def seen(trees, dataset):
  """What the pixels of each image show: red of its box, and the image's size."""
  return [trees.look(images.of_dataset(dataset, row)) for row in range(len(dataset))]


@pytest.mark.parametrize("above", [False, True])
def test_cub_as_published(trees, tmp_path, above):
  root = trees.cub(tmp_path / "CUB_200_2011")
  splits = datasets.load_splits(section("cub", tmp_path if above else root))
  train, test = splits["train"], splits["test"]
  names = ("Black footed Albatross", "Laysan Albatross", "Chuck will Widow", "Brown Pelican")
  assert train.class_names == names
  assert test.class_names == (
    *("White Pelican", "Le Conte Sparrow", "Nelson Sharp tailed Sparrow", "Artic Tern"),
    "Common Yellowthroat",
  )
  assert train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 and train.partial
  assert train.ids[0].startswith("images/001.Black_footed_Albatross/Black_Footed_Albatross_")
  for dataset, ids in ((train, (1, 2, 22, 100)), (test, (101, 124, 126, 141, 200))):
    shades = [trees.shade(ids[label]) for label in dataset.labels]
    found = seen(trees, dataset)
    np.testing.assert_allclose([red for red, _ in found], shades, atol=2)
    assert {size for _, size in found} == {trees.SIZE}


def test_cub_is_named_as_the_shipped_descriptions_are(trees, tmp_path):
  root = trees.cub(tmp_path, classes=range(1, 201), per_class=1)
  names = datasets.class_splits(section("cub", root))
  assert list(names["train"] + names["test"]) == list(json.loads(SHIPPED.read_text()))
  assert len(names["train"]) == len(names["test"]) == 100


def test_published_counts(trees, tmp_path, monkeypatch, one_line):
  assert cub.PUBLISHED == ((100, 5864), (100, 5924))
  assert sum(half.images for half in cub.PUBLISHED) == 11788
  assert aircraft.PUBLISHED == ((50, 5000), (50, 5000))
  for name, reader, whole, said in (
    ("cub", cub, ((4, 12), (5, 15)), r"12 images of 4 .* CUB-200-2011's 5,864 of 100"),
    ("aircraft", aircraft, ((6, 18), (6, 18)), r"18 images of 6 .* FGVC-Aircraft's 5,000 of 50"),
  ):
    root = getattr(trees, name)(tmp_path / name)
    one_line(section(name, root, expect_counts=True), said)
    monkeypatch.setattr(reader, "PUBLISHED", tuple(Published(*counts) for counts in whole))
    assert not datasets.load_splits(section(name, root, expect_counts=True))["train"].partial


@pytest.mark.parametrize("name", ["cub", "aircraft", "inshop"])
def test_box_crop_shows_the_box_alone(trees, tmp_path, name):
  root = getattr(trees, name)(tmp_path)
  plain = datasets.load_splits(section(name, root))
  boxed = datasets.load_splits(section(name, root, box_crop=True))
  for split, dataset in boxed.items():
    left, top, right, bottom = trees.BOX
    assert {size for _, size in seen(trees, dataset)} == {(right - left, bottom - top)}
    assert dataset.ids == plain[split].ids
    assert datasets.fingerprint(dataset) != datasets.fingerprint(plain[split])


@pytest.mark.parametrize("below", [".", "data"])
def test_aircraft_as_published(trees, tmp_path, below):
  root = trees.aircraft(tmp_path)
  splits = datasets.load_splits(section("aircraft", root / below))
  train, test = splits["train"], splits["test"]
  assert train.class_names + test.class_names == trees.AIRCRAFT
  assert test.class_names[:3] == ("F-16A/B", "F/A-18", "Falcon 2000")
  # One image a class from each of its own train, val and test lists, in that order.
  assert train.labels.tolist() == test.labels.tolist() == [0, 1, 2, 3, 4, 5] * 3
  assert train.ids[0] == "images/1025794.jpg" and train.ids[6] == "images/1025795.jpg"
  found = seen(trees, test)
  shades = [trees.shade(6 + label) for label in test.labels]
  np.testing.assert_allclose([red for red, _ in found], shades, atol=2)
  assert {size for _, size in found} == {trees.SIZE}, "the banner is cut off"


@pytest.mark.parametrize(
  ("broken", "said"),
  [
    (("images.txt",), r"images.txt is missing: pass --config.data.root=FOLDER with images"),
    (("bounding_boxes.txt",), "bounding_boxes.txt is missing"),
    (("images.txt", "2 001", "1 001"), "images.txt: id 1 stands there twice"),
    (("images.txt", "1 001", "77 001"), "of different images, such as id 1"),
    (("image_class_labels.txt", "3 1", "3 2"), r"image 3 is 001\.Black.*, but of class 2"),
    (("image_class_labels.txt", "3 1", "3 x"), "image 3 has class x"),
    (
      ("classes.txt", "002.Laysan", "002.Black_footed"),
      "classes '1' and '2' are both named 'Black",
    ),
    (
      ("classes.txt", "101.White", "101.Brown"),
      "classes '100' and '101' are both named 'Brown",
    ),
    (("classes.txt", "2 002", "201 002"), "class id 201"),
    (("bounding_boxes.txt", "1 8.0", "1 x"), r"box of image 1 is 'x 8.0 16.0 16.0'"),
    (("bounding_boxes.txt", "1 8.0", "1 nan"), "not four numbers"),
    (
      ("bounding_boxes.txt", "1 8.0 8.0 16.0 16.0\n", ""),
      "no box for 1 image, such as images/",
    ),
    (("images.txt", "_0001_", "_0009_"), r"_0009_7919.jpg is listed but missing \(1 image in all"),
  ],
)
def test_damage_to_cub_is_one_line(trees, tmp_path, broken, said, one_line):
  root = trees.cub(tmp_path, classes=(1, 2, 100, 101))
  trees.damage(root / broken[0], *broken[1:])
  # The images are looked for only where their lists are in order.
  one_line(section("cub", root, box_crop=True, expect_counts="listed" in said), said)


@pytest.mark.parametrize(
  ("broken", "said"),
  [
    (("variants.txt",), r"variants.txt is missing: pass .* with data/variants.txt"),
    (("images_variant_val.txt",), "images_variant_val.txt is missing"),
    (("images_variant_val.txt", "F/A-18", "F/A-19"), "is a 'F/A-19', which variants.txt has"),
    (("variants.txt", "727-200", "707-320"), "classes '1' and '2' are both named '707-320'"),
    (
      ("images_variant_val.txt", "1025795 707-320", "1025794 727-200"),
      "listed twice, for class 707-320 and for class 727-200",
    ),
  ],
)
def test_damage_to_aircraft_is_one_line(trees, tmp_path, broken, said, one_line):
  root = trees.aircraft(tmp_path)
  trees.damage(root / "data" / broken[0], *broken[1:])
  one_line(section("aircraft", root), said)


def test_a_class_of_both_halves_is_refused(tmp_path):
  (tmp_path / "a.jpg").touch()
  image = [common.Image("a.jpg", 1)]
  halves = [common.half("cub", split, tmp_path, image, {1: "wren"}) for split in ("train", "test")]
  with pytest.raises(UserError, match="in the training and in the test half.* 'wren'"):
    common.check_counts(section("cub", tmp_path), "CUB", halves, cub.PUBLISHED)
