"""Features in place of images: what a file may hold, whose names are whose, and which halves."""

import json
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.data import datasets, matches, pipeline
from lafg_jax.tasks.class_retrieval import batches, default
from lafg_jax.utils.errors import UserError

# Native numbers with gaps, 4 rows each, not in order.
NUMBERS = np.tile([7, 2, 11, 4, 30], 4)
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((20, 6)).astype(np.float16)


def data_of(path, **changes):
  config = default.own_features()
  config.data.update(manifest=str(path), **changes)
  return config.data


def npz(tmp_path, **changes):
  path = tmp_path / "features.npz"
  arrays = {"features": FEATURES, "labels": NUMBERS} | changes
  np.savez(path, **{name: x for name, x in arrays.items() if x is not None})
  return path


def test_numbers_with_gaps_are_classes_in_their_order_and_halves_are_whole_classes(tmp_path):
  found = datasets.load_splits(data_of(npz(tmp_path)), ("train", "test"))
  # Half of five classes, rounded up, as other readers of own data do.
  assert found["train"].class_names == ("class 2", "class 4", "class 7")
  assert found["test"].class_names == ("class 11", "class 30")
  for split, numbers in (("train", [2, 4, 7]), ("test", [11, 30])):
    rows = np.flatnonzero(np.isin(NUMBERS, numbers))
    np.testing.assert_array_equal(found[split].images, FEATURES[rows])
    assert [numbers[k] for k in found[split].labels] == NUMBERS[rows].tolist()
    assert found[split].ids == tuple(f"row/{row:02d}" for row in rows)
  assert matches.any_readable(found["test"])


def test_a_last_label_of_training_decides_the_halves(tmp_path):
  names = datasets.class_splits(data_of(npz(tmp_path), last_train_label=4))
  assert names == {"train": ("class 2", "class 4"), "test": ("class 7", "class 11", "class 30")}
  with pytest.raises(UserError, match=r"last_train_label=1: the numbers of .* start at 2"):
    datasets.class_splits(data_of(npz(tmp_path), last_train_label=1))
  with pytest.raises(UserError, match="train_fraction=0.2: data.last_train_label says already"):
    datasets.class_splits(data_of(npz(tmp_path), last_train_label=4, train_fraction=0.2))


@pytest.mark.parametrize(
  ("names", "wanted"),
  [
    (["b", "d", "g", "k", "z"], ["b", "d", "g", "k", "z"]),  # one a number that is there
    ([f"n{k}" for k in range(1, 31)], ["n2", "n4", "n7", "n11", "n30"]),  # all from 1 on
    ([f"{k:03d}.The_{k}" for k in range(1, 41)], ["The 2", "The 4", "The 7", "The 11", "The 30"]),
  ],
)
def test_names_of_the_file_are_by_number(tmp_path, names, wanted):
  found = datasets.class_splits(data_of(npz(tmp_path, class_names=np.array(names))))
  assert [*found["train"], *found["test"]] == wanted


def test_names_start_at_number_0_where_a_class_has_it_and_numbers_of_names_are_taken(tmp_path):
  labels, names = np.where(NUMBERS == 2, 0, NUMBERS), np.array([f"n{k}" for k in range(31)])
  found = datasets.class_splits(data_of(npz(tmp_path, labels=labels, class_names=names)))
  assert [*found["train"], *found["test"]] == ["n0", "n4", "n7", "n11", "n30"]
  numbers = np.array([30, 11, 7, 4, 2, 99])
  path = npz(tmp_path, class_names=np.array(["e", "d", "c", "b", "a", "x"]), class_numbers=numbers)
  found = datasets.class_splits(data_of(path))
  assert [*found["train"], *found["test"]] == ["a", "b", "c", "d", "e"]
  with pytest.raises(UserError, match="6 class names, and none for class 7 of"):
    few = np.array(list("abcdef"))
    datasets.class_splits(data_of(npz(tmp_path, class_names=few)))


