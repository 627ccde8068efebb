"""Manifests: the same table as CSV, TSV and Parquet."""

import csv

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from lafg_jax.data import datasets, images
from lafg_jax.utils.errors import UserError

PLAIN = [
  {"path": "x/2.jpg", "label": 1, "class": "dark_elm"},
  {"path": "x/1.jpg", "label": 1, "class": "dark_elm"},
  {"path": "x/0.jpg", "label": 0, "class": "fir"},
  {"path": "x/3.jpg", "label": 5, "class": "ash"},
  {"path": "x/4.jpg", "label": 7, "class": "oak"},
]


def write(root, rows, kind="csv"):
  (root / "x").mkdir(parents=True, exist_ok=True)
  for k in range(6):
    Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12) + 10 * k).save(root / f"x/{k}.jpg")
  file = root / f"list.{kind}"
  if kind == "parquet":
    table = pyarrow.Table.from_pylist(rows).append_column("blob", [[b"x"] * len(rows)])
    parquet.write_table(table, file)
  else:
    with open(file, "w", encoding="utf-8-sig", newline="") as out:
      writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
      writer.writeheader()
      writer.writerows(rows)
  return file


def load(section, file, **changes):
  return datasets.load_splits(section("manifest", manifest=str(file), **changes))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_labels_set_the_order_of_classes(tmp_path, section, kind):
  splits = load(section, write(tmp_path, PLAIN, kind))
  train, test = splits["train"], splits["test"]
  assert train.class_names == ("fir", "dark elm") and test.class_names == ("ash", "oak")
  assert train.ids == ("x/0.jpg", "x/1.jpg", "x/2.jpg") and train.labels.tolist() == [0, 1, 1]
  assert train.images.tolist() == [str(tmp_path / name) for name in train.ids]
  assert train.boxes is None and train.is_query is None


def test_label_or_class_alone_and_absolute_paths(tmp_path, section):
  numbers = [{"path": str(tmp_path / row["path"]), "label": row["label"]} for row in PLAIN]
  file = write(tmp_path, numbers)
  train = load(section, file, root="/")["train"]
  assert train.class_names == ("class 0", "class 1")
  assert train.images[0] == str(tmp_path / "x/0.jpg") == train.ids[0]
  names = [{"path": row["path"], "class": row["class"]} for row in PLAIN]
  splits = load(section, write(tmp_path, names))
  assert splits["train"].class_names == ("ash", "dark elm")
  assert splits["test"].class_names == ("fir", "oak")


def test_query_and_gallery(tmp_path, section):
  of = {"dark_elm": "query", "fir": "train", "ash": "train", "oak": "train"}
  rows = [row | {"split": of[row["class"]]} for row in PLAIN]
  rows[1]["split"] = "gallery"
  splits = load(section, write(tmp_path, rows))
  test = splits["test"]
  assert test.ids == ("x/1.jpg", "x/2.jpg") and test.is_query.tolist() == [False, True]
  assert splits["train"].is_query is None or not splits["train"].is_query.any()


def test_an_evaluation_is_stale_when_other_rows_query(tmp_path, section):
  of = {"dark_elm": ("test", "test"), "fir": ("train",), "ash": ("train",), "oak": ("train",)}
  found = []
  for asks in (("test", "test"), ("query", "gallery"), ("gallery", "query")):
    of["dark_elm"] = asks
    rows = [row | {"split": of[row["class"]][k == 1 and -1]} for k, row in enumerate(PLAIN)]
    data = section("manifest", manifest=str(write(tmp_path, rows)))
    splits = datasets.load_splits(data)
    found.append([datasets.content_fingerprint(data, split) for split in ("train", "test")])
    found[-1].append(datasets.fingerprint(splits["test"]))
  trains, tests, trained_on = zip(*found, strict=True)
  assert len(set(tests)) == 3 and len(set(trains)) == len(set(trained_on)) == 1


