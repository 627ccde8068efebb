"""Descriptions from files: what is kept, cleaned and refused."""

import csv
import json
from pathlib import Path

import ml_collections
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.language import descriptions
from lafg_jax.language.describers import describe
from lafg_jax.utils.errors import UserError

GPT3 = Path(__file__).parents[4] / "shared/data/descriptions/stanford_cars_gpt3.json"


def section(path="", describer="file"):
  return ml_collections.ConfigDict({"describer": describer, "descriptions": str(path)})


def lines(path):
  return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_file_is_cleaned_and_keeps_only_the_given_classes(tmp_path, logged):
  source = tmp_path / "words.json"
  texts = [
    "  A red\n car. ",
    '"A red car."',
    '"A big car.',
    "A red car.",
    " ",
    '"-."',
    'A "V8" car.',
  ]
  source.write_text(json.dumps({"unseen": ["x"], "b": ["Grün."], "a": texts}), encoding="utf-8")
  path = describe.run(section(source), tmp_path / "run", ("a", "b"))
  assert path == tmp_path / "run" / "descriptions.jsonl"
  assert [(r["class"], r["description"]) for r in lines(path)] == [
    ("a", "A red car."),
    ("a", "A big car."),
    ("a", 'A "V8" car.'),
    ("b", "Grün."),
  ]
  assert {r["source"] for r in lines(path)} == {"file:words.json"}
  assert "4 sentences of 2 classes kept; dropped 1 class not" in logged.text
  assert "2 repeated and 2 empty" in logged.text


def test_jsonl_file_gives_the_same_and_keeps_its_source(tmp_path):
  source = tmp_path / "words.jsonl"
  rows = [
    {"class": "b", "description": "Two\u2028lines.", "source": "model-x"},
    {"class": "a", "description": "One."},
  ]
  text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
  source.write_text(text, encoding="utf-8-sig")
  path = describe.run(section(source), tmp_path, ["a", "b"])
  expected = [
    {"class": "a", "description": "One.", "source": "file:words.jsonl"},
    {"class": "b", "description": "Two lines.", "source": "model-x"},
  ]
  assert lines(path) == expected
  assert descriptions.read(tmp_path, ["b", "a"]) == expected


def test_class_that_stands_twice_in_json_keeps_both_lists(tmp_path):
  source = tmp_path / "words.json"
  source.write_text('{"a": ["One."], "a": ["Two."]}')
  kept = lines(describe.run(section(source), tmp_path, ["a"]))
  assert [r["description"] for r in kept] == ["One.", "Two."]


def test_classes_without_description_are_counted_and_named(tmp_path):
  source = tmp_path / "words.json"
  source.write_text(json.dumps({"a": ["One."], "b": [" "], "Audi TT 2012": ["x"]}))
  names = ["Audi TT Coupe 2012", "a", "b", "c", "d"]
  pattern = r"4 of 5 training classes \('Audi TT Coupe 2012', 'b', 'c', \.\.\.\).*'Audi TT 2012'"
  with pytest.raises(UserError, match=pattern):
    describe.run(section(source), tmp_path, names)
  assert not (tmp_path / "descriptions.jsonl").exists()


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("d.json", '{"a": ["x"]', "not JSON .*line 1"),
    ("d.json", '{"class": "a"}\n{"class": "b"}', r"not JSON .*needs \.jsonl"),
    ("d.json", '["x"]', "another kind of value"),
    ("d.json", "3", "another kind of value"),
    ("d.json", '{"a": "x"}', "'a' has no list of strings"),
    ("d.json", '{"a": ["x", 3]}', "'a' has no list of strings"),
    ("d.json", '{"a": {"b": ["x"]}}', "'a' has no list of strings"),
    ("d.json", b'{"a": ["\xff"]}', "UTF-8"),
    ("d.jsonl", '{"class": "a", "description": "x"}\n{', "line 2 is not JSON"),
    ("d.jsonl", '\n{"class": "a"}', "line 2 is not {"),
    ("d.jsonl", '{"class": "a", "description": ["x"]}', "line 1 is not {"),
    ("d.jsonl", '{"class": "a", "description": "x", "source": 1}', "line 1 is not {"),
    ("d.jsonl", '["a", "x"]', "line 1 is not {"),
    ("d.csv", "", "columns class and description"),
    ("d.json", "[" * 100_000, "is not JSON"),
    ("d.jsonl", "[" * 100_000, "line 1 is not JSON"),
    ("d.json", b"\xff\xfe", "d.json cannot be read as UTF-8"),
    ("d.csv", "class,text\na,x\n", "columns class and description"),
    ("d.csv", "class,description\na,x\nb\n", "line 3 has not as many cells"),
    ("d.csv", "class,description\na,One, two.\n", "line 2 has not as many cells.*comma"),
    ("d.csv", 'class,description\na,"x\n', "is not CSV"),
    ("d.csv", b"class,description\na,\xff\n", "UTF-8"),
  ],
)
def test_malformed_file_is_one_clear_line(tmp_path, name, content, message):
  source = tmp_path / name
  source.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=message) as raised:
    describe.run(section(source), tmp_path, ["a"])
  assert str(source) in str(raised.value)
  assert "\n" not in str(raised.value)


