"""The stage `edit`: the file of edits, by every editor; real captions and queries of CIRCO."""

import json
import multiprocessing
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.data import composed
from lafg_jax.data.composed import Composed, Query
from lafg_jax.language.editors import without_llm
from lafg_jax.language.editors.record import Asked, Edit
from lafg_jax.tasks.composed_retrieval import default, edit_quality, edits
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint

LDRE = Path(__file__).resolve().parents[4] / "shared/data/composed/ldre"
CAPTIONS = {f"r{i}": [f"a bird {i}", f"bird {i} outside"] for i in range(4)}


def part_of(queries, name="part"):
  ids = tuple(dict.fromkeys(query.reference for query in queries))
  none = np.zeros(0, np.int32)
  return Composed(name, "test", tuple(queries), ids, [""] * len(ids), none, "", True, "circo", "")


def small(name="part"):
  return part_of([Query(str(i), f"r{i}", f"is {i}", edited=f"truth {i}") for i in range(4)], name)


def config_of(**changes):
  config = default.get_config()
  config.composed.source = "circo"
  config.captioner.kind = "file"
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return config


def lines(path):
  return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_line_says_who_wrote_it_and_what_came(tmp_path, chat_endpoint):
  def answer(request, earlier):
    text = request["messages"][0]["content"]
    if "Instruction: is 2\n" in text.split("\n\n")[-1]:
      return " "
    return "Edited Description: a red bird" if text.endswith("Edited Description:") else "red"

  endpoint = chat_endpoint(answer)
  config = config_of(editor__kind="openai", editor__llm="m", editor__base_url=endpoint.url)
  config.editor.update(retries=0)
  path = edits.run(config, tmp_path, [small()], CAPTIONS)
  rows = lines(path)
  assert rows[0] == {
    "id": "0", "part": "part", "edited": ["a red bird"], "added": "red", "editor": "openai:m",
    "prompt": "structural 1", "raw": {"edited": ["Edited Description: a red bird"], "added": "red"},
  }  # fmt: skip
  assert rows[2]["edited"] == CAPTIONS["r2"] and rows[2]["added"] == ""
  assert rows[2]["fallback"] == ["edited", "added"] and rows[2]["raw"] == {
    "edited": [" "],
    "added": " ",
  }
  found = edits.read(tmp_path)
  assert found["part", "0"] == Edit(("a red bird",), "red") and len(found) == 4
  # The file of a run is a file of edits.
  config = config_of(editor__kind="file", editor__file=str(path))
  edits.check(config)
  edits.run(config, tmp_path / "other", [small()], {})
  assert edits.read(tmp_path / "other", "file") == found


def test_a_file_must_have_every_query_of_every_part(tmp_path):
  path = tmp_path / "given.jsonl"
  config = config_of(editor__kind="file", editor__file=str(path))

  def run(rows, *parts):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    edits.run(config, tmp_path, parts or [small()], {})
    return edits.read(tmp_path)

  rows = [{"id": i, "edited": f"a bird {i}"} for i in range(5)]
  assert run(rows)["part", "3"] == Edit(("a bird 3",), "")
  with pytest.raises(UserError, match=r"no edit of 2 queries of 4 \('2', '3'\)"):
    run(rows[:2])
  with pytest.raises(UserError, match="'0' is in 'part' and 'other': add \"part\""):
    run(rows, small(), small("other"))
  both = [row | {"part": name} for row in rows for name in ("part", "other")]
  assert len(run(both, small(), small("other"))) == 8
  for bad in ({"id": 1}, {"edited": "a"}, {"id": 1, "edited": [1]}, {"id": 1, "edited": [" "]}):
    with pytest.raises(UserError, match="given.jsonl: row 5 is no edit"):
      run([*rows[:4], bad])
  with pytest.raises(UserError, match="row 6: the query 0 comes twice"):
    run([*rows, rows[0]])


def test_a_caption_of_listed_phrases_is_edited_by_their_words(tmp_path):
  phrases = tmp_path / "phrases.json"
  phrases.write_text(json.dumps({"colour": {"Red": "a red one", "Blue": "a blue one"}}))
  config = config_of(captioner__kind="attributes", captioner__file=str(phrases))
  config.editor.kind = "grammar"
  texts = ("the same, but red", "cheaper")
  part = part_of([Query(str(i), f"r{i}", text) for i, text in enumerate(texts)])
  before = edits.inputs(config)
  edits.check(config)
  edits.run(config, tmp_path, [part], {f"r{i}": ["A photo of a blue one."] for i in range(2)})
  rows = lines(tmp_path / edits.FILE)
  assert rows[0]["edited"] == ["A photo of a red one."] and "fallback" not in rows[0]
  assert rows[1]["edited"] == ["A photo of a blue one."] and rows[1]["fallback"] == ["edited"]
  was = fingerprint(*before)
  phrases.write_text(json.dumps({"colour": {"Red": "the red one", "Blue": "a blue one"}}))
  assert fingerprint(*edits.inputs(config)) != was
  # Captions of a file list no phrases that the rules know.
  config.captioner.kind = "file"
  with pytest.raises(UserError, match="--config.captioner.kind=attributes"):
    edits.check(config)