def test_validation_classes_of_the_table(tmp_path, section):
  of = {"dark_elm": "train", "fir": "val", "ash": "train", "oak": "test"}
  file = write(tmp_path, [row | {"split": of[row["class"]]} for row in PLAIN])
  splits = load(section, file, num_val_classes=1)
  assert {name: split.class_names for name, split in splits.items()} == {
    "train": ("dark elm", "ash"),
    "val": ("fir",),
    "test": ("oak",),
  }
  assert datasets.class_splits(section("manifest", manifest=str(file), num_val_classes=1)) == {
    name: split.class_names for name, split in splits.items()
  }
  with pytest.raises(UserError, match="num_val_classes=0: .* pass --config.data.num_val_classes=1"):
    load(section, file)


def test_boxes_cut_and_several_of_one_picture_are_several_images(tmp_path, section):
  boxes = [(0, 0, 6, 4), (2, 3, 12, 8), ("", "", "", "")]
  rows = [
    {
      "path": "x/0.jpg",
      "class": "ab"[k % 2],
      **dict(zip(("left", "top", "right", "bottom"), box, strict=True)),
    }
    for k, box in enumerate(boxes)
  ]
  train = load(section, write(tmp_path, rows), train_fraction=1.0)["train"]
  sizes = [images.of_dataset(train, row).size for row in range(3)]
  assert sizes == [(6, 4), (12, 8), (10, 5)]
  assert len(set(train.ids)) == 3 and train.ids[0] == "x/0.jpg#0,0,6,4"
  whole = np.asarray(Image.open(tmp_path / "x/0.jpg"))
  assert np.array_equal(np.asarray(images.of_dataset(train, 2))[..., 0], whole[3:8, 2:12])


def change(**columns):
  return [row | columns for row in PLAIN]


@pytest.mark.parametrize(
  "rows, said",
  [
    (
      [{"photo": "x/0.jpg", "lable": 0}],
      "needs the columns path, and label or class; it has photo, lable .'lable' may be label.",
    ),
    ([{"path": "x/0.jpg", "split": "train"}], "it has path, split"),
    ([*PLAIN, PLAIN[0]], "lists x/2.jpg twice"),
    (change(label="bmw"), "label 'bmw' is no whole number"),
    (change(label=1.5), "label '1.5' is no whole number"),
    (change(label=-1), "label '-1' is no whole number"),
    (change(label=1), "label 1 is 'fir' and 'dark_elm'"),
    (
      [*PLAIN, PLAIN[0] | {"path": "x/5.jpg", "label": 9}],
      "classes '1' and '9' are both named 'dark elm'",
    ),
    (change(**{"class": ""}), "row 3: no class"),
    (change(path=""), "row 1: no path"),
    (change(split="fold 1"), "row 1: split 'fold 1' is none of train, val, test"),
    (change(split="test"), "no row of split train"),
    ([*PLAIN, PLAIN[0] | {"path": "./x//2.jpg"}], "lists x/2.jpg twice"),
    (change(split="query"), "splits query: the test takes either"),
    (change(left=1, top=1), "has left, top alone"),
    (change(left=5, top=1, right=5, bottom=9), "row 1: the box 5, 1, 5, 9 has no area"),
    (change(left=-5, top=-5, right=0, bottom=0), "the box -5, -5, 0, 0 has no area"),
    (change(left="a", top=1, right=5, bottom=9), "the box a, 1, 5, 9"),
    ([*PLAIN, PLAIN[3] | {"path": "x/9.jpg"}], "x/9.jpg is listed but missing"),
  ],
)
def test_a_bad_table_is_one_line(tmp_path, section, rows, said):
  with pytest.raises(UserError, match=said) as error:
    load(section, write(tmp_path, rows))
  assert "\n" not in str(error.value)


def test_classes_on_both_sides_and_keys_beside_a_split(tmp_path, section):
  rows = change(split="train")
  rows[0]["split"] = "test"
  with pytest.raises(UserError, match="1 class in both train and test, such as 'dark elm'"):
    load(section, write(tmp_path, rows))
  with pytest.raises(UserError, match="data.split_seed=3: .* has a column 'split'"):
    load(section, write(tmp_path, rows), split_seed=3)


