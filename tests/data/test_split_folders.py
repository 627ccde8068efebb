"""Split folders in the spellings that people use: kept apart, or refused, never pooled unsaid."""

import pytest

from lafg_jax.data import datasets
from lafg_jax.data.readers import split_folders


def tree(root, *folders):
  """Two files in each folder, none in one that ends in '!'; nothing opens them."""
  for folder in folders:
    (root / folder.rstrip("!")).mkdir(parents=True)
    for k in range(2 * (not folder.endswith("!"))):
      (root / folder / f"{k}.jpg").touch()
  return root


def load(section, root, **changes):
  splits = datasets.load_splits(section("folder", root=str(root), **changes))
  return {name: "".join(split.class_names) for name, split in splits.items()}


def below(part, classes):
  return [f"{part}/{name}" for name in classes]


@pytest.mark.parametrize(
  "train, test",
  [
    *(("train", "test"), ("training", "testing"), ("Train", "Test"), ("TRAIN", "TEST")),
    *(
      ("training", "test"),
      ("trn", "tst"),
      ("train_set", "test-set"),
      ("Training Set", "Test Set"),
    ),
    *(("1_train", "2_test"), ("01 Train", "02 Test"), ("train2017", "test2017")),
    *(("TrainSet", "TestSet"), ("trainset", "testset"), ("train_images", "test_images")),
    *(("images-train", "images-test"), ("cars_train", "cars_test"), ("train", "eval")),
    *(("tr", "te"), ("trainval", "test"), ("train_val", "holdout"), ("train", "held_out")),
    *(("seen", "unseen"), ("train", "evaluation"), ("trainData", "testData"), ("train", "val")),
    *(("train", "valid"), ("train", "validation"), ("training", "dev"), ("(train)", "[test]")),
    # In other languages, with decomposed accents, and in letters of full width.
    *(("Training", "Validierung"), ("Trainingsdaten", "Testdaten"), ("entrenamiento", "prueba")),
    *(("entrai\u0302nement", "test"), ("обучение", "тест"), ("训练集", "测试集"), ("訓練", "驗證")),
    *(
      ("学習用データ", "テスト"),
      ("훈련", "테스트"),
      ("ｔｒａｉｎ", "ｔｅｓｔ"),
      ("训练数据", "test"),
    ),
  ],
)
def test_the_halves_are_kept_apart(tmp_path, section, train, test):
  above = {"Train": "images/", "TRAIN": "my data/v1/"}.get(train, "")
  root = tree(tmp_path, *below(above + train, "mno"), *below(above + test, "abc"))
  assert load(section, root) == {"train": "mno", "test": "abc"}


@pytest.mark.parametrize(
  "folders, changes, expected",
  [
    # Validation classes are left out, or validated on.
    (["train/m", "train/n", "val/v", "test/a"], {}, {"train": "mn", "test": "a"}),
    (
      ["Train/m", "Train/n", "Validation/v", "Validation/w", "Test/a"],
      {"num_val_classes": 2},
      {"train": "mn", "val": "vw", "test": "a"},
    ),
    (
      ["train/m", "train/n", "dev/v", "test/a"],
      {"num_val_classes": 1},
      {"train": "mn", "val": "v", "test": "a"},
    ),
    (
      ["train/m", "train/n", "valid/v"],
      {"num_val_classes": 1},
      {"train": "mn", "val": "v", "test": ""},
    ),
    # A val of the training classes, as in data sets to classify, is left out.
    (["train/m", "train/n", "val/m", "val/n"], {}, {"train": "m", "test": "n"}),
    # One half alone is split by its classes.
    (["training/m", "training/n"], {}, {"train": "m", "test": "n"}),
    (["Training Set/m", "Training Set/n", "test!"], {}, {"train": "m", "test": "n"}),
    # Super-categories in the halves.
    (["Train/x/m", "Train/y/n", "Test/x/a"], {}, {"train": "mn", "test": "a"}),
    # The images of each class together.
    (
      ["train/m", "train/n", "test/m", "test/n"],
      {"split_folders": "pool"},
      {"train": "m", "test": "n"},
    ),
    # Classes and super-categories that are called so.
    (["test/a", "test/b"], {"split_folders": "classes"}, {"train": "a", "test": "b"}),
    (["bus", "test"], {"split_folders": "classes"}, {"train": "bus", "test": "test"}),
    (["Training", "other"], {"split_folders": "classes"}, {"train": "Training", "test": "other"}),
    (["bus", "train"], {}, {"train": "bus", "test": "train"}),
    (["bus", "prova"], {}, {"train": "bus", "test": "prova"}),
    (["gallery", "museum"], {}, {"train": "gallery", "test": "museum"}),
    (["bullet train", "steam train"], {}, {"train": "bullet train", "test": "steam train"}),
    (["crash test/a", "drop/b"], {}, {"train": "a", "test": "b"}),
    (["road/bus", "rail/train"], {}, {"train": "bus", "test": "train"}),
  ],
)
def test_what_each_layout_means(tmp_path, section, folders, changes, expected):
  assert load(section, tree(tmp_path, *folders), **changes) == expected


