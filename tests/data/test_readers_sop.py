"""Stanford Online Products from a generated copy of its layout."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax.data import datasets
from lafg_jax.data.readers import sop
from lafg_jax.data.readers.common import Published
from lafg_jax.utils.errors import UserError

HEADER = "image_id class_id super_class_id path"
# Rows as they stand in the lists; item 3 is a coffee maker, whose folder has two words.
TRAIN = (
  "1 1 1 bicycle_final/111085122871_0.JPG",
  "2 1 1 bicycle_final/111085122871_1.JPG",
  "3 2 1 bicycle_final/111265328556_0.JPG",
  "4 3 4 coffee_maker_final/111_0.JPG",
)
TEST = ("5 11319 6 kettle_final/251_0.JPG", "6 11319 6 kettle_final/251_1.JPG")


def section(root, **changes):
  plain = {
    "name": "sop",
    "root": str(root),
    "expect_counts": False,
    "num_val_classes": 0,
    "max_train_classes": 0,
  }
  return ConfigDict(plain | changes)


def save_tree(root, train=TRAIN, test=TEST):
  for split, rows in (("train", train), ("test", test)):
    for row in rows:
      path = root / row.split()[3]
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.new("RGB", (12, 8), (40 * int(row.split()[0]), 0, 0)).save(path, "JPEG")
    (root / f"Ebay_{split}.txt").write_text("\n".join([HEADER, *rows]) + "\n")
  return root


@pytest.mark.parametrize("above", [False, True])
def test_the_lists_as_published(tmp_path, above):
  root = save_tree(tmp_path / "Stanford_Online_Products")
  splits = datasets.load_splits(section(tmp_path if above else root))
  train, test = splits["train"], splits["test"]
  assert train.class_names == ("bicycle 1", "bicycle 2", "coffee maker 3")
  assert train.super_classes == ("bicycle", "bicycle", "coffee maker")
  assert train.labels.tolist() == [0, 0, 1, 2]
  assert train.ids[3] == "coffee_maker_final/111_0.JPG" and train.partial
  assert test.class_names == ("kettle 11319",) and test.labels.tolist() == [0, 0]
  red = [np.asarray(Image.open(path))[..., 0].mean() for path in test.images]
  assert np.allclose(red, [200, 240], atol=2)


def test_published_counts(tmp_path, monkeypatch):
  assert sop.PUBLISHED == ((11318, 59551), (11316, 60502))
  root = save_tree(tmp_path)
  with pytest.raises(UserError, match=r"4 images of 3 .* Stanford Online Products's 59,551"):
    datasets.load_splits(section(root, expect_counts=True))
  monkeypatch.setattr(sop, "PUBLISHED", (Published(3, 4), Published(1, 2)))
  assert not datasets.load_splits(section(root, expect_counts=True))["train"].partial


def test_validation_classes_keep_their_super_classes(tmp_path):
  splits = datasets.load_splits(section(save_tree(tmp_path), num_val_classes=1))
  train, val = splits["train"], splits["val"]
  assert val.class_names == ("bicycle 2",) and val.super_classes == ("bicycle",)
  assert train.super_classes == ("bicycle", "coffee maker")
  assert train.labels.tolist() == [0, 0, 1] and train.ids[2].startswith("coffee")


@pytest.mark.parametrize(
  "break_it, said",
  [
    (lambda root: (root / "Ebay_test.txt").unlink(), "Ebay_test.txt is missing"),
    (lambda root: (root / "Ebay_train.txt").write_text("a b c d\n"), "does not begin with"),
    (lambda root: (root / "Ebay_train.txt").write_text(HEADER + "\n1 x 1 f/a\n"), "not a number"),
    (lambda root: (root / "Ebay_train.txt").write_text(HEADER + "\n1 2\n"), "line 2: 2 fields"),
    (lambda root: (root / "Ebay_train.txt").write_bytes(b"\xff\xfe\x00"), "not a text file"),
    (lambda root: save_tree(root, test=TRAIN), "3 items stand in both lists"),
    (lambda root: (root / "kettle_final/251_1.JPG").unlink(), "251_1.JPG is listed but missing"),
  ],
)
def test_damage_is_one_line(tmp_path, break_it, said):
  root = save_tree(tmp_path)
  break_it(root)
  with pytest.raises(UserError, match=said) as error:
    datasets.load_splits(section(root, expect_counts=True))
  assert "\n" not in str(error.value)


def test_of_classes_takes_rows_of_anything():
  blobs = [b"a", b"b", b"c"]
  base = datasets.Dataset(
    "x",
    "train",
    blobs,
    np.array([0, 1, 0], np.int32),
    ("one", "two"),
    ("a", "b", "c"),
    boxes=np.arange(12).reshape(3, 4),
    is_query=np.array([True, False, False]),
  )
  some = datasets.of_classes(base, "val", ["one"])
  assert [some.images[i] for i in range(len(some))] == [b"a", b"c"]
  assert some.boxes.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
  assert some.is_query.tolist() == [True, False] and some.split == "val"
  changed = dataclasses.replace(base, boxes=base.boxes + 1)
  assert datasets.fingerprint(changed) != datasets.fingerprint(base)