def test_names_come_from_a_text_file_or_a_devkit(tmp_path):
  path = npz(tmp_path)
  lines = [f"{k} {k:03d}.Bird_of_{k}" for k in range(1, 41)]
  (tmp_path / "classes.txt").write_text("\n".join(lines))
  found = datasets.class_splits(data_of(path, class_names=str(tmp_path / "classes.txt")))
  assert found["train"] == ("Bird of 2", "Bird of 4", "Bird of 7")
  scipy_io = pytest.importorskip("scipy.io")
  cells = np.array([f"Car {k}" for k in range(1, 41)], object)
  scipy_io.savemat(tmp_path / "meta.mat", {"class_names": cells})
  found = datasets.class_splits(data_of(path, class_names=str(tmp_path / "meta.mat")))
  assert found["test"] == ("Car 11", "Car 30")
  (tmp_path / "classes.txt").write_text("1 one\nno number\n")
  with pytest.raises(UserError, match="'no number' is not a number and a name"):
    datasets.class_splits(data_of(path, class_names=str(tmp_path / "classes.txt")))


def test_the_split_of_the_file_is_kept_queries_and_validation_included(tmp_path):
  part = {7: "query", 2: "train", 11: "val", 4: "train", 30: "gallery"}
  split = np.array([part[k] for k in NUMBERS])
  split[np.flatnonzero(NUMBERS == 7)[:2]] = "gallery"
  found = datasets.load_splits(data_of(npz(tmp_path, split=split), num_val_classes=1))
  assert {k: x.class_names for k, x in found.items()} == {
    "train": ("class 2", "class 4"), "val": ("class 11",), "test": ("class 7", "class 30"),
  }  # fmt: skip
  assert found["test"].is_query.sum() == 2
  with pytest.raises(UserError, match="split_seed=3: .* has a split"):
    datasets.load_splits(data_of(npz(tmp_path, split=split), split_seed=3))


