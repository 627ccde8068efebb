"""Composed queries of one's own: a JSONL, and a table of attributes of which queries are made."""

import collections
import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from configs.image_text import fashion
from lafg_jax.data import captions, composed, images
from lafg_jax.data.composed_readers import attributes, phrases
from lafg_jax.data.composed_readers.phrases import Change
from lafg_jax.data.datasets import Dataset
from lafg_jax.language.editors import by_rules
from lafg_jax.tasks.composed_retrieval import default
from lafg_jax.utils.errors import UserError

FASHION = Path(__file__).parents[2] / "../shared/data/fashion/metadata.csv"
needs_fashion = pytest.mark.skipif(not FASHION.exists(), reason="needs ../shared/data/fashion")


def config_of(data=(), **changes):
  config = default.get_config()
  for key, value in changes.items():
    config.composed[key] = str(value) if isinstance(value, Path) else value
  config.data.update(dict(data))
  return config


def load(**changes):
  [part] = composed.load(config_of(**changes))
  return part


def refused(said, **changes):
  with pytest.raises(UserError, match=said) as error:
    load(**changes)
  assert "\n" not in str(error.value)


def pictures(folder, names):
  for k, name in enumerate(names):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6), 10 * k).save(path)


@pytest.fixture
def listed(tmp_path):
  """write(rows) -> the JSONL beside four images, one of them in a folder of its own."""
  pictures(tmp_path, ("a.png", "b.png", "sub/c.png", "d.png"))

  def write(*rows):
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path

  return write


def test_lines_name_images_by_path_or_by_name(listed):
  path = listed(
    {"id": "x", "reference": "a", "text": "but red", "targets": ["c.png", "b.png"], "kinds": "red"},
    {"reference": "sub/c.png", "text": "two $ of it", "targets": "d", "edited": "two of d"},
  )
  part = load(source="listed", file=path)
  first, second = part.queries
  assert (first.id, first.reference, first.targets) == ("x", "a.png", ("sub/c.png", "b.png"))
  assert first.kinds == ("red",) and (second.id, second.targets) == ("2", ("d.png",))
  assert (second.text, second.edited) == ("two $ of it", "two of d")
  assert part.ids == ("a.png", "b.png", "d.png", "sub/c.png") and part.drop_reference
  assert len(part.gallery) == 4 and part.protocol == "targets" and not part.partial
  kept = load(source="listed", file=path, drop_reference="never")
  assert not kept.drop_reference


def test_a_file_says_what_the_gallery_is(listed, tmp_path):
  path = listed({"reference": "a.png", "text": "red", "targets": ["b.png"]})
  names = tmp_path / "gallery.txt"
  names.write_text("sub/c.png\nb\n")
  part = load(source="listed", file=path, gallery_file=names)
  # The reference is no part of the gallery, and has a row all the same.
  assert [part.ids[k] for k in part.gallery] == ["sub/c.png", "b.png"]
  assert part.ids == ("sub/c.png", "b.png", "a.png")
  names.write_text("a.png\n")
  refused("names 'b.png', which is not in the gallery", source="listed", file=path,
          gallery_file=names)  # fmt: skip


def test_missing_images_and_splits_of_lines(listed):
  path = listed(
    {"reference": "a.png", "text": "red", "targets": ["b.png"], "split": "val"},
    {"reference": "a.png", "text": "blue", "targets": ["gone.png"], "split": "val"},
    {"reference": "d.png", "text": "one", "targets": ["b.png"], "split": "train", "edited": "b"},
  )
  refused("lacks 1 of 5 images of listed, such as 'gone.png'", source="listed", file=path)
  part = load(source="listed", file=path, missing="partial")
  assert part.missing == ("gone.png",) and part.partial and len(part.queries) == 1
  assert "4 of 5 images; 1 query of 2 left out" in part.about
  refused("no line of split test", source="listed", file=path, split="test")
  refused("could be the gallery.*gallery_file", source="listed", file=path, missing="annotations")
  names = path.with_name("names.json")
  names.write_text('["b.png", "gone.png"]')
  unread = load(source="listed", file=path, missing="annotations", gallery_file=names)
  assert unread.ids == ("b.png", "gone.png", "a.png") and not unread.missing
  found = composed.training(config_of(source="listed", file=path))
  assert found.ids == ("d.png", "b.png") and found.texts == ("b",) and len(found.images) == 2
  path = listed({"reference": "a.png", "text": "red", "targets": ["b.png"]})
  with pytest.raises(UserError, match="no line of split train.*mapping.texts"):
    composed.training(config_of(source="listed", file=path))


