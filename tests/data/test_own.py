"""Names and class splits of one's own data sets."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafg_jax.data import datasets
from lafg_jax.data.readers import own
from lafg_jax.utils.errors import UserError

NAMES = ("ash", "beech", "cedar", "elm", "fir")


def pool(names=NAMES, each=2):
  labels = np.repeat(np.arange(len(names), dtype=np.int32), each)
  ids = tuple(f"{names[label]}/{k}" for k, label in enumerate(labels))
  return datasets.Dataset("folder", "train", np.array(ids), labels, tuple(names), ids)


@pytest.mark.parametrize(
  "raw, clean",
  [
    (["001.Black_footed_Albatross", "002.Laysan_Albatross"], "Black footed Albatross"),
    # Not all are numbered: the digits are a part of the name.
    (["1.FC Koeln", "Bayern"], "1.FC Koeln"),
    (["2012_BMW_M3", "2013_BMW_M3"], "2012 BMW M3"),
    (["17", "18"], "class 17"),
    (["  sand__piper ", "x"], "sand piper"),
    ([unicodedata.normalize("NFD", "Käuzchen"), "x"], "Käuzchen"),
    (["00042_Plantae_Tracheophyta_Magnoliopsida_Rosales_Moraceae_Ficus_carica"], "Ficus carica"),
  ],
)
def test_names_as_a_person_writes_them(raw, clean):
  assert own.clean_names(raw)[0] == clean


def test_species_of_one_name_get_their_family():
  raw = [
    "00001_Animalia_Mollusca_Gastropoda_Littorinimorpha_Ficidae_Ficus_variegata",
    "00002_Plantae_Tracheophyta_Magnoliopsida_Rosales_Moraceae_Ficus_variegata",
    "00003_Plantae_Tracheophyta_Magnoliopsida_Rosales_Moraceae_Ficus_carica",
  ]
  assert own.clean_names(raw) == [
    "Ficus variegata (Ficidae)",
    "Ficus variegata (Moraceae)",
    "Ficus carica",
  ]


def test_two_classes_of_one_name_or_one_of_none_are_refused():
  with pytest.raises(UserError, match="here: classes 'sand piper' and 'sand_piper' are both named"):
    own.of_values(["sand_piper", "sand piper"], None, "here")
  with pytest.raises(UserError, match="here: class '_' has no name"):
    own.of_values(["auk", "_"], None, "here")


@given(count=st.integers(1, 40), fraction=st.floats(0.01, 1.0), seed=st.integers(-1, 3))
def test_halves_share_no_class_and_lose_none(section_of, count, fraction, seed):
  names = [f"n{k:02d}" for k in range(count)]
  data = section_of(train_fraction=fraction, split_seed=seed)
  train, test = own.halves(data, pool(names), "here")
  assert sorted([*train.class_names, *test.class_names]) == names
  assert list(train.class_names) == sorted(train.class_names) and train.class_names
  assert abs(len(train.class_names) - fraction * count) <= 1
  assert bool(test.class_names) or fraction == 1 or count == 1
  for half in (train, test):
    assert all(
      i.startswith(half.class_names[k]) for i, k in zip(half.ids, half.labels, strict=True)
    )


@pytest.fixture(scope="module")
def section_of():
  from lafg_jax.tasks.class_retrieval import default

  def make(**changes):
    data = default.get_config().data
    data.update(changes)
    return data

  return make


def test_the_first_classes_train_or_drawn_ones(section_of):
  assert own.halves(section_of(), pool(), "here")[0].class_names == ("ash", "beech", "cedar")
  drawn = [own.halves(section_of(split_seed=s), pool(), "x")[0].class_names for s in (0, 0, 1, 2)]
  assert drawn[0] == drawn[1] and len(set(drawn)) > 1
  assert own.halves(section_of(train_fraction=0.2), pool(), "here")[0].class_names == ("ash",)


def test_listed_classes_are_the_test(section_of, tmp_path):
  file = tmp_path / "test.txt"
  file.write_text("\ufeffelm\r\n\r\n ash \n", encoding="utf-8")
  train, test = own.halves(section_of(test_classes=str(file)), pool(), "here")
  assert test.class_names == ("ash", "elm") and train.class_names == ("beech", "cedar", "fir")


@pytest.mark.parametrize(
  "text, said",
  [
    ("elms\n", "here has no class 'elms'; the nearest name is 'elm'"),
    ("\n", "no class name in it"),
    ("\n".join(NAMES), "no class to train on"),
    (None, "test_classes=.*not a text file"),
  ],
)
def test_a_bad_list_is_one_line(section_of, tmp_path, text, said):
  file = tmp_path / "test.txt"
  if text is not None:
    file.write_text(text)
  with pytest.raises(UserError, match=said):
    own.halves(section_of(test_classes=str(file)), pool(), "here")


def test_labels_of_values():
  labels, names, rows = own.of_values([7, 3, -1, 7, None], None, "here")
  assert (labels.tolist(), names, rows.tolist()) == ([1, 0, 1], ("class 3", "class 7"), [0, 1, 3])
  labels, names, _ = own.of_values(["b_x", "a", "b_x"], None, "here")
  assert (labels.tolist(), names) == ([1, 0, 1], ("a", "b x"))
  assert own.of_values([2, 0], ["z", "y", "x"], "here")[1] == ("z", "x")
  for bad in ([], [None, -1], [1.5], ["a", 1], [[1]]):
    with pytest.raises(UserError, match="neither whole numbers nor names"):
      own.of_values(bad, None, "here")
  with pytest.raises(UserError, match="label 3 has no name, of 2"):
    own.of_values([3], ["a", "b"], "here")


SIDES = [
  # Classes of their own: kept apart, however the splits are called.
  (("train", "train", "test", "test", "test"), {}, ("ash", "beech"), ("cedar", "elm", "fir")),
  (("Training", "Testing") + ("Training",) * 3, {}, ("ash", "cedar", "elm", "fir"), ("beech",)),
  (("train", "train", "validation", "test", "test"), {}, ("ash", "beech"), ("elm", "fir")),
  (
    ("train", "train", "validation", "test", "test"),
    {"num_val_classes": 1},
    ("ash", "beech", "cedar"),
    ("elm", "fir"),
  ),
  # No test, or names that say nothing: split by classes.
  (("train",) * 5, {}, NAMES[:3], NAMES[3:]),
  # Validation classes are the test where there is no other: never trained on.
  (
    ("train", "validation", "train", "train", "train"),
    {},
    ("ash", "cedar", "elm", "fir"),
    ("beech",),
  ),
  (("A", "B", "A", "B", "A"), {}, NAMES[:3], NAMES[3:]),
]


@pytest.mark.parametrize(("side", "changes", "train", "test"), SIDES)
def test_splits_that_share_no_class_are_the_halves(section, side, changes, train, test, caplog):
  splits = [name for name in side for _ in range(2)]
  halves = own.halves(section("hf", **changes), pool(), "here", splits)
  assert [half.class_names for half in halves] == [train, test]
  assert halves[0].val_classes == (("cedar",) if changes else ())
  # As data sets to classify have them: each class in both.
  for other in ("test", "validation"):
    caplog.clear()
    both = own.halves(section("hf"), pool(), "here", ["train", other] * 5)
    assert "5 classes in train and in another split, so all splits are put" in caplog.text
  assert [half.class_names for half in both] == [NAMES[:3], NAMES[3:]]


def test_keys_beside_splits_that_are_the_halves(section):
  splits = ["train"] * 4 + ["test"] * 6
  with pytest.raises(UserError, match="data.split_seed=1: the classes of its splits train and"):
    own.halves(section("hf", split_seed=1), pool(), "here", splits)
