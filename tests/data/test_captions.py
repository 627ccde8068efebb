"""Image-text pairs: FDRD's files as published, tables of one's own, and their splits."""

import collections
import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from ml_collections import ConfigDict
from PIL import Image
from pyarrow import parquet

from lafg_jax.config import keys
from lafg_jax.data import captions, images
from lafg_jax.data.caption_readers import fdrd
from lafg_jax.utils.errors import UserError

SHARED = Path(__file__).parents[2] / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")


def config_of(**changes):
  """Defaults with changes, `captions` for a key without a section."""
  config = ConfigDict(keys.defaults(("data", "captions")).to_dict())
  for key, value in changes.items():
    name = key.replace("__", ".")
    config.update_from_flattened_dict({name if "." in name else f"captions.{name}": value})
  return config


def refused(said, **changes):
  with pytest.raises(UserError, match=said) as error:
    captions.load_splits(config_of(**changes))
  assert "\n" not in str(error.value)


# Entries, classes, fewest and most of a class, negatives of each; entries with a negative equal to
# the positive, with all equal, with one negative twice; entries whose caption another one has.
FDRD = {
  "flower_test": (2463, 102, 12, 77, 4, 96, 55, 202, 57),
  "pets_test": (3669, 37, 88, 100, 4, 344, None, 581, 12),
  "plane_test": (3333, 100, 33, 34, 4, 10, None, 207, 60),
  "inter_caltech-101_train": (5777, 100, 22, 560, 0, 0, 0, 0, 77),
  "inter_caltech-101_test": (2465, 100, 9, 240, 0, 0, 0, 0, 25),
  "inter_dtd_train": (3948, 47, 84, 84, 0, 0, 0, 0, 38),
  "inter_dtd_test": (1692, 47, 36, 36, 0, 0, 0, 0, 14),
  "inter_ucf101_train": (9537, 101, 72, 121, 0, 0, 0, 0, 999),
  "inter_ucf101_test": (3783, 101, 28, 49, 0, 0, 0, 0, 369),
  "inter_car_train": (6094, 147, 24, 68, 0, 0, 0, 0, 30),
}


@needs_shared
@pytest.mark.parametrize("name", FDRD)
def test_the_files_of_fdrd_have_the_counts_and_quirks_that_were_measured(name):
  listed = fdrd.read_file(SHARED / f"fdrd/{name}.json", "captions.file")
  per_class = collections.Counter(listed.classes).values()
  pairs = list(zip(listed.captions, listed.negatives, strict=True))
  equal = [negatives.count(caption) for caption, negatives in pairs]
  same = collections.Counter(listed.captions)
  entries, num, least, most, each, some, every, twice, shared = FDRD[name]
  assert len(listed.paths) == len(set(listed.paths)) == entries
  assert (len(per_class), min(per_class), max(per_class)) == (num, least, most)
  assert {len(negatives) for _, negatives in pairs} == {each}
  assert sum(count > 0 for count in equal) == some
  assert every is None or sum(each > 0 and count == each for count in equal) == every
  assert sum(len(set(negatives)) < each for _, negatives in pairs) == twice
  assert sum(count for count in same.values() if count > 1) == shared
  assert not any("/root" in path or "YOUR" in path for path in listed.paths)
  assert not any("_" in label for label in listed.classes)


@needs_shared
@pytest.mark.parametrize(("name", "count"), [("caltech-101", 41), ("dtd", 16), ("ucf101", 66)])
def test_some_strings_of_fdrd_are_in_train_and_test(name, count):
  files = (SHARED / f"fdrd/inter_{name}_{split}.json" for split in ("train", "test"))
  one, two = (set(fdrd.read_file(file, "captions.file").captions) for file in files)
  assert len(one & two) == count