GOOD = {"reference": "a.png", "text": "red", "targets": ["b.png"]}


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    (("{",), "line 1 is no JSON"),
    ((GOOD, "[1]"), "line 2 is no object"),
    (("",), "has no line"),
    ((GOOD | {"text": 3},), "line 1: 'text' is no text"),
    ((GOOD | {"reference": " "},), "'reference' is no text"),
    ((GOOD | {"targets": [1]},), "'targets' is no list of texts"),
    ((GOOD | {"targets": ["b.png", "b.png"]},), "'targets' names something twice"),
    ((GOOD | {"targets": ["a.png"]},), "is one of its own right answers"),
    ((GOOD | {"id": "1"}, GOOD | {"id": "1"}), "query '1' stands there twice"),
    ((GOOD | {"split": "val"}, GOOD | {"split": "rest"}), "line 2: split 'rest' is none"),
  ],
)
def test_broken_lines_are_named(listed, rows, said):
  refused(said, source="listed", file=listed(*rows))


# Two types, seen and unseen by data.test_classes; every combination of colour and gender but one.
COLOURS, GENDERS = ("Red", "Blue", "Navy Blue"), ("Men", "Women")


@pytest.fixture
def shop(tmp_path):
  """A table of shirts and shoes: three colours, two genders, three photographs of each."""
  rows = []
  for kind in ("Shirts", "Shoes"):
    for colour in COLOURS:
      for gender in GENDERS:
        if (kind, colour, gender) != ("Shoes", "Navy Blue", "Women"):
          rows += [(kind, colour, gender)] * 3
  names = [f"images/{k}.png" for k in range(len(rows))]
  pictures(tmp_path, names)
  path = tmp_path / "table.csv"
  with open(path, "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(("path", "Type", "colour", "gender", "price", "name"))
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
      writer.writerow((name, *row, f"{k}.99", f"{row[1]} thing {k}"))
  (tmp_path / "test.txt").write_text("Shoes\n")
  return path


def of_shop(shop, **changes):
  data = {"test_classes": str(shop.parent / "test.txt")}
  # Names and prices would be columns of attributes: with so few rows they have few values.
  usual = {"columns": ("colour", "gender"), "agree": ("gender",)}
  return config_of(data, source="attributes", file=shop, **(usual | changes))


def table_of(path):
  with open(path) as file:
    return {row["path"]: row for row in csv.DictReader(file)}


def by_hand(rows, pool, query, columns):
  """The right answers by the definition: what is asked for, and the same in all else."""
  wanted = dict(rows[query.reference])
  wanted |= dict(pair.split("=") for pair in query.id.split(": ")[1].split(", "))
  same = ("Type", *columns)
  return [x for x in pool if all(rows[x][name] == wanted[name] for name in same)]


def test_right_answers_agree_in_everything_else(shop):
  rows = table_of(shop)
  unseen = [x for x in rows if rows[x]["Type"] == "Shoes"]
  for split in ("val", "test"):
    [part] = composed.load(of_shop(shop, split=split))
    assert sorted(part.ids) == sorted(unseen) and part.drop_reference
    assert f"unseen types of table.csv, {len(unseen)} images" == part.about
    for query in part.queries:
      assert sorted(query.targets) == sorted(by_hand(rows, unseen, query, ("colour", "gender")))
      assert query.targets and query.reference not in query.targets
      # Both columns of two changes change.
      told = [pair.split("=") for pair in query.id.split(": ")[1].split(", ")]
      assert all(rows[query.reference][name] != new for name, new in told)
      assert query.kinds == (" and ".join(name for name, _ in told),)
  references = {
    split: {q.reference for q in composed.load(of_shop(shop, split=split))[0].queries}
    for split in ("val", "test")
  }
  assert not references["val"] & references["test"]
  # Nobody can ask for women's shoes in navy blue, which are not there.
  texts = {query.id.split(": ")[1] for query in part.queries}
  assert not any("colour=Navy Blue, gender=Women" in text for text in texts)


def test_looks_are_the_cells_in_which_answers_agree(shop):
  config, rows = of_shop(shop), table_of(shop)
  [part], looks = composed.load(config), composed.looks(config)
  plain = {"type": "Type", "colour": "colour", "gender": "gender"}
  assert set(looks.names) == set(plain) and set(part.ids) <= set(looks.of) == set(rows)
  for image, look in looks.of.items():
    assert look == tuple(rows[image][plain[name]] for name in looks.names)
  for query in part.queries:
    same = {x for x in part.ids if looks.of[x] == looks.of[query.targets[0]]}
    assert same == set(query.targets)
  assert composed.looks(config_of(source="listed")) is None


def test_sentences_speak_of_columns_as_captions_do(shop):
  """An editor by rules finds in each sentence what it asks for, in the words of `spoken`."""
  config = of_shop(shop, split="test", types="all")
  config.captioner.kind = "attributes"
  told, (part,) = attributes.spoken(config), composed.load(config)
  names, cells = composed.looks(config)
  assert set(told) <= set(names)
  edit = by_rules.of(config)

  def caption(image):
    values = dict(zip(names, cells[image], strict=True))
    return f"A photo of {', '.join(told[name][values[name]][0] for name in told)}."

  assert len(part.queries) > 10
  for query in part.queries:
    assert edit(caption(query.reference), query.text) == caption(query.targets[0]), query.text


def test_queries_are_even_over_kinds_and_do_not_depend_on_other_rows(shop):
  [part] = composed.load(of_shop(shop, num_queries=9))
  kinds = collections.Counter(kind for query in part.queries for kind in query.kinds)
  assert kinds == {"colour": 3, "gender": 3, "colour and gender": 3}
  [more] = composed.load(of_shop(shop, num_queries=0))
  assert set(query.id for query in part.queries) < set(query.id for query in more.queries)
  # The same lines in another order are the same benchmark.
  lines = shop.read_text().splitlines()
  shop.write_text("\n".join([lines[0], *lines[:0:-1]]))
  assert composed.load(of_shop(shop, num_queries=9))[0].queries == part.queries


def test_of_seen_types_the_held_out_images_query_and_the_others_train(shop):
  template = "{name}, {colour} {type} for {gender}"
  config = of_shop(shop, types="seen", test_fraction=0.5, template=template)
  [part] = composed.load(config)
  found = composed.training(config)
  rows = table_of(shop)
  seen = {x for x in rows if rows[x]["Type"] == "Shirts"}
  assert set(part.ids) | set(found.ids) == seen and not set(part.ids) & set(found.ids)
  first = rows[found.ids[0]]
  assert found.texts[0] == f"{first['name']}, {first['colour']} Shirts for {first['gender']}"
  assert len(found.texts) == len(found.images) == len(found.ids) == 9
  # The true description has no name: that of an answer is not known from the question.
  for query in part.queries:
    wanted = rows[query.targets[0]]
    assert query.edited == f"{wanted['colour']} Shirts for {wanted['gender']}"
  [everything] = composed.load(of_shop(shop, types="all", test_fraction=0.5))
  assert len(everything.ids) == len(part.ids) + 15


def test_further_columns_must_agree_and_empty_cells_are_left_out(shop):
  lines = shop.read_text().splitlines()
  head, body = lines[0] + ",season", lines[1:]
  seasons = ["Fall", "Summer", "NA"]
  shop.write_text("\n".join([head, *(f"{x},{seasons[k % 3]}" for k, x in enumerate(body))]))
  [part] = composed.load(of_shop(shop, agree=("season",)))
  rows = table_of(shop)
  known = [x for x in rows if rows[x]["Type"] == "Shoes" and rows[x]["season"] != "NA"]
  assert sorted(part.ids) == sorted(known) and "without 5 images with an empty cell" in part.about
  for query in part.queries:
    columns = ("colour", "gender", "season")
    assert sorted(query.targets) == sorted(by_hand(rows, known, query, columns))


def test_jsonl_and_parquet_are_the_same_benchmark(shop, tmp_path):
  [part] = composed.load(of_shop(shop))
  rows = list(table_of(shop).values())
  lines = tmp_path / "table.jsonl"
  lines.write_text("\n".join(json.dumps(row) for row in rows))
  parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
  for path in (lines, tmp_path / "table.parquet"):
    assert composed.load(of_shop(path))[0].queries == part.queries
  # Parquet as Hugging Face has it, with the images inside.
  held = [
    {key: x for key, x in row.items() if key != "path"}
    | {"image": {"bytes": (tmp_path / row["path"]).read_bytes(), "path": None}}
    for row in rows
  ]
  whole = tmp_path / "whole.parquet"
  parquet.write_table(pyarrow.Table.from_pylist(held), whole)
  [inside] = composed.load(of_shop(whole))
  assert len(inside.queries) == len(part.queries) and inside.ids[0] == "whole.parquet#18"
  dataset = Dataset("x", "test", inside.images, np.zeros(15), ("x",), inside.ids)
  assert images.of_dataset(dataset, 3).getpixel((0, 0))[0] == 10 * 21


def test_missing_photographs(shop):
  (shop.parent / "images/20.png").unlink()
  with pytest.raises(UserError, match="lacks 1 of 33 images of attributes, such as 'images/20.png"):
    composed.load(of_shop(shop))
  [part] = composed.load(of_shop(shop, missing="partial"))
  assert part.partial and part.missing == ("images/20.png",) and len(part.ids) == 14
  [unread] = composed.load(of_shop(shop, missing="annotations"))
  assert not unread.partial and len(unread.ids) == 15


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"split": "train"}, "has val and test"),
    ({"columns": ("size",)}, "composed.columns: 'size' is no column; .* colour, gender"),
    ({"agree": ("size",)}, "composed.agree: 'size' is no column"),
    ({"type_column": "kind"}, "composed.type_column=kind: .* has the columns"),
    ({"template": "{size} {type}"}, "composed.template.*'size' is no column"),
    ({"template": "{name}"}, "it names no attribute"),
    ({"agree": ("name",)}, "no two images differ in colour, gender alone"),
  ],
)
def test_keys_that_do_not_fit_the_table(shop, changes, said):
  with pytest.raises(UserError, match=said) as error:
    composed.load(of_shop(shop, **changes))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (
      Change("colour", "Navy Blue", "Red"),
      ("the same, but red", "in red", "red instead of navy blue", "red, else the same"),
    ),
    (
      Change("gender", "Men", "Women"),
      ("the same, but for women", "for women", "for women instead of men"),
    ),
    (
      Change("usage", "Casual", "Formal"),
      ("the same, but formal", "make it formal", "formal instead of casual"),
    ),
    (Change("season", "Fall", "Summer"), ("the same, but for summer", "for summer")),
    (Change("Fabric", "Wool", "Silk"), ("the same, but made of silk",)),
    (Change("hood", "no", "yes"), ("the same, but with hood", "with hood")),
    (Change("hood", "Yes", "No"), ("the same, but without hood",)),
    (
      Change("sleeve-length", "Long", "Short"),
      ("the same, but with Short as sleeve length", "with Short as sleeve length",
       "with Short instead of Long as sleeve length"),
    ),
  ],
)  # fmt: skip
def test_what_a_change_is_called(change, said):
  assert tuple(phrases.sentence([change], k) for k in range(len(said))) == said