def test_missing_images_may_be_left_out(tmp_path, section):
  rows = [*PLAIN, {"path": "x/9.jpg", "label": 0, "class": "fir"}]
  splits = load(section, write(tmp_path, rows), expect_counts=False)
  assert len(splits["train"]) == 3 and splits["train"].partial and splits["test"].partial
  assert not load(section, write(tmp_path, PLAIN), expect_counts=False)["test"].partial
  gone = [{"path": "y/1.jpg", "label": 0}]
  with pytest.raises(UserError, match="none of the images .* pass --config.data.root"):
    load(section, write(tmp_path, gone), expect_counts=False)


def test_one_file_by_its_absolute_path_as_well(tmp_path, section):
  rows = change(split="train") + [{"path": "oak.jpg", "label": 9, "class": "x", "split": "test"}]
  rows[-1]["path"] = str(tmp_path / "x/../x/2.jpg")
  with pytest.raises(UserError, match="lists .*x/2.jpg twice"):
    load(section, write(tmp_path, rows))


@pytest.mark.parametrize("gone", ["train", "val", "query", "gallery"])
def test_a_split_without_any_image_is_one_line(tmp_path, section, gone):
  splits = ("query", "gallery", "train", "train", "val")
  rows = [row | {"split": split} for row, split in zip(PLAIN, splits, strict=True)]
  test = load(section, write(tmp_path, rows), num_val_classes=1)["test"]
  assert test.is_query.tolist() == [False, True]
  for row in rows:
    row["path"] = row["path"].replace("x/", "gone/" if row["split"] == gone else "x/")
  with pytest.raises(UserError, match=f"of split {gone} no image is below .*data.root") as error:
    load(section, write(tmp_path, rows), num_val_classes=1, expect_counts=False)
  assert "\n" not in str(error.value)


def test_bytes_of_parquet_are_texts_or_refused(tmp_path, section):
  rows = [{key: x.encode() for key, x in row.items() if key != "label"} for row in PLAIN]
  splits = load(section, write(tmp_path, rows, "parquet"))
  assert splits["train"].class_names == ("ash", "dark elm")
  rows[0]["class"] = b"\xff\xfe"
  with pytest.raises(UserError, match="column 'class' holds bytes that are no UTF-8 text"):
    load(section, write(tmp_path, rows, "parquet"))


def test_a_repeated_column_is_refused_where_it_is_read(tmp_path, section):
  file = write(tmp_path, PLAIN)
  for head, said in (("path, path ,class", "path"), ("path,class,class", "class")):
    file.write_text(f"{head}\nx/0.jpg,x/1.jpg,a\n")
    with pytest.raises(UserError, match=f"has 2 columns '{said}': keep one"):
      load(section, file)
  file.write_text("path,class,,\nx/0.jpg,a,,\nx/1.jpg,b,,\n")
  assert load(section, file)["train"].class_names == ("a",)
  twice = pyarrow.table([["x/0.jpg"], ["x/1.jpg"], ["a"]], names=["path", "path", "class"])
  parquet.write_table(twice, tmp_path / "list.parquet")
  with pytest.raises(UserError, match="has 2 columns 'path'"):
    load(section, tmp_path / "list.parquet")


@pytest.mark.parametrize(
  "name, content, said",
  [
    ("a.csv", b"", "is empty"),
    ("a.csv", b"path,label\n", "lists no image"),
    ("a.csv", b"path,label\nx.jpg\n", "row 1: 1 fields, not the 2"),
    ("a.csv", b"path,class\nx.jpg,\xff\xfe\n", "cannot be read as a CSV file in UTF-8"),
    ("a.csv", b'path,class\n"x.jpg,1\n', "cannot be read as a CSV"),
    ("a.parquet", b"path,label\n", "cannot be read as Parquet"),
    ("a.csv", None, "manifest=.*a.csv: no such file"),
  ],
)
def test_a_damaged_file_is_one_line(tmp_path, section, name, content, said):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=said) as error:
    load(section, tmp_path / name)
  assert "\n" not in str(error.value)


ROWS = [("x/0.jpg", "fir"), ("x/1.jpg", "elm"), ("x/2.jpg", "elm"), ("x/3.jpg", "ash")]
HALVES = {"train": ("ash", "elm"), "test": ("fir",)}


def text(head="path,class", rows=ROWS, mark=",", end="\n"):
  return end.join([head, *(mark.join(row) for row in rows)]) + end


