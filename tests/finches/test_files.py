"""Finches as files: the same pictures as the data set's, and a table of what they show."""

import csv

import numpy as np
import pytest
from PIL import Image

from lafg_jax.finches import classes, files
from lafg_jax.finches.text import ATTRIBUTES


def test_the_files_are_the_pictures_of_the_data_set(tmp_path):
  rows = files.write(str(tmp_path), "unseen", 2)
  names = classes.class_names("unseen")
  assert [row["class"] for row in rows] == [name for name in names for _ in range(2)]
  for row in rows[::17]:
    name, number = row["path"].split("/")
    picture = np.asarray(Image.open(tmp_path / row["path"]))
    np.testing.assert_array_equal(picture, classes.image(name, int(number[:2])))
    # Each value is one that the attribute can have.
    assert all(row[attribute] in values for attribute, values in ATTRIBUTES.items())
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
  again = files.write(str(tmp_path), "unseen", 2)
  assert again == rows and len(list(tmp_path.glob("*/*.png"))) == 120


@pytest.mark.parametrize("where", ["finches/images.csv", "tables/finches.csv"])
def test_the_command_writes_a_table_whose_paths_lead_to_the_files(forked, tmp_path, where):
  line = ["--out=finches", f"--table={where}", "--per_class=1", "--classes=seen"]
  ((code, said),) = forked("finches.files", [line], tmp_path, cwd=tmp_path)
  assert code == 0 and "finches: 40 images" in said
  with open(tmp_path / where, newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 40
  assert all((tmp_path / where).parent.joinpath(row["path"]).is_file() for row in rows)


def test_without_a_folder_it_says_so(forked, tmp_path):
  ((code, said),) = forked("finches.files", [[]], tmp_path)
  assert code == 2 and said == "error: pass --out=FOLDER\n"
