"""Hugging Face data sets: saved to disk, as Parquet and as folders of images."""

import pickle

import pytest

from lafg_jax.data import datasets as ours
from lafg_jax.utils.errors import UserError

hub = pytest.importorskip("datasets")

NAMES = ["wren", "auk", "snow_owl", "crow"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
  import huggingface_hub

  monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  hub.disable_progress_bars()


@pytest.fixture
def table(jpeg):
  def make(labels, first=0, label=None, **more):
    columns = {
      "image": [{"bytes": jpeg(first + 10 * k), "path": None} for k in range(len(labels))],
      "label": labels,
    }
    features = {"image": hub.Image(), "label": label or hub.ClassLabel(names=NAMES)}
    return hub.Dataset.from_dict(columns | more, features=hub.Features(features))

  return make


@pytest.fixture
def load(section, tmp_path):
  def read(builder, **changes):
    data = section("hf", builder=str(builder), root=str(tmp_path / "cache"), **changes)
    return ours.load_splits(data)

  return read


def both(table):
  return hub.DatasetDict(train=table([2, 0, 3, 1, 0]), test=table([1, 3], first=50))


def check(splits, greys):
  train, test = splits["train"], splits["test"]
  assert train.class_names == ("wren", "auk") and test.class_names == ("snow owl", "crow")
  assert train.ids == ("test/0", "train/1", "train/3", "train/4")
  assert greys(train) == [50, 10, 30, 40] and train.labels.tolist() == [1, 0, 1, 0]
  assert greys(test) == [60, 0, 20]
  assert greys(pickle.loads(pickle.dumps(train))) == greys(train)


def test_saved_to_disk(table, load, tmp_path, greys):
  both(table).save_to_disk(tmp_path / "saved")
  check(load(tmp_path / "saved"), greys)
  single = load(tmp_path / "saved" / "train")
  assert single["train"].ids == ("train/1", "train/3", "train/4")


def test_parquet_and_its_version(table, load, tmp_path, section, greys):
  for split, part in both(table).items():
    part.to_parquet(tmp_path / "pq" / f"{split}-00000-of-00001.parquet")
  check(load(tmp_path / "pq"), greys)
  version = load(tmp_path / "pq")["train"].version
  assert version == load(tmp_path / "pq")["train"].version
  both(table).save_to_disk(tmp_path / "saved")
  assert load(tmp_path / "saved")["train"].version == version
  table([0, 1], first=200).save_to_disk(tmp_path / "other")
  assert load(tmp_path / "other")["train"].version != version


def test_a_folder_of_images(load, tmp_path, jpeg, greys):
  for k, path in enumerate(("train/auk/0.jpg", "train/wren/1.jpg", "test/wren/2.jpg")):
    (tmp_path / "files" / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "files" / path).write_bytes(jpeg(10 * k))
  splits = load(tmp_path / "files")
  assert greys(splits["train"]) == [0] and splits["train"].class_names == ("auk",)
  assert sorted(greys(splits["test"])) == [10, 20]
  # The rows name files: without their sizes nothing would change with them.
  version = splits["train"].version
  assert load(tmp_path / "files")["train"].version == version
  (tmp_path / "files/train/auk/0.jpg").write_bytes(jpeg(0) + b"more")
  assert load(tmp_path / "files")["train"].version != version


def test_labels_without_names_as_text_and_missing(table, load, tmp_path, greys):
  table([4, 2, 4, -1], label=hub.Value("int64")).save_to_disk(tmp_path / "numbers")
  splits = load(tmp_path / "numbers")
  assert splits["train"].class_names == ("class 2",) and splits["test"].class_names == ("class 4",)
  assert splits["train"].super_classes is None and greys(splits["test"]) == [0, 20]
  table(["b", "a", "b"], label=hub.Value("string")).save_to_disk(tmp_path / "texts")
  assert load(tmp_path / "texts")["train"].class_names == ("a",)


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"image_key": "img"}, "no column 'img': pass --config.data.image_key, of image, label"),
    ({"label_key": "fine"}, "no column 'fine': pass --config.data.label_key"),
    ({"image_key": "label"}, "label holds .*, no images"),
    ({"label_key": "image"}, "labels are dict"),
  ],
)
def test_misuse_is_one_line(table, load, tmp_path, changes, said):
  table([0, 1]).save_to_disk(tmp_path / "saved")
  with pytest.raises(UserError, match=said) as error:
    load(tmp_path / "saved", **changes)
  assert "\n" not in str(error.value)


def test_what_cannot_be_loaded_is_one_line(load, tmp_path, table):
  (tmp_path / "empty").mkdir()
  (tmp_path / "broken").mkdir()
  (tmp_path / "broken" / "train.parquet").write_bytes(b"no parquet")
  table([0, 1]).save_to_disk(tmp_path / "cut")
  (tmp_path / "cut" / "data-00000-of-00001.arrow").write_bytes(b"")
  for builder in ("nobody/nothing", *(tmp_path / name for name in ("empty", "broken", "cut"))):
    with pytest.raises(UserError, match=f"builder={builder} cannot be loaded") as error:
      load(builder)
    assert "\n" not in str(error.value)
  with pytest.raises(UserError, match="data.builder is not set"):
    load("")


def test_splits_of_other_names_are_refused(table, load, tmp_path):
  other = table([0], label=hub.ClassLabel(names=["x", "y"]))
  (tmp_path / "saved").mkdir()
  table([0, 1]).save_to_disk(tmp_path / "saved" / "train")
  other.save_to_disk(tmp_path / "saved" / "test")
  (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
  with pytest.raises(UserError, match="different class names"):
    load(tmp_path / "saved")
