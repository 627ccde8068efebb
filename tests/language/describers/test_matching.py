"""Described names and classes that are not spelled alike; skeletons to fill in."""

import json

import ml_collections
import pytest

from lafg_jax.language import descriptions
from lafg_jax.language.describers import describe
from lafg_jax.language.describers.matching import match
from lafg_jax.utils.errors import UserError

BIRD = "Black footed Albatross"


@pytest.mark.parametrize(
  ("described", "class_name"),
  [
    (BIRD, BIRD),
    ("black_footed_albatross", BIRD),
    ("BLACK-FOOTED ALBATROSS", BIRD),
    ("001.Black_footed_Albatross", BIRD),
    ("1_Black_footed_Albatross", BIRD),
    ("12 - Black footed Albatross", BIRD),
    (BIRD, "001.Black_footed_Albatross"),
    ("Brewer Blackbird", "Brewer's Blackbird"),
    ("Audi TT Coupe 2012", "Audi TT Coupe"),
    ("Audi TT Coupé", "Audi_TT_Coupe_(2012)"),
    ("Ram C/V Cargo Van 2012", "Ram C-V Cargo Van 2012"),
    ("Me\u0301sange", "Mésange"),
  ],
)
def test_other_spellings_of_one_class_match(described, class_name):
  assert match([described, "Wren"], [class_name, "Owl"]) == {described: class_name}


def test_what_is_not_certain_does_not_match():
  # Two names for one class, two classes for one name, a held-out class that is as near.
  assert match(["red car", "Red-Car"], ["red_car"]) == {}
  assert match(["Audi"], ["Audi 2010", "Audi 2012"]) == {}
  assert match(["Mini"], ["Mini 2012"], ["mini"]) == {}
  assert match(["Mini 2012"], ["Mini"], ["mini 2012"]) == {}
  assert match(["737", "17"], ["class 17"]) == {}
  # A name spelled alike is never given to another class.
  assert match(["Wren", "wren"], ["Wren", "wren"]) == {"Wren": "Wren", "wren": "wren"}


def section(describer="file", path=""):
  return ml_collections.ConfigDict({"describer": describer, "descriptions": str(path)})


def test_shipped_descriptions_serve_folders_of_any_spelling(tmp_path, logged):
  names = ["black_footed_albatross", "Brewer's Blackbird", "audi-tt-rs-coupe"]
  path = describe.run(section("shipped"), tmp_path, names, ["Laysan Albatross"])
  rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
  assert {row["class"] for row in rows} == set(names) and len(rows) > 20
  assert "3 class names are spelled otherwise" in logged.text
  with pytest.raises(UserError, match="did you mean 'Winter Wren' for 'Winter Wrenn'"):
    describe.run(section("shipped"), tmp_path, [*names, "Winter Wrenn"])


def test_a_skeleton_lists_every_class_and_never_overwrites(tmp_path, logged):
  names, path = ["Großer Wren", 'b "c"', "d"], tmp_path / "words.json"
  describe.run(section("skeleton", path), tmp_path / "run", names)
  assert json.loads(path.read_text(encoding="utf-8")) == {name: [] for name in names}
  assert f"--config.language.descriptions={path}" in logged.text
  before = path.read_bytes()
  with pytest.raises(UserError, match="does not overwrite"):
    describe.run(section("skeleton", path), tmp_path / "run", names)
  assert path.read_bytes() == before
  with pytest.raises(UserError, match="no description for 3 of 3"):
    describe.run(section("file", path), tmp_path / "run", names)
  # What it wrote is what is read.
  path.write_text(path.read_text(encoding="utf-8").replace("[]", '["It is red."]'), "utf-8")
  describe.run(section("file", path), tmp_path / "run", names)
  assert {r["class"] for r in descriptions.read(tmp_path / "run", names)} == set(names)
  for target, message in (("", "FILE"), (tmp_path / "x.csv", "skeleton is JSON")):
    with pytest.raises(UserError, match=message):
      describe.run(section("skeleton", target), tmp_path, names)


def test_all_missing_classes_are_listed_in_a_file(tmp_path):
  source, names = tmp_path / "words.json", [f"class {x}" for x in "abcdef"]
  source.write_text('{"class a": ["One."]}')
  with pytest.raises(UserError, match="5 of 6 .*all listed in .*descriptions_missing.txt"):
    describe.run(section(path=source), tmp_path, names)
  assert (tmp_path / describe.MISSING).read_text().splitlines() == names[1:]
  describe.run(section(path=source), tmp_path, names[:1])
  assert not (tmp_path / describe.MISSING).exists()