def halves(train="train", test="test"):
  return [(*row, test if row[1] == "fir" else train) for row in ROWS]


@pytest.mark.parametrize(
  "content",
  [
    *(text("path;class", mark=";"), text("path\tclass", mark="\t"), text("path|class", mark="|")),
    *(text("path, class", [(a, f' "{b}"') for a, b in ROWS]), text("filepaths,labels")),
    *(text(end="\r\n"), text(end="\r"), text(end="\n\n"), text(end=" \n,\n"), text() + "\n \n"),
    *("\ufeff" + text(), text(" Path , CLASS "), text("Image Path,Class Name")),
    *(text("filename,species"), text("image_path,label"), text("file,labels"), text("img,Label")),
    text('"path","class"', [(f'"{a}"', f'"{b}"') for a, b in ROWS]),
    text("path,class,", [(*row, "") for row in ROWS]),
    text("path,class", [(*row, "") for row in ROWS]),
    text(rows=[(a.replace("/", "\\"), b) for a, b in ROWS]),
    text(rows=[(".\\" + a.replace("/", "\\"), b) for a, b in ROWS]),
    text(rows=[(f"  ./{a}", f" {b} ") for a, b in ROWS]),
    text(rows=[(f"~/{a}", b) for a, b in ROWS]),
    text("path,class,note", [(*row, '"a, b ""c"""') for row in ROWS]),
    text("path;class;note", [(*row, "1,5") for row in ROWS], ";"),
    *(text("path,class,set", halves("1", "2")), text("path,class,fold", halves("a", "b"))),
  ],
)
def test_tables_as_programs_write_them(tmp_path, section, monkeypatch, content):
  monkeypatch.setenv("HOME", str(tmp_path))
  file = write(tmp_path, PLAIN)
  file.write_bytes(content.encode())
  splits = load(section, file)
  assert {name: split.class_names for name, split in splits.items()} == HALVES
  for split in splits.values():
    for path, k in zip(split.images, split.labels, strict=True):
      assert (str(path).removeprefix(f"{tmp_path}/"), split.class_names[k]) in ROWS


@pytest.mark.parametrize(
  ("head", "train", "test"),
  [
    *(("split", "Train", "Test"), ("split", "TRAIN", "TEST"), ("Split", "training", "testing")),
    *(("SPLIT", "trn", "tst"), ("subset", "train", "test"), ("Set", "Training", "Eval")),
    *(
      ("data set", "train", "test"),
      ("usage", "Training", "Holdout"),
      ("split", "train_set", "test-set"),
    ),
  ],
)
def test_splits_in_any_usual_spelling(tmp_path, section, head, train, test):
  file = write(tmp_path, PLAIN)
  file.write_text(text(f"path,class,{head}", halves(train, test)))
  splits = load(section, file)
  assert {name: split.class_names for name, split in splits.items()} == HALVES