def test_what_an_editor_lacks_is_said_before_it_works(tmp_path):
  for kind in ("openai", "transformers", "grammar"):
    llm = "" if kind == "grammar" else "./m"
    config = config_of(editor__kind=kind, editor__llm=llm, captioner__kind="none")
    config.editor.base_url = "http://127.0.0.1:9/v1"
    with pytest.raises(UserError, match="editor|cannot be reached"):
      edits.check(config)
    with pytest.raises(UserError, match="2 reference images .*'r2'"):
      edits.run(config, tmp_path, [small()], {"r0": ["a"], "r1": ["b"], "r2": []})
  with pytest.raises(UserError, match="editor.llm is empty"):
    edits.check(config_of(editor__kind="openai"))
  assert edits.read(tmp_path) == {}
  with pytest.raises(UserError, match="run --stage=edit first"):
    edits.read(tmp_path, "openai")
  edits.run(config_of(), tmp_path, [small()], {})
  assert edits.read(tmp_path, "none") == {}


def test_the_truth_is_the_ceiling_and_must_be_known(tmp_path):
  config = config_of(editor__kind="perfect")
  edits.run(config, tmp_path, [small()], {})
  assert edits.read(tmp_path)["part", "2"] == Edit(("truth 2",), "")
  part = small()
  part = part._replace(queries=(part.queries[0], part.queries[1]._replace(edited="")))
  with pytest.raises(UserError, match=r"perfect: of 1 query of 2 .*'1'"):
    edits.run(config, tmp_path, [part], {})


def test_a_share_of_queries_gets_another_ones_edit(tmp_path):
  parts = [part_of([Query(str(i), "r", "", edited=f"{n} {i}") for i in range(40)], n) for n in "ab"]
  found = {}
  for seed in (0, 1):
    config = config_of(editor__kind="perfect", editor__wrong=0.25, editor__seed=seed)
    edits.run(config, tmp_path, parts, {})
    found[seed] = {(row["part"], row["id"]): row for row in lines(tmp_path / edits.FILE)}
    wrong = {key: row for key, row in found[seed].items() if "wrong" in row}
    assert len(wrong) == 20
    for (part, name), row in found[seed].items():
      assert row["edited"] == [f"{part} {row.get('wrong', name)}"]
      assert row.get("wrong") != name
  assert found[0] != found[1]
  edits.run(config, tmp_path, parts, {})
  assert {(r["part"], r["id"]): r for r in lines(tmp_path / edits.FILE)} == found[1]
  assert without_llm.wrong_of(["a", "b", "b"], 1.0, 0) == {1: 2, 2: 1}
  assert without_llm.wrong_of(["a"], 1.0, 0) == {} == without_llm.wrong_of(["a", "a"], 0.0, 0)


def test_a_grammar_edits_what_it_reads_and_captions_stand_in():
  def edit(caption, text):
    return f"{caption}, {text}" if "outside" in caption and text != "hm" else None

  queries = [Asked("p", "0", ("x", "y outside", "z outside"), "red"), Asked("p", "1", ("x",), "hm")]
  joined = [said for _, said in without_llm.by_grammar(edit, "joined", queries)]
  assert joined[0].edit == Edit(("y outside, red",)) and joined[0].fallback == ()
  assert joined[1].edit == Edit(("x",)) and joined[1].fallback == ("edited",)
  each = [said.edit.edited for _, said in without_llm.by_grammar(edit, "per_caption", queries)]
  assert each == [("y outside, red", "z outside, red"), ("x",)]


def test_inputs_change_with_what_decides_the_edits_and_nothing_else():
  base = config_of(editor__kind="openai", editor__llm="m")

  def inputs(**changes):
    config = base.copy_and_resolve_references()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return json.dumps(edits.inputs(config), default=str)

  same = {"concurrency": 3, "timeout_s": 9.0, "base_url": "http://x/v1", "batch_size": 1, "seed": 4}
  for key, value in same.items():
    assert inputs(**{f"editor__{key}": value}) == inputs(), key
  other = {"llm": "n", "form": "per_caption", "added": False, "temperature": 1.0, "wrong": 0.5}
  for key, value in (other | {"prompt": "fashion", "max_tokens": 5}).items():
    assert inputs(**{f"editor__{key}": value}) != inputs(), key
  assert inputs(composed__source="cirr") != inputs() == inputs(composed__source="finches")


# --- the real queries of CIRCO ---


def circo():
  """(part, captions by reference id, LDRE's rows) of all test queries."""
  rows = json.loads((LDRE / "circo_test_captions_and_edits.json").read_text())
  queries = [Query(str(x["id"]), str(x["reference_img_id"]), x["relative_caption"]) for x in rows]
  captions = {str(x["reference_img_id"]): x["multi_caption_opt"] for x in rows}
  return part_of(queries, "circo"), captions, rows


needs_ldre = pytest.mark.skipif(not LDRE.is_dir(), reason="needs ../shared")


