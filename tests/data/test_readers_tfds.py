"""Prepared tensorflow-datasets folders, written as ArrayRecord without TensorFlow."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from lafg_jax.data import datasets
from lafg_jax.utils.errors import UserError

LABELS = {"train": [2, 0, 3, 1, 0], "test": [1, 3]}
ROOT = Path(__file__).resolve().parents[2]


def load(section, builder, **changes):
  return datasets.load_splits(section("tfds", builder=str(builder), **changes))


def test_splits_are_pooled_in_the_order_of_the_labels(prepare, section, jpeg, greys):
  folder = prepare(LABELS, names=["wren", "auk", "snow_owl", "crow"])
  splits = load(section, folder)
  train, test = splits["train"], splits["test"]
  assert train.class_names == ("wren", "auk") and test.class_names == ("snow owl", "crow")
  # 'test' stands before 'train'; the grey of an image is ten times its number as written.
  assert train.ids == ("test/0", "train/1", "train/3", "train/4")
  assert greys(train) == [50, 10, 30, 40] and train.labels.tolist() == [1, 0, 1, 0]
  assert greys(test) == [60, 0, 20]
  assert train.images[0] == jpeg(50)


def test_found_by_name_and_version_below_the_data_dir(prepare, section):
  prepare({"train": [0, 1]}, version="1.0.0", names=["old", "x"])
  root = prepare({"train": [0, 1]}, version="1.10.0", names=["new", "x"]).parents[1]
  prepare({"train": [0, 1]}, version="1.9.0", names=["middle", "x"])

  def find(builder):
    return load(section, builder, root=str(root))["train"].class_names

  assert find("toy") == ("new",) and find("toy:1.0.0") == ("old",)
  prepare({"train": [0, 1]}, name="with", config="small", names=["small one", "x"])
  assert find("with/small") == ("small one",)
  with pytest.raises(UserError, match="configs small: pass --config.data.builder=with/small"):
    find("with")


def test_numbers_take_the_names_of_their_own_feature(prepare, section):
  labels = {"train": [0, 1, 2, 2]}
  plain = prepare(labels, name="plain")
  assert load(section, plain)["train"].class_names == ("class 0", "class 1")
  birds = prepare(labels, name="birds", extra={"label_name": lambda k: ["auk", "wren", "owl"][k]})
  assert load(section, birds)["train"].class_names == ("auk", "wren")
  named = load(section, birds, label_key="label_name")
  assert named["train"].class_names == ("auk", "owl") and named["train"].super_classes is None


def test_texts_beside_a_feature_of_names_are_one_line(prepare, section):
  extra = {"label_name": lambda k: f"n{k}", "label_name_name": lambda k: f"bird {k}"}
  folder = prepare({"train": [0, 1, 2, 2]}, extra=extra)
  said = "label_name holds no numbers .*: pass --config.data.label_key=label_name_name$"
  with pytest.raises(UserError, match=said):
    load(section, folder, label_key="label_name")
  assert load(section, folder, label_key="label_name_name")["train"].class_names[0] == "bird 0"


def test_images_can_be_pickled_and_have_a_version(prepare, section, greys):
  folder = prepare(LABELS)
  data = section("tfds", builder=str(folder))
  train = datasets.load_splits(data)["train"]
  greys(train)
  assert greys(pickle.loads(pickle.dumps(train))) == greys(train)
  before = datasets.content_fingerprint(data, "train")
  assert before == datasets.content_fingerprint(data, "train")
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace('"numBytes": "', '"numBytes": "1'))
  assert datasets.content_fingerprint(data, "train") != before


def test_other_images_of_the_same_records_are_other_content(prepare, section, jpeg, greys):
  folder = prepare(LABELS, extra={"mask": lambda k: io.BytesIO(jpeg(200 + k))}, text=False)
  data = section("tfds", builder=str(folder))
  before = datasets.content_fingerprint(data, "train")
  data.image_key = "mask"
  assert greys(datasets.load_splits(data)["train"]) == [201, 200, 201, 200]
  assert datasets.content_fingerprint(data, "train") != before


def test_in_another_process_and_without_tensorflow(prepare, section, tmp_path):
  folder = prepare(LABELS)
  travels = tmp_path / "train.pickle"
  travels.write_bytes(pickle.dumps(load(section, folder)["train"]))
  code = (
    "import pickle, sys\n"
    "from configs import tfds\nfrom lafg_jax.data import datasets, images\n"
    f"data = tfds.get_config().data; data.builder = {str(folder)!r}\n"
    "train = datasets.load_splits(data)['train']\n"
    "assert images.of_dataset(train, 0).size == (12, 8)\n"
    f"same = pickle.load(open({str(travels)!r}, 'rb'))\n"
    "assert [same.images[k] for k in range(4)] == [train.images[k] for k in range(4)]\n"
    "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'torch')])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  assert done.stdout.strip() == "[]", done.stderr


def test_tfrecord_is_one_line_with_the_command(prepare, as_tfrecord, section):
  folder = as_tfrecord(prepare(LABELS, config="small"))
  with pytest.raises(UserError) as error:
    load(section, folder)
  said = str(error.value)
  root = folder.parents[2]
  builder = f"tfds.builder('toy/small', data_dir='{root}/array_record', file_format='array_record')"
  assert f"{builder}.download_and_prepare(download_dir='{root}/downloads')" in said
  assert f"--config.data.builder=toy/small --config.data.root={root}/array_record" in said
  assert "\n" not in said and "data.name=cars" not in said
  info = json.loads((folder / "dataset_info.json").read_text())
  both = info | {"alternativeFileFormats": ["array_record"]}
  (folder / "dataset_info.json").write_text(json.dumps(both))
  assert len(load(section, folder)["train"]) == 4


def test_cars196_points_at_the_layouts_that_exist(prepare, as_tfrecord, section, tmp_path):
  with pytest.raises(UserError, match=r"download of cars196 .* dead .*--config.data.name=cars"):
    load(section, "cars196", root=str(tmp_path))
  with pytest.raises(UserError, match="TensorFlow.*--config.data.name=cars"):
    load(section, as_tfrecord(prepare(LABELS, name="cars196")))


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"builder": "nothing"}, "not prepared in .*tfds.builder\\('nothing', data_dir="),
    ({"builder": "/no/where"}, "builder=/no/where has no dataset_info.json"),
    ({"builder": ""}, "data.builder is not set"),
    ({"image_key": "img"}, "no feature 'img': pass --config.data.image_key, of image, label"),
    ({"label_key": "y"}, "no feature 'y'"),
    ({"image_key": "label", "label_key": "label"}, "label holds no images"),
    ({"label_key": "image"}, "image holds images: pass --config.data.label_key"),
  ],
)
def test_misuse_is_one_line(prepare, section, changes, said):
  folder = prepare(LABELS)
  data = section("tfds", root=str(folder.parents[1]), builder="toy")
  data.update(changes)
  with pytest.raises(UserError, match=said) as error:
    datasets.load_splits(data)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "file", ["features.json", "dataset_info.json", "toy-test.array_record-00000"]
)
@pytest.mark.parametrize("content", [None, b"{}", b"\xff"])
def test_damage_is_one_line(prepare, section, file, content):
  folder = prepare(LABELS)
  (folder / file).unlink()
  if content is not None:
    (folder / file).write_bytes(content)
  with pytest.raises(UserError) as error:
    load(section, folder)
  assert str(folder) in str(error.value) and "\n" not in str(error.value)