def test_the_three_kinds_of_file_give_the_same_data_set(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  from safetensors.numpy import save_file

  x, names = FEATURES.astype(np.float32), ["b", "d", "g", "k", "z"]
  split = np.where(np.isin(NUMBERS, [2, 4]), 0, 2)
  paths = [npz(tmp_path, features=x, class_names=np.array(names), split=split)]
  paths.append(tmp_path / "f.safetensors")
  arrays = {"features": x, "labels": NUMBERS, "split": split}
  save_file(arrays, paths[-1], {"class_names": json.dumps(names)})
  paths.append(tmp_path / "f.parquet")
  by_number = dict(zip(sorted(set(NUMBERS.tolist())), names, strict=True))
  columns = {"features": list(x), "labels": [by_number[k] for k in NUMBERS.tolist()]}
  columns["split"] = np.array(["train", "val", "test"])[split]
  parquet.write_table(pyarrow.table(columns), paths[-1])
  halves = [datasets.load_splits(data_of(path), ("train", "test")) for path in paths]
  for split in ("train", "test"):
    one = halves[0][split]
    for other in halves[1:]:
      assert other[split].class_names == one.class_names
      np.testing.assert_array_equal(other[split].images, one.images)
      assert datasets.content_of(other[split]) == datasets.content_of(one)


def test_another_number_is_another_content(tmp_path):
  before = datasets.content_fingerprint(data_of(npz(tmp_path)), "train")
  changed = FEATURES.copy()
  changed[0, 0] += 1
  assert datasets.content_fingerprint(data_of(npz(tmp_path, features=changed)), "train") != before


WITH_NAN, WITH_ZEROS = FEATURES.copy(), FEATURES.copy()
WITH_NAN[3, 1], WITH_ZEROS[5] = np.nan, 0


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    ({"features": FEATURES.astype(np.float64)}, r"float64 \(20, 6\).*write them as float32"),
    ({"features": FEATURES.astype(np.int32)}, r"features are int32 .*write them as float32"),
    ({"features": FEATURES[:, 0]}, r"float16 \(20,\), and not float16 or float32 \[n, D\]$"),
    ({"features": FEATURES[:0], "labels": NUMBERS[:0]}, r"features are empty, \(0, 6\)"),
    ({"features": WITH_NAN}, r"row 3 are not finite \(1 such rows\)"),
    ({"features": WITH_ZEROS}, r"row 5 are all zeros \(1 such rows\)"),
    ({"labels": NUMBERS[:-1]}, "labels has 19 rows, and features 20"),
    ({"labels": NUMBERS.astype(object)}, "labels is an array of Python objects"),
    ({"labels": NUMBERS.astype(np.float32)}, "labels is float32"),
    ({"labels": None}, r"lacks labels \(or .*\); it has features"),
    ({"features": None}, r"lacks features \(or .*\); it has labels"),
    ({"vectors": FEATURES}, "has features and vectors: keep the one"),
    ({"ids": np.array(["a"] * 20)}, "ids has 'a' twice"),
    ({"split": np.array(["train"] * 19 + ["tset"])}, "row 20: split 'tset' is none of"),
    ({"class_names": np.array(["a", "A", "b", "c", "d"])}, "'a' and 'A' differ in case"),
    ({"class_numbers": np.arange(5)}, "class_numbers takes a whole number for each of class_n"),
  ],
)
def test_bad_files_are_one_line(tmp_path, changes, why):
  with pytest.raises(UserError, match=why) as error:
    datasets.class_splits(data_of(npz(tmp_path, **changes)))
  assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_what_is_no_file_of_features_is_one_line(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    datasets.class_splits(data_of(tmp_path / "none.npz"))
  for name, content in (
    ("a.npz", b"PK\x03\x04 broken"),
    ("b.safetensors", b"\x01"),
    ("c.csv", b""),
  ):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
      datasets.class_splits(data_of(tmp_path / name))
    assert name in str(error.value) and "\n" not in str(error.value)


def test_batches_are_rows_of_the_file_and_those_of_images_by_the_same_plan(tmp_path):
  config = default.own_features()
  config.data.update(manifest=str(npz(tmp_path)), classes_per_batch=2, images_per_class=3)
  train = datasets.load_splits(config.data, ("train",))["train"]
  plan = batches.plan(train, config.data, 5)
  shares = [
    list(pipeline.train_batches(train, config.data, plan, seed=5, start_step=2, num_steps=2,
                                num_devices=4, process_index=k, process_count=2))
    for k in range(2)
  ]  # fmt: skip
  for step in range(2):
    rows = plan.rows(2 + step).row
    images, labels = (
      np.concatenate([share[step][name] for share in shares]) for name in ("image", "label")
    )
    assert images.dtype == np.float32 and len(images) == 8
    np.testing.assert_array_equal(images[:6], train.images[rows].astype(np.float32))
    np.testing.assert_array_equal(labels[:6], train.labels[rows])
  seen = [
    batch
    for k in range(2)
    for batch in pipeline.eval_batches(train, config.data, 5, process_index=k, process_count=2)
  ]
  index = np.concatenate([batch["index"] for batch in seen])
  assert sorted(index[index >= 0]) == list(range(12)) and len(index) == 20
  vectors = np.concatenate([batch["image"] for batch in seen])[index >= 0]
  np.testing.assert_array_equal(vectors, train.images[index[index >= 0]])


def test_fewer_images_of_a_class_are_drawn_by_the_seed_alone(tmp_path):
  config = default.own_features()
  config.data.update(manifest=str(npz(tmp_path)), max_images_per_class=2)
  train = datasets.load_splits(config.data, ("train",))["train"]
  kept = {}
  for seed in range(6):
    config.seed = seed
    kept[seed] = batches.some(train, config)
    assert np.bincount(kept[seed].labels).tolist() == [2, 2, 2]
    assert kept[seed].ids == batches.some(train, config).ids
    config.data.max_images_per_class = 1
    assert set(batches.some(train, config).ids) < set(kept[seed].ids)
    config.data.max_images_per_class = 2
  assert len({x.ids for x in kept.values()}) > 1
  config.data.update(max_images_per_class=3, images_per_class=0)
  assert batches.resolve(config).data.images_per_class == 3


def test_real_features_of_cars_and_cub_have_the_halves_of_the_photographs():
  shared = Path(__file__).parents[3] / "shared" / "data"
  if not (shared / "features").is_dir():
    pytest.skip("no ../shared/data/features")
  for name, last, names, counts in (
    ("cars", 98, "stanford_cars/devkit/cars_meta.mat", (98, 49)),
    ("cub", 100, "cub/classes.txt", (58, 24)),
  ):
    path = shared / "features" / f"{name}.npz"
    data = data_of(path, last_train_label=last, class_names=str(shared / names))
    splits = datasets.class_splits(data)
    assert tuple(map(len, (splits["train"], splits["test"]))) == counts
    # The names in the file are the same, and a test class is not the one that trained.
    assert datasets.class_splits(data_of(path, last_train_label=last)) == splits