@needs_shared
def test_the_cars_of_fdrd_split_by_images_and_by_classes():
  config = config_of(
    source="fdrd", file=str(SHARED / "fdrd/inter_car_train.json"), split="images",
    data__root=str(SHARED / "stanford_cars"),
  )  # fmt: skip
  splits = captions.load_splits(config)
  train, test = splits["train"], splits["test"]
  assert (len(train.captions), len(test.captions)) == (4935, 1159) and "val" not in splits
  assert train.class_names == test.class_names and len(set(test.labels.tolist())) == 147
  sizes = np.bincount(test.labels)
  assert (sizes.min(), sizes.max()) == (4, 13)
  oracle = [statistics.mean(min(k, sizes[label]) / sizes[label] for label in test.labels)
            for k in (1, 5, 10)]  # fmt: skip
  np.testing.assert_allclose(oracle, [0.127, 0.633, 0.997], atol=5e-4)
  # Every fifth of a class, in the order of their numbers.
  both = [(name, label) for x in (train, test) for name, label in zip(x.ids, x.labels, strict=True)]
  own = sorted(both)
  first = [name for name, label in own if label == 0]
  assert [name for name in first if name in set(test.ids)] == first[4::5]
  assert train.captions[0].startswith(f"This is a photo of {train.class_names[train.labels[0]]}.")
  assert not train.partial and images.of_dataset(captions.as_dataset(train), 0).mode == "RGB"


LAYOUTS = [
  ("flower", "monkshood_image_06422", "monk_hood", "monk hood", "jpg/image_06422.jpg"),
  ("pets", "american_bulldog_43", None, "american bulldog", "images/american_bulldog_43.jpg"),
  ("plane", "707-320_1514522", None, "707-320", "images/1514522.jpg"),
  ("plane", "F_A-18_0012345", None, "F/A-18", "images/0012345.jpg"),
  ("plane", "F-16A_B_0012345", None, "F-16A/B", "images/0012345.jpg"),
  ("car", "cars_test_05266.jpg", "2012 Audi", "2012 Audi", "cars_test/05266.jpg"),
  ("caltech", "Faces_image_0426.jpg", "face", "face", "101_ObjectCategories/Faces/image_0426.jpg"),
  ("dtd", "banded_0060.jpg", "banded", "banded", "images/banded/banded_0060.jpg"),
  ("ucf", "v_YoYo_g07_c04.jpg", "Yo_Yo", "Yo Yo", "UCF-101-midframes/Yo_Yo/v_YoYo_g07_c04.jpg"),
]


def item(name=None, positive="This is a bird.", **more):
  return ({} if name is None else {"class_name": name}) | {
    "file_name": "x", "file_path": "/root/x.jpg", "positive": positive, "negative": [], **more
  }  # fmt: skip


@pytest.mark.parametrize(("kind", "key", "name", "label", "path"), LAYOUTS)
def test_class_and_image_of_each_domain(tmp_path, kind, key, name, label, path):
  file = tmp_path / f"inter_{kind}_train.json"
  file.write_text(json.dumps({key: item(name)}), encoding="utf-8")
  listed = fdrd.read_file(file, "captions.file")
  assert (list(listed.classes), list(listed.paths)) == ([label], [path])


@pytest.mark.parametrize(
  ("name", "text", "said"),
  [
    ("dtd.json", "{}", "has no caption.*earlier version"),
    ("dtd.json", "[1]", "is no file of FDRD"),
    ("dtd.json", '{"banded_1.jpg": {"positive": ""}}', "is no file of FDRD"),
    ("dtd.json", '{"banded_1.jpg": ', "cannot be read as JSON"),
    ("words.json", json.dumps({"banded_1.jpg": item("a")}), "tells no domain.*layout="),
    ("dtd.json", json.dumps({"Sphynx_4": item("a")}), "'Sphynx_4' is none of this domain"),
    ("dtd.json", json.dumps({"banded_1.jpg": item()}), "no class_name"),
    ("dtd.json", '{"a_1.jpg": %s, "a_1.jpg": %s}' % ((json.dumps(item("a")),) * 2), "1 key twice"),
    ("dtd.json", json.dumps({"banded_1.jpg": item("a")}), "is listed but missing.*1 image in all"),
  ],
)
def test_a_file_of_fdrd_that_cannot_be_is_one_line(tmp_path, name, text, said):
  (tmp_path / name).write_text(text, encoding="utf-8")
  refused(said, source="fdrd", file=str(tmp_path / name), split="images")


PAIRS = [
  {"image": f"x/{k}.png", "caption": f"picture, {k % 7} of \"{name}\"", "class": name}
  for k, name in enumerate(["red_elm"] * 6 + ["fir"] * 5 + ["ash"] * 5)
]  # fmt: skip