@pytest.mark.parametrize("zero", ["0", "0.0", "0.00", "0e0", " 0.0 ", "+0", "00"])
def test_whole_numbers_however_they_are_written(tmp_path, section, zero):
  file = write(tmp_path, PLAIN)
  file.write_text(f"path,label\nx/0.jpg,{zero}\nx/1.jpg,1.0\nx/2.jpg,1\nx/3.jpg,10.0\n")
  splits = load(section, file)
  assert splits["train"].class_names == ("class 0", "class 1")
  assert splits["train"].labels.tolist() == [0, 1, 1] and splits["test"].class_names == (
    "class 10",
  )


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (text().encode("utf-16"), "is a text in UTF-16: save it in UTF-8"),
    (text().encode("utf-16-be"), "cannot be read as a CSV|needs the columns"),
    (b"PK\x03\x04 xl/workbook.xml", "is a spreadsheet or an archive: save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", "is a spreadsheet: save the sheet as CSV"),
    (b'{"path": "x/0.jpg"}\n', "is JSON"),
    (b"\x1f\x8b\x08", "is compressed: unpack it"),
    ("path,class\nx/ß.jpg,é\n".encode("latin-1"), "cannot be read as a CSV file in UTF-8"),
    (text("image,file,class", [(r[0], *r) for r in ROWS]).encode(), "columns image and file: call"),
    (b"x/0.jpg,fir\nx/1.jpg,elm\n", "needs the columns path, and label or class; it has x/0.jpg"),
    (
      text("path,class,usage", halves("train", "Public")).encode(),
      "'usage' names splits, but also",
    ),
    (text("path,class", [*ROWS, ROWS[0]]).encode(), "lists x/0.jpg twice: remove one row"),
    (b'path,class\n"x/0\n.jpg",fir\n', "row 1: the path 'x/0.n.jpg' has a control character"),
    (b"path,class\nhttps://a.b/x.jpg,fir\n", "row 1: https://a.b/x.jpg is a URL"),
    (b"path,class\nC:\\x\\0.jpg,fir\n", "C:/x/0.jpg is listed but missing"),
    (b"path,label\nx/0.jpg,\nx/1.jpg,elm\n", "row 1: no label"),
    (b"path,label\nx/0.jpg,nan\nx/1.jpg,1\n", "label 'nan' is no whole number"),
    (b"path,label\nx/0.jpg,inf\nx/1.jpg,1\n", "label 'inf' is no whole number"),
    (b"path,class,split\nx/0.jpg,fir,train\nx/1.jpg,elm,\n", "row 2: split '' is none of"),
    # What would train on the user's test, or forget a box, without a word.
    (text("path,class,is_train", halves("1", "0")).encode(), "'is_train' looks like a split"),
    (text("path,class,is_valid", halves("0", "1")).encode(), "'is_valid' looks like a split"),
    (text("path,class,where", halves("Train", "Test")).encode(), "'where' looks like a split"),
    (
      text("path,class", [*ROWS[:3], ("x/3.jpg", "Elm")]).encode(),
      "'Elm' and 'elm' differ in case",
    ),
    (
      text("path,class,x1,y1,x2,y2", [(*row, "0.1", "0.1", "0.5", "0.9") for row in ROWS]).encode(),
      "boxes are fractions of the image: write them in pixels",
    ),
    (
      text("path,class,xmin,ymin,xmax,ymax", [(*row, "0", "0", "1", "1") for row in ROWS]).encode(),
      "boxes are fractions",
    ),
  ],
)
def test_what_is_no_table_is_one_line(tmp_path, section, one_line, content, said):
  file = write(tmp_path, PLAIN)
  file.write_bytes(content)
  one_line(section("manifest", manifest=str(file)), said)


def test_a_manifest_that_is_a_folder_or_a_parquet_of_another_ending(tmp_path, section, one_line):
  one_line(section("manifest", manifest=str(tmp_path)), "a folder, not a CSV or Parquet")
  file = write(
    tmp_path, [{"File Name": r["path"], "Species": r["class"]} for r in PLAIN], "parquet"
  )
  file = file.rename(tmp_path / "list.dat")
  assert load(section, file)["train"].class_names == ("ash", "dark elm")


def test_lists_in_a_parquet_are_no_names(tmp_path, section, one_line):
  write(tmp_path, PLAIN)
  table = pyarrow.table({"path": ["x/0.jpg", "x/1.jpg"], "class": [["fir"], ["elm", "oak"]]})
  parquet.write_table(table, tmp_path / "list.parquet")
  data = section("manifest", manifest=str(tmp_path / "list.parquet"))
  one_line(data, "the column 'class' holds lists")


def test_columns_that_are_not_read_are_told(tmp_path, section, caplog):
  file = write(tmp_path, PLAIN)
  file.write_text(text("path,class,x,width", [(*row, "1", "2") for row in ROWS]))
  with caplog.at_level("INFO", logger="absl"):
    load(section, file)
  assert "columns not read: 'x', 'width'" in caplog.text


def test_images_within_a_parquet_are_not_taken_for_paths(tmp_path, section, one_line):
  write(tmp_path, PLAIN)
  table = pyarrow.table({"image": [{"bytes": b"x", "path": "x/0.jpg"}], "label": [0]})
  parquet.write_table(table, tmp_path / "list.parquet")
  data = section("manifest", manifest=str(tmp_path / "list.parquet"))
  one_line(data, "needs the columns path")
