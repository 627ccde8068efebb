"""Classes of generic names are told by their images; see also the evaluation's test."""

import shutil

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data import datasets, same_images
from lafg_jax.utils.class_names import is_generic


@pytest.fixture
def tree(tmp_path):
  """tree({'train/class_01': seeds, ...}): a folder of folders; equal seeds are equal files."""

  def write(folders, name="images"):
    for folder, seeds in folders.items():
      path = tmp_path / name / folder
      path.mkdir(parents=True)
      for k, seed in enumerate(seeds):
        pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{k}.bmp")
    return tmp_path / name

  return write


HALVES = {
  "train/class_01": (1, 2, 3, 4),
  "train/class_02": (5, 6, 7),
  "test/class_03": (8, 9, 10, 11),
}


@pytest.mark.parametrize("copies", [(1, 2, 8, 9), (2, 5, 8, 9), (1, 2, 3, 4)])
def test_a_test_class_whose_images_are_of_training_classes_is_refused(
  tree, section, copies, one_line
):
  root = tree(HALVES | {"test/class_04": copies})
  # All bitmaps are of one size: their bytes tell.
  one_line(section("folder", root=str(root)), "1 class of the test .*'class 04'")


def test_a_few_duplicates_or_names_that_say_something_are_no_reason(tree, section):
  root = tree(HALVES | {"test/class_04": (1, 8, 9), "test/class_05": (12, 13)})
  assert len(datasets.load_splits(section("folder", root=str(root)))["test"].class_names) == 3
  # Whoever names classes says that they are two.
  root = tree({"train/wren": (1, 2), "train/tit": (3,), "test/kiwi": (1, 2)}, "named")
  assert datasets.load_splits(section("folder", root=str(root)))["test"].class_names == ("kiwi",)


def test_classes_of_one_pool_and_of_a_manifest_are_compared_too(tree, section, tmp_path, one_line):
  root = tree({"1": (1, 2), "2": (3, 4), "3": (5,), "4": (2, 1)})
  one_line(section("folder", root=str(root)), "'class 4'")
  rows = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.rglob("*.bmp"))]
  (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows]) + "\n")
  changes = {"manifest": str(tmp_path / "m.csv"), "root": str(root)}
  one_line(section("manifest", **changes), "'class 4'")
  split = [row + (",test" if row.endswith(",4") else ",train") for row in rows]
  (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *split]) + "\n")
  one_line(section("manifest", **changes), "'class 4'")


def test_files_are_read_only_where_sizes_are_equal(tree, section, monkeypatch):
  data = section("folder", root=str(tree(HALVES)))
  splits, read = datasets.load_splits(data), []
  for k, path in enumerate(splits["test"].images):
    with open(path, "ab") as file:
      file.write(b"\0" * (k + 1))
  for name in ("_tail", "_whole"):
    real = getattr(same_images, name)
    monkeypatch.setattr(same_images, name, lambda p, real=real: read.append(p) or real(p))
  assert same_images.trained(splits["train"], splits["test"]) == [] and not read
  shutil.copy(splits["train"].images[0], splits["test"].images[0])
  assert same_images.trained(splits["train"], splits["test"]) == []
  assert len(read) == 7 + 1 + 2, "tails of one size, and the two that are equal there whole"


@pytest.mark.parametrize("name", ["class_01", "7", "Class 3", "id-12", "item 00041", "category.9"])
def test_generic_names(name):
  assert is_generic(name)


@pytest.mark.parametrize("name", ["wren", "n01440764", "BMW M3 2012", "class wren", "Boeing 737"])
def test_names_that_say_something(name):
  assert not is_generic(name)