def write(root, rows, kind="csv"):
  (root / "x").mkdir(exist_ok=True)
  for k in range(16):
    Image.new("RGB", (9, 8), (k, 0, 0)).save(root / f"x/{k}.png")
  file = root / f"list.{kind}"
  if kind == "parquet":
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
  elif kind == "jsonl":
    file.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
  elif kind == "json":
    file.write_text(json.dumps(rows), encoding="utf-8")
  else:
    with open(file, "w", encoding="utf-8-sig", newline="") as out:
      writer = csv.DictWriter(out, list(rows[0]))
      writer.writeheader()
      writer.writerows(rows)
  return {"source": "table", "file": str(file)}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_one_table_in_each_format(tmp_path, kind):
  splits = captions.load_splits(config_of(**write(tmp_path, PAIRS[::-1], kind), split="images"))
  train, test = splits["train"], splits["test"]
  assert train.class_names == ("ash", "fir", "red elm") == test.class_names
  assert test.ids == ("x/4.png", "x/10.png", "x/15.png")
  assert test.captions == [PAIRS[k]["caption"] for k in (4, 10, 15)]
  assert train.ids[-1] == "x/14.png" and train.labels[-1] == 0
  assert images.of_dataset(captions.as_dataset(test), 1).getpixel((0, 0)) == (10, 0, 0)
  assert train.content != test.content and train.negatives is None


def test_whole_classes_and_what_is_held_out_for_validation(tmp_path):
  table = write(tmp_path, PAIRS)
  splits = captions.load_splits(config_of(**table, split="classes", data__train_fraction=0.7))
  assert splits["train"].class_names == ("ash", "fir")
  assert splits["test"].class_names == ("red elm",) and len(splits["test"].captions) == 6
  names = tmp_path / "test.txt"
  names.write_text("fir\n", encoding="utf-8")
  held = config_of(**table, split="classes", data__test_classes=str(names), val_fraction=0.4)
  splits = captions.load_splits(held)
  assert splits["test"].class_names == ("fir",)
  assert splits["val"].class_names == splits["train"].class_names == ("ash", "red elm")
  assert splits["val"].ids == ("x/2.png", "x/4.png", "x/13.png", "x/15.png")
  assert not set(splits["val"].ids) & set(splits["train"].ids)
  more = [row | {"class": row["class"] + end} for row in PAIRS for end in ("", "2")][:16]
  more = [row | {"image": f"x/{k}.png"} for k, row in enumerate(more)]
  by_class = config_of(**write(tmp_path, more), split="classes", data__num_val_classes=1,
                       data__train_fraction=0.75)  # fmt: skip
  found = captions.load_splits(by_class)
  names = [found[split].class_names for split in ("train", "val", "test")]
  assert [len(x) for x in names] == [2, 1, 1] and len(set().union(*names)) == 4


def test_the_images_of_one_half_of_the_classes(tmp_path):
  table, half = write(tmp_path, PAIRS), {"split": "images", "data__train_fraction": 0.7}
  seen, unseen, every, apart = (
    captions.load_splits(config_of(**table, **more))
    for more in (
      *(half | {"classes": side} for side in ("train", "test")),
      {"split": "images"},
      half | {"split": "classes"},
    )
  )
  for found, name in ((seen, "train"), (unseen, "test")):
    both = found["train"].ids + found["test"].ids
    assert sorted(both) == sorted(apart[name].ids)
    assert found["train"].class_names == found["test"].class_names == apart[name].class_names
    labels = [found["test"].class_names[k] for k in found["test"].labels]
    own = [PAIRS[int(x[2:-4])]["class"].replace("_", " ") for x in found["test"].ids]
    assert labels == own
  # An image is on the same side, whichever classes take part.
  assert sorted(seen["test"].ids + unseen["test"].ids) == sorted(every["test"].ids)
  assert unseen["train"].image_of.tolist() == list(range(len(unseen["train"].ids)))
  bare = [{"image": row["image"], "caption": row["caption"]} for row in PAIRS]
  refused("captions.classes=test: the captions have no classes",
          **write(tmp_path, bare), split="images", classes="test")  # fmt: skip