@pytest.mark.parametrize(
  "folders, said",
  [
    (["test/a", "test/b"], "has test and no folder to train on"),
    (["val/a", "Testing/b"], "has Testing and val and no folder to train on"),
    (["query/a", "gallery/a"], "has gallery and query and no folder to train on"),
    (["train/m", "query/a"], "takes either test, or query and gallery"),
    (["train/m", "test/a", "query/a", "gallery/a"], "takes either test, or query and gallery"),
    (["train", "test"], "no class folders in test and train: understood are"),
    (["Training", "other"], "no class folders in Training.*split_folders=classes"),
    (["a", "b", "test"], "no class folders in test"),
    (["m/train", "m/test", "n/train", "n/test"], "no class folders in test and train"),
    (["train/m", "training/n", "test/a"], "train and training: point --config.data.root"),
    (["train/m", "train/n", "bus/a"], "has train beside bus.*split_folders=classes"),
    (["cars_train/m", "test/a"], "has test beside cars_train"),
    (["one/train/m", "one/test/a", "two/train/m"], "one and two each hold folders of a split"),
    (["trainA/m", "testA/a", "trainB/m", "testB/a"], "the folders of several splits"),
    (["train/m", "test/m"], "1 class in both train and test, such as 'm'.*split_folders=pool"),
    (["BMW", "audi", "bmw"], "classes 'BMW' and 'bmw' differ in case, hyphens"),
    (["red-elm", "b", "red_elm"], "'red elm' and 'red-elm' differ|'red-elm' and 'red elm' differ"),
    (["a\u200b", "a", "c"], r"'a' and ''a.u200b'' differ in case"),
    (["ＢＭＷ", "BMW", "c"], "differ in case, hyphens or width alone"),
    (["train/red-elm", "train/b", "test/Red Elm"], "in both train and test, such as 'red elm'"),
    (["train/m", "train/n", "test/Elm", "test/elm"], "'Elm' and 'elm' differ in case"),
    (["cars/all/a", "cars/all/b"], "has no images.* images deeper, such as cars/all/a/0.jpg"),
    (["train/Red_Elm", "test/red elm"], "1 class in both train and test, such as 'red elm'"),
    (["train/m", "query/m", "gallery/m"], "in both train and query"),
  ],
)
def test_what_looks_like_a_split_and_is_none_is_one_line(
  tmp_path, section, one_line, folders, said
):
  one_line(section("folder", root=str(tree(tmp_path, *folders))), said)


@pytest.mark.parametrize(
  "folders, link, changes",
  [
    (["a", "b", "c"], "z", {}),
    (["train/a", "train/b", "test/c"], "test/z", {}),
    (["train/a", "train/b", "test/c"], "test/a", {"split_folders": "pool"}),
    (["train/b", "query/a", "gallery/c"], "gallery/a", {}),
  ],
)
def test_one_folder_under_two_names_is_refused(tmp_path, section, one_line, folders, link, changes):
  root = tree(tmp_path / "data", *folders)
  target = next(name for name in folders if name.endswith("a"))
  (root / link).symlink_to(root / target)
  one_line(section("folder", root=str(root), **changes), f"{target} and {link} are one folder")


def test_loose_images_do_not_make_classes_of_the_halves(tmp_path, section):
  root = tree(tmp_path, "Train/m", "Train/n", "Test/a")
  for place in ("Train/x.jpg", "Test/y.jpg", "z.jpg"):
    (root / place).touch()
  data = section("folder", root=str(root))
  splits = datasets.load_splits(data)
  assert splits["train"].class_names == ("m", "n") and splits["test"].class_names == ("a",)
  said = " ".join(splits["train"].left_out)
  assert "1 image left out, beside the class folders, such as Train/x.jpg" in said
  assert "Test/y.jpg" in said and "z.jpg" in said


@pytest.mark.parametrize(
  "parts",
  [("query", "gallery"), ("Query", "Gallery"), ("probe", "gallery"), ("query", "bounding_box_test")]
  + [("test/query", "test/gallery")],
)
def test_queries_and_their_gallery(tmp_path, section, parts):
  query, gallery = parts
  root = tree(
    tmp_path, "train/m", "train/n", *below(query, "ab"), *below(gallery, "abc")
  )  # fmt: skip
  test = datasets.load_splits(section("folder", root=str(root)))["test"]
  assert test.class_names == ("a", "b", "c")
  assert test.is_query.tolist() == [name.startswith(f"{query}/") for name in test.ids]
  assert test.is_query.sum() == 4 and len(test) == 10
  folders = [name.split("/")[-2] for name in test.ids]
  assert [test.class_names[k] for k in test.labels] == folders


def test_pooled_classes_have_the_images_of_all_folders(tmp_path, section):
  root = tree(tmp_path, *below("Train", "mn"), *below("Test", "mn"))
  data = section("folder", root=str(root), split_folders="pool")
  train = datasets.load_splits(data)["train"]
  assert set(train.ids) == {f"{part}/m/{k}.jpg" for part in ("Train", "Test") for k in (0, 1)}


def test_split_keys_beside_a_split_and_a_pool_of_nothing(tmp_path, section, one_line):
  root = tree(tmp_path / "one", "Train/m", "Train/n", "Test/a")
  one_line(section("folder", root=str(root), split_seed=1), "split_seed=1.*folders")
  root = tree(tmp_path / "two", "a", "b")
  one_line(section("folder", root=str(root), split_folders="pool"), "no folders train and test")


@pytest.mark.parametrize(
  "name, part",
  [
    *(("Train", "train"), ("TESTING", "test"), ("validation_set", "val"), ("Probe", "query")),
    *(("contest", ""), ("strain", ""), ("latest", ""), ("validity", ""), ("trains", "")),
    *(("train_test", ""), ("bullet train", ""), ("developer", ""), ("", ""), ("123", "")),
  ],
)
def test_words_within_other_words_are_no_parts(name, part):
  assert split_folders.part_of(name) == part