def test_two_changes_stand_in_an_order_that_reads_well():
  two = [Change("gender", "Men", "Unisex"), Change("usage", "Sports", "Casual")]
  assert phrases.sentence(two, 0) == "the same, but casual and for everyone"
  assert (
    phrases.sentence(two[::-1], 2) == "casual instead of sports and for everyone instead of men"
  )


@needs_fashion
def test_types_of_the_photographs_are_halved_as_the_small_clips_training_halves_them():
  kept = {}
  for variant in ("seen", "unseen"):
    config = fashion.get_config(variant)
    config.captions.file = str(FASHION)
    splits = captions.load_splits(config, ("train", "test"))
    kept[variant] = {split: set(part.ids) for split, part in splits.items()}
    if variant == "seen":
      texts = set(splits["train"].captions)
  usual = {"columns": ("gender", "colour", "usage"), "agree": ("gender",)}
  usual |= {"source": "attributes", "file": FASHION, "template": fashion.CAPTION}
  # The cells of some are empty: they are in no gallery, and in training all the same.
  unseen = load(data={"split_seed": 1}, **usual)
  everything = kept["unseen"]["train"] | kept["unseen"]["test"]
  assert set(unseen.ids) <= everything and len(everything - set(unseen.ids)) == 8
  seen = load(data={"split_seed": 1}, types="seen", **usual)
  assert set(seen.ids) <= kept["seen"]["test"] and len(seen.ids) > 0.97 * len(kept["seen"]["test"])
  found = composed.training(config_of({"split_seed": 1}, **usual))
  assert set(found.ids) == kept["seen"]["train"] and set(found.texts) == texts
  assert len(unseen.queries) == 2000 and max(len(q.targets) for q in unseen.queries) > 100