def test_splits_of_a_column_and_of_a_second_file(tmp_path):
  side = ["train"] * 9 + ["validation"] * 2 + ["test"] * 5
  rows = [row | {"split": split} for row, split in zip(PAIRS, side, strict=True)]
  splits = captions.load_splits(config_of(**write(tmp_path, rows)))
  assert [len(splits[x].captions) for x in ("train", "val", "test")] == [9, 2, 5]
  # The test is of a class of its own; validation shares its classes with training.
  assert splits["test"].class_names == ("ash",)
  assert splits["val"].class_names == splits["train"].class_names == ("fir", "red elm")
  second = tmp_path / "more.jsonl"
  second.write_text("\n".join(map(json.dumps, PAIRS[9:])), encoding="utf-8")
  both = write(tmp_path, PAIRS[:9]) | {"test_file": str(second)}
  splits = captions.load_splits(config_of(**both))
  assert (len(splits["train"].captions), len(splits["test"].captions)) == (9, 7)
  assert splits["train"].class_names == splits["test"].class_names, "fir is in both"
  only = config_of(source="table", test_file=str(second))
  assert len(captions.load_splits(only, ["test"])["test"].captions) == 7
  refused("no row for split train", source="table", test_file=str(second))


def test_several_captions_of_an_image_stay_together(tmp_path):
  rows = [{"file_name": f"x/{k}.png", "text": [f"a {k}", f"b {k}", "c"]} for k in range(10)]
  splits = captions.load_splits(config_of(**write(tmp_path, rows, "jsonl"), split="images"))
  test = splits["test"]
  assert test.ids[:4] == ("x/4.png", "x/4.png#2", "x/4.png#3", "x/9.png")
  assert test.image_of.tolist() == [0, 0, 0, 1, 1, 1] and test.num_images == 2
  assert captions.one_per_image(test).tolist() == [0, 3]
  assert test.labels.tolist() == [-1] * 6 and test.class_names == ()
  of, distinct = captions.equal_captions(test.captions)
  assert of.tolist() == [0, 1, 2, 3, 4, 2] and distinct[2] == "c"


def test_negatives_ids_and_captions_made_of_columns(tmp_path):
  rows = [
    {"path": f"x/{k}.png", "Type": "Shirt", "Colour": c, "id": f"p{k}", "negatives": n}
    for k, (c, n) in enumerate([("Red", '["no", "none"]'), ("NA", "not"), ("Blue", "")])
  ]
  table = write(tmp_path, rows) | {"template": "A {colour} {type}, nice", "class_column": "type"}
  (train,) = captions.load_splits(
    config_of(**table, split="images", test_fraction=0.1), ["train"]
  ).values()
  assert train.captions == ["A Red Shirt, nice", "A Shirt, nice", "A Blue Shirt, nice"]
  assert train.negatives == [["no", "none"], ["not"], []] and train.ids == ("p0", "p1", "p2")
  assert train.class_names == ("Shirt",)


def test_parquet_that_holds_the_images(tmp_path):
  write(tmp_path, PAIRS)
  rows = [
    {
      "image": {"bytes": (tmp_path / row["image"]).read_bytes(), "path": None},
      "text": row["caption"],
    }
    for row in PAIRS
  ]
  parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "own.parquet", row_group_size=5)
  table = {"source": "table", "file": str(tmp_path / "own.parquet"), "split": "images"}
  test = captions.load_splits(config_of(**table), ["test"])["test"]
  assert test.ids == ("own.parquet#4", "own.parquet#9", "own.parquet#14")
  reds = [images.of_dataset(captions.as_dataset(test), k).getpixel((0, 0))[0] for k in range(3)]
  assert reds == [4, 9, 14] and test.captions[1] == PAIRS[9]["caption"]


def changed(row, **values):
  return [*PAIRS[:row], PAIRS[row] | values, *PAIRS[row + 1 :]]