@needs_ldre
def test_ldres_json_has_the_edits_of_all_circo_queries(tmp_path):
  part, _, rows = circo()
  path = str(LDRE / "circo_test_captions_and_edits.json")
  edits.run(config_of(editor__kind="file", editor__file=path), tmp_path, [part], {})
  found = edits.read(tmp_path)
  assert len(found) == 800
  for row in rows:
    wanted = tuple(" ".join(text.split()) for text in row["multi_gpt-3.5_opt"])
    assert found["circo", str(row["id"])] == Edit(wanted, "")


def _edit(config, workdir, part, captions):
  edits.run(config, workdir, [part], captions)


@needs_ldre
def test_twenty_kills_of_the_editor_on_800_real_queries(tmp_path, chat_endpoint):
  """SIGKILL at any moment: nothing that was written is lost, or asked for twice."""
  part, captions, rows = circo()
  strikes: dict[int, tuple[int, float]] = {}
  lock = threading.Lock()

  def answer(request, earlier):
    with lock:
      struck = strikes.pop(len(endpoint.requests), None)
    if struck:
      time.sleep(struck[1])
      os.kill(struck[0], signal.SIGKILL)
    *_, text, label = request["messages"][0]["content"].split("\n")
    return f"{label} {text.removeprefix('Instruction: ')}"

  endpoint = chat_endpoint(answer)
  config = config_of(editor__kind="openai", editor__llm="m", editor__base_url=endpoint.url)
  config.editor.update(concurrency=4)
  context, rng = multiprocessing.get_context("forkserver"), random.Random(0)
  context.set_forkserver_preload(["openai", "lafg_jax.tasks.composed_retrieval.edits"])
  kept: list[str] = []
  for _ in range(20):
    with lock:
      at = len(endpoint.requests) + rng.randrange(2, 60)
      process = context.Process(target=_edit, args=(config, tmp_path, part, captions))
      process.start()
      strikes[at] = process.pid, rng.uniform(0, 0.01)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for path in tmp_path.glob("edits.partial-*.jsonl"):
      whole = path.read_bytes().split(b"\n")[:-1]
      now = [json.loads(line)["asked"] for line in whole]
      assert now[: len(kept)] == kept and len(set(now)) == len(now)
      kept = now
  assert 100 < len(kept) < 1600
  edits.run(config, tmp_path, [part], captions)
  found = edits.read(tmp_path)
  assert found == {
    ("circo", str(row["id"])): Edit((_said(row),), _said(row).rstrip(". ")) for row in rows
  }
  asked = Counter(request["messages"][0]["content"] for request in endpoint.requests)
  # A kill costs at most the requests in flight.
  assert sum(asked.values()) - len(asked) <= 20 * 4
  before = len(endpoint.requests)
  edits.run(config, tmp_path, [part], captions)
  assert len(endpoint.requests) == before


def _said(row):
  return re.sub(r"\s+", " ", row["relative_caption"]).strip()


def test_of_a_table_rules_read_its_columns_and_what_is_exact_is_known(tmp_path):
  """The sentences of a table, against captions that list its cells as `attributes` does."""
  shown = [(c, g) for c in ("Red", "Navy Blue", "Blue") for g in ("Men", "Unisex") for _ in "ab"]
  rows = [f"{k}.jpg,shirts,{colour},{gender}" for k, (colour, gender) in enumerate(shown)]
  (tmp_path / "table.csv").write_text("\n".join(["path,type,colour,gender", *rows]))
  config = config_of(editor__kind="grammar", captioner__kind="attributes")
  config.composed.update(source="attributes", file=str(tmp_path / "table.csv"), types="all")
  config.composed.update(missing="annotations", test_fraction=0.9, split="test")
  edits.check(config)
  [part] = composed.load(config)

  def caption(colour, gender):
    return f"a photo of shirts, {'for everyone' if gender == 'Unisex' else 'for men'} and {colour}."

  captions = {f"{k}.jpg": [caption(c.lower(), g)] for k, (c, g) in enumerate(shown)}
  edits.run(config, tmp_path, [part], captions)
  found = edits.read(tmp_path)
  assert len(found) == len(part.queries) > 5 and not any(
    "fallback" in x for x in lines(tmp_path / edits.FILE)
  )
  for query in part.queries:
    assert list(found[part.name, query.id].edited) == captions[query.targets[0]], query.text
  assert edit_quality.measured(config, part, found) == {"edits": 1.0}
  # One that says another colour, one that says two, and one that leaves the gender out.
  first, second, third = ((part.name, query.id) for query in part.queries[:3])
  found[first] = Edit((caption("green", "Men") + " Red, navy blue.",))
  found[second] = Edit((found[second].edited[0] + " Red, navy blue, blue.",))
  found[third] = Edit((re.sub("for [a-z]+", "", found[third].edited[0]),))
  assert edit_quality.measured(config, part, found) == {"edits": 1 - 3 / len(part.queries)}
  config.captioner.kind = "file"
  with pytest.raises(UserError, match="kind=attributes, or another editor"):
    edits.check(config)
