"""Wrong captions: properties over random data, and each quirk of names by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.data import captions
from lafg_jax.data.caption_readers import fdrd
from lafg_jax.tasks.image_text_retrieval import negatives

SHARED = Path(__file__).parents[3] / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")


def pairs(texts, labels, names, image_of=None, wrong=None):
  """A `Captioned` of these, without images."""
  num = len(texts)
  ids = tuple(f"{k}.jpg" for k in range(num))
  image_of = np.arange(num) if image_of is None else np.asarray(image_of)
  return captions.Captioned(
    None, list(texts), np.asarray(labels, np.int32), tuple(names), ids, "train",
    image_of.astype(np.int32), wrong, None, "table", "",
  )  # fmt: skip


def ring(num, m):
  """Near classes: the next m, round a ring."""
  return (np.arange(num)[:, None] + np.arange(1, m + 1)) % num


NAMES = ("red elm", "elm", "Fir", "ash tree", "oak/holm", "Box")


@st.composite
def problems(draw):
  num_images = draw(st.integers(1, 14))
  labels, texts, image_of = [], [], []
  for image in range(num_images):
    label = draw(st.integers(0, len(NAMES) - 1))
    for _ in range(draw(st.integers(1, 2))):
      name = NAMES[label] if draw(st.booleans()) else draw(st.sampled_from(["", *NAMES]))
      texts.append(f"This is a photo of {name}.It is {draw(st.sampled_from(['big', 'old']))}.")
      labels.append(label)
      image_of.append(image)
  wrong = [draw(st.lists(st.sampled_from([*texts, "an elm", "x"]), max_size=3)) for _ in texts]
  data = pairs(texts, labels, NAMES, image_of, wrong)
  kind = draw(st.sampled_from(["views", "category", "attribute", "given", "random", "none"]))
  return data, kind, draw(st.integers(1, 5)), draw(st.integers(0, 99))


@settings(max_examples=80, deadline=None)
@given(problems())
def test_no_wrong_caption_is_right_and_none_is_there_twice(problem):
  data, kind, count, seed = problem
  table = negatives.build(data, ring(len(NAMES), 4), given=True)
  assert len(set(table.strings)) == len(table.strings)
  assert [table.strings[k] for k in table.own] == data.captions
  rows = np.arange(len(data.captions))
  drawn = negatives.draw(negatives.Drawing(table, kind, count, seed), 3, rows)
  assert drawn.string.shape == (len(rows), 1 + (0 if kind == "none" else count))
  for row in rows:
    mask = drawn.mask[row]
    texts = [table.strings[k] for k in drawn.string[row]]
    assert (
      mask[0]
      and texts[0] == data.captions[row]
      and not np.diff(mask.astype(int)).max(initial=0) > 0
    )
    own = {data.captions[k] for k in rows if data.image_of[k] == data.image_of[row]}
    wrong = [text for text, there in zip(texts[1:], mask[1:], strict=True) if there]
    assert len(set(wrong)) == len(wrong) and not set(wrong) & own
    assert all(text == texts[0] for text, there in zip(texts, mask, strict=True) if not there)
    label, category = data.labels[row], drawn.category[row, 1:][mask[1:]]
    same_class = {data.captions[k] for k in rows if data.labels[k] == label}
    swaps = {table.strings[k] for k in table.swaps[row] if k >= 0}
    if kind in ("views", "category", "attribute"):
      for text, of in zip(wrong, category, strict=True):
        assert text in (same_class if of == label else swaps)
        assert of == label or of in ring(len(NAMES), 4)[label]
      most = {"views": count // 2, "category": 0, "attribute": count}[kind]
      # A caption of the class that names another one may be there as a swap already.
      least = min(most, len(same_class - own - swaps))
      assert least <= (category == label).sum() <= min(most, len(same_class - own))
    if kind == "given":
      assert set(wrong) <= set(data.negatives[row])
      assert len(wrong) == min(count, len(set(data.negatives[row]) - own))


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 50))
def test_a_draw_depends_on_seed_epoch_and_row_alone(problem, epoch):
  data, kind, count, seed = problem
  how = negatives.Drawing(negatives.build(data, ring(6, 4), given=True), kind, count, seed)
  rows = np.arange(len(data.captions))
  whole = negatives.draw(how, epoch, rows)
  some = negatives.draw(how, epoch, rows[::-2])
  for one, other in zip(whole, some, strict=True):
    np.testing.assert_array_equal(one[::-2], other)


def test_epochs_draw_others_and_reach_all_near_classes():
  data = pairs([f"A Fir, number {k}." for k in range(9)], [2] * 9, NAMES)
  how = negatives.Drawing(negatives.build(data, ring(6, 5)), "views", 4, 0)
  drawn = [negatives.draw(how, epoch, [3]) for epoch in range(60)]
  named = {int(x) for one in drawn for x in one.category[0, 1:3]}
  others = {int(x) for one in drawn for x in one.string[0, 3:]}
  assert named == {0, 1, 3, 4, 5} and others == {0, 1, 2, 4, 5, 6, 7, 8}
  assert all((one.category[0] == 2).tolist() == [True, False, False, True, True] for one in drawn)


@pytest.mark.parametrize(
  ("names", "label", "text", "wrong"),
  [
    # The prefix, and where the name recurs; case and gaps.
    (("elm", "fir"), 0, "This is a photo of elm.An Elm by elms.",
     "This is a photo of fir.An fir by firs."),
    (("Yo Yo", "Sumo Wrestling"), 0, "A Yo_Yo, a yo-yo.", "A Sumo_Wrestling, a sumo wrestling."),
    (("orange dahlia", "rose"), 0, "This is a orange_dahlia.Pink.", "This is a rose.Pink."),
    (("F/A-18", "F-16A/B"), 0, "An F/A-18 and an F_A-18.", "An F-16A/B and an F-16A/B."),
    # The longest name first: another class's longer name stays.
    (("bulldog", "american bulldog", "pug"), 0, "A bulldog, no American Bulldog.",
     "A pug, no American Bulldog."),
    (("737-200", "737-200 ER", "A320"), 0, "A 737-200 beside a 737-200 ER.",
     "A A320 beside a 737-200 ER."),
    # Parts of words are no names.
    (("elm", "fir"), 0, "A helmet of overwhelming elms'.", "A helmet of overwhelming firs'."),
    (("707-320", "DC-3"), 0, "An air707-320 airplane.", None),
    (("elm", "fir"), 0, "A tree.", None),
    # Names with signs of regular expressions.
    (("C++ (x)", "D"), 0, "A C++ (x).", "A D."),
  ],
)  # fmt: skip
def test_a_name_is_swapped_in_every_spelling_and_nothing_else(names, label, text, wrong):
  data = pairs([text], [label], names)
  table = negatives.build(data, np.array([[len(names) - 1]] * len(names)))
  found = table.swaps[0, 0]
  assert (None if found < 0 else table.strings[found]) == wrong
  assert table.swapped_to[0, 0] == len(names) - 1


def test_the_nearest_names_are_those_of_numpy_and_never_the_class_itself():
  features = np.random.default_rng(1).standard_normal((9, 5)).astype(np.float16)
  near = negatives.nearest(features, 3)
  for k, row in enumerate(features.astype(float)):
    cosine = [row @ x / np.linalg.norm(row) / np.linalg.norm(x) for x in features.astype(float)]
    assert near[k].tolist() == sorted(set(range(9)) - {k}, key=lambda j: -cosine[j])[:3]
  assert negatives.nearest(features, 99).shape == (9, 8)
  equal = negatives.nearest(np.ones((4, 3), np.float16), 2)
  assert equal.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_given_ones_are_dropped_where_they_are_right_or_twice_and_name_a_class():
  wrong = [["an elm", "a fir", "a fir", "a dog"], ["the same"]]
  data = pairs(["an elm", "the same"], [0, 1], ("elm", "fir"), wrong=wrong)
  table = negatives.build(data, given=True)
  assert [[table.strings[k] for k in row if k >= 0] for row in table.given] == [
    ["a fir", "a dog"],
    [],
  ]
  assert table.given_to.tolist() == [[1, negatives.UNKNOWN], [negatives.UNKNOWN] * 2]
  drawn = negatives.draw(negatives.Drawing(table, "given", 4, 0), 0, [0, 1])
  assert drawn.mask.sum(1).tolist() == [3, 1]
  assert negatives.distractors(table) == ("a fir", "a dog")
  assert negatives.build(data).given.shape == (2, 0)


def test_without_classes_each_image_is_its_own_category_and_random_ones_are_left():
  data = pairs(["a", "b", "c", "d"], [-1] * 4, (), image_of=[0, 0, 1, 2])
  table = negatives.build(data, None)
  drawn = negatives.draw(negatives.Drawing(table, "random", 2, 0), 0, [0, 3])
  assert drawn.category[:, 0].tolist() == [0, 2] and drawn.mask.all()
  assert set(drawn.string[0].tolist()) == {0, 2, 3}, "not 'b', which is of the same image"
  assert (drawn.category[:, 1:] != drawn.category[:, :1]).all()
  assert not negatives.draw(negatives.Drawing(table, "views", 2, 0), 0, [0]).mask[0, 1:].any()


@needs_shared
def test_the_strings_of_the_shared_cars_and_what_may_be_swapped():
  listed = fdrd.read_file(SHARED / "fdrd/inter_car_train.json", "captions.file")
  names = sorted(set(listed.classes))
  data = pairs(listed.captions, [names.index(x) for x in listed.classes], names)
  table = negatives.build(data, ring(147, 10))
  assert table.own.size + table.swaps.size == 67_034 and (table.swaps >= 0).all()
  # Each distinct string is stored once: 30 captions are those of another car too.
  near = ring(147, 10)
  by_hand = set(data.captions)
  for text, label in zip(data.captions, data.labels, strict=True):
    own = re.compile(re.escape(names[label]), re.IGNORECASE)
    by_hand |= {own.sub(names[to], text) for to in near[label]}
  assert set(table.strings) == by_hand and len(table.strings) == len(by_hand) == 66_741
  row = 17
  for k, to in zip(table.swaps[row], table.swapped_to[row], strict=True):
    own = f"This is a photo of {names[data.labels[row]]}."
    assert table.strings[k] == data.captions[row].replace(own, f"This is a photo of {names[to]}.")


@needs_shared
@pytest.mark.parametrize(("name", "without"), [("flower", 0), ("pets", 6), ("plane", 59)])
def test_captions_of_fdrd_that_do_not_name_their_class_have_no_swap(name, without):
  """Planes: 19 name none or another one, and 40 have it glued to a word, as 'Aero757-200'."""
  file = SHARED / f"fdrd/{name}_test.json"
  listed = fdrd.read_file(file, "captions.file")
  names = sorted(set(listed.classes))
  labels = [names.index(x) for x in listed.classes]
  data = pairs(listed.captions, labels, names, wrong=[list(x) for x in listed.negatives])
  table = negatives.build(data, ring(len(names), 2), given=True)
  assert ((table.swaps < 0).all(1).sum(), (table.swaps < 0).any(1).sum()) == (without, without)
  right = sum(
    item["positive"] in item["negative"] for item in json.loads(file.read_text()).values()
  )
  assert right > 0, "the file has negatives that are right"
  assert not (table.given == table.own[:, None]).any()