@pytest.mark.parametrize(
  ("rows", "kind", "changes", "said"),
  [
    ([{"image": "a", "words": "b"}], "csv", {}, "needs the columns image and caption; it has"),
    ([{"picture": "a", "caption": "b"}], "csv", {}, "needs the columns image and caption"),
    (changed(3, caption=" "), "csv", {}, "row 4: no caption"),
    (changed(3, caption=[]), "jsonl", {}, "row 4: no caption"),
    (changed(3, caption=None), "jsonl", {}, "row 4: no caption"),
    (changed(3, image=""), "csv", {}, "row 4: no image"),
    (changed(3, image="http://x/y.png"), "csv", {}, "row 4: .* is a URL"),
    (changed(3, image="x/99.png"), "csv", {}, "99.png is listed but missing .1 image in all"),
    (changed(3, **{"class": ""}), "csv", {}, "row 4: no class"),
    (changed(3, **{"class": "Red elm"}), "csv", {}, "differ in case"),
    ([*PAIRS, PAIRS[3]], "csv", {}, "lists x/3.png twice with the same caption"),
    ([*PAIRS, PAIRS[3] | {"image": "./x/3.png"}], "csv", {}, "lists x/3.png twice"),
    ([*PAIRS, PAIRS[3] | {"class": "fir", "caption": "y"}], "csv", {}, "of class 'red elm' and of"),
    (PAIRS, "csv", {"split": "own"}, "has no split of its own"),
    (PAIRS, "csv", {"class_column": "kind"}, "class_column=kind: .* has the columns image"),
    (PAIRS, "csv", {"template": "a {kind}"}, "'kind' is no column"),
    (PAIRS, "csv", {"template": "a thing"}, "no column in braces"),
    (PAIRS, "csv", {"template": "a {class"}, "captions.template=a .class: "),
    (PAIRS, "csv", {"data__root": "/no/where"}, "data.root=/no/where is not a folder"),
    (PAIRS, "csv", {"data__train_fraction": 0.7}, "captions.split=images does not read it"),
    (PAIRS, "csv", {"data__num_val_classes": 1}, "in train and test, so it cannot take out"),
    (PAIRS, "csv", {"val_fraction": 0.01}, "no image is held out"),
    (PAIRS, "csv", {"val_fraction": 0.5, "data__num_val_classes": 1}, "holds out whole classes al"),
    ([x | {"id": "p"} for x in PAIRS], "csv", {}, "id 'p' stands there twice"),
    ([x | {"split": "gallery"} for x in PAIRS], "csv", {}, "row 1: split 'gallery' is none of"),
    ([{"image": "a", "caption": ["x", "y"], "negatives": ["z"]}], "jsonl", {}, "a row for each"),
    ([{"image": "a", "caption": "x", "negatives": [1]}], "jsonl", {}, "are a list of texts"),
    ([{"image": "a", "caption": "x"}], "jsonl", {"split": "classes"}, "missing"),
    (
      [PAIRS[0] | {"split": "train"}, PAIRS[0] | {"split": "test", "caption": "y"}],
      "csv", {"split": "own"}, "an image belongs to one",
    ),
  ],
)  # fmt: skip
def test_a_table_that_cannot_be_is_one_line(tmp_path, rows, kind, changes, said):
  refused(said, **(write(tmp_path, rows, kind) | {"split": "images"} | changes))


@pytest.mark.parametrize(
  ("name", "text", "said"),
  [
    ("a.jsonl", '{"image": "a"}\n{"image"', "line 2 is not JSON"),
    ("a.jsonl", "", "has no row"),
    ("a.jsonl", "3\n", "each row is an object"),
    ("a.json", json.dumps({"x_1": item("a")}), "captions.source=fdrd"),
    ("a.csv", "image,caption\nx,y,z\n", "3 fields, not the 2"),
    ("a.parquet", "PAR1 no", "cannot be read as Parquet"),
    ("a.csv", "PK\x03\x04", "is a spreadsheet"),
  ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path, name, text, said):
  (tmp_path / name).write_text(text, encoding="utf-8")
  refused(said, source="table", file=str(tmp_path / name), split="images")


def test_files_that_are_not_given_or_not_there(tmp_path):
  refused("pass --config.captions.file=FILE, JSONL, CSV or Parquet", source="table")
  refused("no such file", source="fdrd", file="/no/file.json")
  refused("a folder, not a JSONL, CSV or Parquet", source="table", file=str(tmp_path))


def test_missing_images_are_counted_and_left_out_where_a_partial_copy_is_allowed(tmp_path, caplog):
  table = write(tmp_path, changed(3, image="x/99.png"))
  config = config_of(**table, split="images", data__expect_counts=False)
  train = captions.load_splits(config, ["train"])["train"]
  assert (
    train.partial and "x/99.png" not in train.ids and "1 image listed and not on" in caplog.text
  )


@needs_shared
def test_the_fashion_folder_by_documented_columns():
  config = config_of(
    source="table", file=str(SHARED / "fashion/metadata.csv"), class_column="type",
    template="{name}, a {colour} product for {gender}, {usage}", split="classes",
  )  # fmt: skip
  splits = captions.load_splits(config)
  train, test = splits["train"], splits["test"]
  assert len(train.class_names) + len(test.class_names) == 68
  assert not set(train.class_names) & set(test.class_names)
  assert len(train.captions) + len(test.captions) == 8359
  assert not any(", NA" in text or text.endswith(",") for text in train.captions)