NAMES = ["Audi TT Coupe 2012", "a", 'b, "c"']


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text()), max_size=12))
def test_csv_json_and_jsonl_hold_the_same(tmp_path_factory, pairs):
  folder = tmp_path_factory.mktemp("three")
  # NUL and half characters stand in no text file; the csv writer itself turns a lone \r around.
  pairs = [(c, t.replace("\0", "").replace("\r", " ")) for c, t in pairs]
  pairs = [(c, t.encode("utf-8", "ignore").decode()) for c, t in pairs]
  pairs += [(name, f"It is, say, {name}.") for name in NAMES]
  with open(folder / "d.csv", "w", newline="", encoding="utf-8-sig") as file:
    csv.writer(file).writerows([("id", "description", " class "), *((0, t, c) for c, t in pairs)])
  rows = [json.dumps({"class": c, "description": t}) for c, t in pairs]
  (folder / "d.jsonl").write_text("\n".join(rows))
  by_class = {name: [t for c, t in pairs if c == name] for name in NAMES}
  (folder / "d.json").write_text(json.dumps(by_class))
  found = []
  for name in ("d.csv", "d.jsonl", "d.json"):
    kept = lines(describe.run(section(folder / name), folder / "run", NAMES))
    found.append([(record["class"], record["description"]) for record in kept])
  assert found[0] == found[1] == found[2]
  assert found[0][-1] == (NAMES[2], f"It is, say, {NAMES[2]}.")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
  folder = tmp_path / "shipped"
  folder.mkdir()
  (folder / "birds.json").write_text(json.dumps({"Wren": ["Small and brown."], "Owl": ["Big."]}))
  (folder / "cars.json").write_text(json.dumps({"Audi": ["Four rings."]}))
  monkeypatch.setattr(descriptions, "SHIPPED", folder)
  return folder


def test_shipped_descriptions_come_from_all_files(shipped, tmp_path):
  kept = lines(describe.run(section(describer="shipped"), tmp_path, ["Audi", "Wren"]))
  assert kept == [
    {"class": "Audi", "description": "Four rings.", "source": "shipped:cars.json"},
    {"class": "Wren", "description": "Small and brown.", "source": "shipped:birds.json"},
  ]


def test_classes_that_are_not_shipped_are_counted(shipped, tmp_path):
  pattern = r"no description for 2 of 3 .*'Kiwi', 'Emu'.*--config.language.descriptions=FILE"
  with pytest.raises(UserError, match=pattern):
    describe.run(section(describer="shipped"), tmp_path, ["Kiwi", "Audi", "Emu"])


