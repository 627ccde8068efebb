"""Folders of one's own from generated trees; the oracle is os.walk and the names themselves."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data import datasets, listing, sampling
from lafg_jax.utils.errors import UserError


def save(root, *paths):
  for k, path in enumerate(paths):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 8), 10 * k).save(file, "PNG" if path.lower().endswith("png") else "JPEG")
  return root


def load(section, root, **changes):
  return datasets.load_splits(section("folder", root=str(root), **changes))


def test_a_folder_a_class(tmp_path, section):
  root = save(tmp_path, "elm/b.JPG", "elm/a.jpeg", "ash_tree/1.png", "Ölbaum/x.jpg", "fir/日本.jpg")
  for junk in ("elm/Thumbs.db", "elm/.DS_Store", "elm/notes.txt", ".git/x.jpg", "__MACOSX/a.jpg"):
    (root / junk).parent.mkdir(exist_ok=True)
    (root / junk).write_bytes(b"junk")
  (root / "empty").mkdir()
  (root / "elm" / "c.jpg").symlink_to(root / "fir" / "日本.jpg")
  (root / "elm" / "gone.jpg").symlink_to(root / "nowhere.jpg")
  splits = load(section, root)
  train, test = splits["train"], splits["test"]
  assert train.class_names == ("ash tree", "elm") and test.class_names == ("fir", "Ölbaum")
  assert train.ids == ("ash_tree/1.png", "elm/a.jpeg", "elm/b.JPG", "elm/c.jpg")
  assert train.labels.tolist() == [0, 1, 1, 1] and not train.partial
  assert [os.path.relpath(path, root) for path in train.images] == list(train.ids)
  assert train.super_classes is None


def test_the_order_is_not_that_of_the_disk(tmp_path, section, monkeypatch):
  root = save(tmp_path, *(f"{name}/{k}.jpg" for name in "dbac" for k in (2, 0, 1)))
  one = load(section, root)
  scandir = os.scandir

  class Reversed(list):
    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

  monkeypatch.setattr(
    os, "scandir", lambda path: Reversed(sorted(scandir(path), key=lambda e: e.name)[::-1])
  )
  other = load(section, root)
  assert [datasets.fingerprint(x) for x in one.values()] == [
    datasets.fingerprint(x) for x in other.values()
  ]


def test_numbers_are_classes_in_their_order(tmp_path, section):
  root = save(tmp_path, *(f"{k}/a.jpg" for k in (10, 2, 1, 30)))
  splits = load(section, root)
  assert splits["train"].class_names == ("class 1", "class 2")
  assert splits["test"].class_names == ("class 10", "class 30")


def test_train_and_test_folders_are_the_split(tmp_path, section):
  root = save(tmp_path, "train/elm/a.jpg", "train/ash/b.jpg", "test/fir/c.jpg", "val/oak/d.jpg")
  splits = load(section, root)
  assert splits["train"].class_names == ("ash", "elm") and splits["test"].class_names == ("fir",)
  assert splits["train"].ids[0] == "train/ash/b.jpg"
  for key, value in (("split_seed", 1), ("train_fraction", 0.8), ("test_classes", "list.txt")):
    with pytest.raises(UserError, match=f"data.{key}={value}.*the folders train, val and test"):
      load(section, root, **{key: value})
  save(root, "test/elm/e.jpg")
  with pytest.raises(UserError, match="1 class in both train and test, such as 'elm'.*pool"):
    load(section, root)
  # A class may well be called so.
  trains = save(tmp_path / "vehicles", "train/a.jpg", "bus/b.jpg")
  assert load(section, trains)["train"].class_names == ("bus",)


def test_inaturalist(tmp_path, section):
  old = save(
    tmp_path / "2017",
    "train_val_images/Plantae/Ficus carica/a.jpg",
    "train_val_images/Aves/Parus major/b.jpg",
    "train_val_images/Aves/Corvus corax/c.jpg",
  )
  splits = load(section, old)
  assert splits["train"].class_names == ("Corvus corax", "Ficus carica")
  assert splits["train"].ids[0] == "train_val_images/Aves/Corvus corax/c.jpg"
  numbered = save(tmp_path / "2018", "train_val2018/Aves/2/a.jpg", "train_val2018/Fungi/10/a.jpg")
  train = load(section, numbered, train_fraction=1.0)["train"]
  assert train.class_names == ("Aves 2", "Fungi 10") and train.super_classes == ("Aves", "Fungi")
  lineage = "Animalia_Chordata_Aves_Passeriformes"
  new = save(
    tmp_path / "2021",
    f"train/00001_{lineage}_Corvidae_Corvus_corax/a.jpg",
    f"train/00000_{lineage}_Paridae_Parus_major/a.jpg",
    f"val/00000_{lineage}_Paridae_Parus_major/a.jpg",
  )
  assert load(section, new)["train"].class_names == ("Parus major",)


@pytest.mark.parametrize(
  "paths, changes, said",
  [
    ([], {}, "no images in folders named after classes"),
    (["a.jpg"], {}, "no images in folders named after classes"),
    (["a_b/1.jpg", "a b/1.jpg"], {}, "are both named 'a b'"),
    (["birds/a/1.jpg", "cat/1.jpg"], {}, "cat holds images and birds only folders.*data.depth=1"),
    (["a/x/1.jpg", "b/x/1.jpg"], {}, "classes 'a/x' and 'b/x' are both named 'x': re"),
    (["train/a/1.jpg", "train_mini/a/1.jpg"], {}, "train.* and train.*point --config.data.root"),
    (["a/b/1.jpg"], {"depth": 1}, r"no images .*\(data.depth=1\)"),
  ],
)
def test_a_bad_folder_is_one_line(tmp_path, section, paths, changes, said):
  with pytest.raises(UserError, match=said) as error:
    load(section, save(tmp_path, *paths), **changes)
  assert "\n" not in str(error.value)


def test_no_folder_and_names_of_other_encodings(tmp_path, section):
  for root in ("", str(tmp_path / "none")):
    with pytest.raises(
      UserError, match="--config.data.root=FOLDER with a folder of images a class"
    ):
      load(section, root)
  save(tmp_path, "a/1.jpg")
  try:
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
  except OSError:
    pytest.skip("this file system takes UTF-8 alone")
  with pytest.raises(UserError, match=r"not UTF-8, 'caf\\udce9'"):
    load(section, tmp_path)


def test_every_ending_that_pillow_opens(tmp_path, section):
  endings = listing.endings()
  assert {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".gif", ".ppm"} <= endings
  assert not endings & {".txt", ".json", ".h5", ".hdf", ".mpg", ".eps", ".pdf", ".mp4", ""}


def test_a_small_class_repeats_its_images_in_a_batch(tmp_path, section):
  root = save(tmp_path, "a/0.jpg", *(f"b/{k}.jpg" for k in range(3)), "c/0.jpg", "d/0.jpg")
  train = load(section, root)["train"]
  batch = sampling.make_sampler(train.labels, classes_per_batch=2, images_per_class=3, seed=0)(0)
  rows = {int(train.labels[column[0]]): sorted(column.tolist()) for column in batch.T}
  assert rows == {0: [0, 0, 0], 1: [1, 2, 3]}


def test_rows_travel_to_other_processes(tmp_path, section):
  train = load(section, save(tmp_path, "a/0.jpg", "b/0.jpg"))["train"]
  again = pickle.loads(pickle.dumps(train))
  assert np.array_equal(again.images, train.images) and again.ids == train.ids