@pytest.mark.parametrize("describer", ["file", "shipped", "synthetic", "openai", "transformers"])
def test_a_descriptions_file_wins_over_the_describer(shipped, tmp_path, describer):
  source = tmp_path / "words.json"
  source.write_text(json.dumps({"Audi": ["Mine."]}))
  kept = lines(describe.run(section(source, describer), tmp_path, ["Audi"]))
  assert [record["description"] for record in kept] == ["Mine."]


def test_half_a_character_is_left_out(tmp_path):
  source = tmp_path / "words.json"
  source.write_text('{"a": ["A \\ud800red car."]}')
  kept = lines(describe.run(section(source), tmp_path, ["a"]))
  assert kept[0]["description"] == "A red car."


def test_what_names_a_held_out_class_is_dropped_and_counted(tmp_path, logged):
  source = tmp_path / "words.json"
  source.write_text(json.dumps({"Owl": ["Like a mini.", "Big eyes."], "Wren": ["No mini."]}))
  kept = lines(describe.run(section(source), tmp_path, ["Owl"], ["Mini 2012", "Wren"]))
  assert [record["description"] for record in kept] == ["Big eyes."]
  assert "and 1 that name a class kept from training" in logged.text
  with pytest.raises(UserError, match="1 of 2 training classes .*'Wren'.*2 sentences"):
    describe.run(section(source), tmp_path, ["Owl", "Wren"], ["Mini 2012"])


def test_absent_file_and_unknown_describer(tmp_path):
  for path, message in (("", "is empty"), (tmp_path / "no.json", "no file"), (tmp_path, "no file")):
    with pytest.raises(UserError, match=f"{message}.*--config.language.descriptions=FILE"):
      describe.run(section(path), tmp_path, ["a"])
  with pytest.raises(UserError, match="language.describer is .*'magic'"):
    describe.run(section(describer="magic"), tmp_path, ["a"])


def test_reading_back_refuses_other_classes_and_a_missing_file(tmp_path):
  with pytest.raises(UserError, match="does not exist: run --stage=describe"):
    descriptions.read(tmp_path, ["a"])
  path = tmp_path / "descriptions.jsonl"
  path.write_text('{"class": "a", "description": "x"}\n')
  for names in (["a", "b"], [], ["b"]):
    with pytest.raises(UserError, match="other classes: run --stage=describe"):
      descriptions.read(tmp_path, names)
  path.write_text('{"class": "a", "description": ')
  with pytest.raises(UserError, match="line 1 is not JSON.*run --stage=describe"):
    descriptions.read(tmp_path, ["a"])


def test_synthetic_describer_writes_what_the_renderer_says(tmp_path):
  from lafg_jax.finches import classes

  names = classes.class_names("seen")[:3]
  kept = lines(describe.run(section(describer="synthetic"), tmp_path, names))
  written = classes.describe(names)
  for name in names:
    texts = [record["description"] for record in kept if record["class"] == name]
    assert texts == [text for i, text in enumerate(written[name]) if text not in written[name][:i]]
  assert {record["source"] for record in kept} == {"synthetic"}


@pytest.mark.skipif(not GPT3.exists(), reason="needs ../shared/data")
def test_gpt3_file_keeps_half_of_the_classes(tmp_path, logged):
  names = sorted(json.loads(GPT3.read_text()))
  kept = lines(describe.run(section(GPT3), tmp_path, names[:98]))
  assert {record["class"] for record in kept} == set(names[:98])
  assert "of 98 classes kept; dropped 98 classes" in logged.text
  assert all(record["description"].strip('" ') for record in kept)


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("d.csv", "Class;Description\na;One, two.\n"),
    ("d.csv", "description\tclass\nOne, two.\ta\n"),
    ("d.tsv", "class\tdescription\na\tOne, two.\n"),
    ("d.jsonl", '{"class": "a", "description": "One, two.", "source": null}\n'),
  ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, name, text):
  (tmp_path / name).write_text(text, encoding="utf-8")
  (row,) = descriptions.read_file(str(tmp_path / name))
  assert row == {"class": "a", "description": "One, two.", "source": f"file:{name}"}
