"""Which queries the report shows, how answers are marked, and that its numbers are those of the
evaluation."""

import json
import re

import numpy as np
import pytest

from configs.composed import finches
from lafg_jax.data import composed
from lafg_jax.data.composed import Composed, Query
from lafg_jax.report import composed_page
from lafg_jax.tasks.composed_retrieval import default, readings
from lafg_jax.utils.errors import UserError

IDS = tuple("abcdefgh")
QUERIES = (
  Query("0", "a", "with a <b>bar", ("c", "d"), ("a", "b", "c"), ("one", "addition")),
  Query("1", "b", "without it", ("e",), (), ("one", "negation")),
  Query("2", "c", "with two", ("a",), (), ("two", "addition")),
  *(Query(str(n), "d", f"number {n}", ("h",), (), ("two",)) for n in range(3, 30)),
)
RANKED = {"0": "abcdefg", "1": "efgh", "2": "bhda"}
WEIGHTS = {"alpha": 0.6, "beta": 0.4, "rest": 0.0, "text": 0.0, "gamma": 0.2, "template": "cvsi"}


def line_of(query):
  ranked = RANKED.get(query.id, "abcdefgh" if int(query.id) % 3 else "habcdefg")
  scores = [round(0.9 - 0.1 * k, 5) for k in range(len(ranked))]
  terms = {"edit": [x - 0.3 for x in scores[:4]], "phi": [0.3] * 4}
  said = {"part": "birds", "id": query.id, "text": query.text, "targets": list(query.targets)}
  return said | {"ranked": list(ranked), "scores": scores, "terms": terms}


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
  """A workdir as the evaluate stage leaves it; `make(**changes)` writes the report of a part."""
  part = Composed(
    "birds", "val", QUERIES, IDS, np.zeros((8, 20, 20, 3), np.uint8), np.arange(8, dtype=np.int32),
    "8 images", True, "targets", "0",
  )  # fmt: skip
  figures = {"recall@1": 0.4321, "map@5": 0.5678, "chance": {"recall@1": 0.0123, "map@5": 0.045}}
  result = figures | {"dataset": "birds", "split": "val", "source": "checkpoint", "method": "cvsi"}
  result |= {"by_method": {"cvsi": figures, "sum": {"recall@1": 0.2, "map@5": 0.3}}}
  result |= {"by_kind": {"negation": {"recall@1": 0.11, "num_queries": 1}}, "num_queries": 30}
  result |= {"weights": {"cvsi": WEIGHTS}, "gallery": {"birds": "8 images"}, "num_gallery": 8}
  result |= {"clip": {"name": "tiny_clip", "image_size": 48}, "drop_reference": True}
  lines = [line_of(query) for query in QUERIES]

  def make(part=part, lines=lines, config=None, **changes):
    (tmp_path / "evaluation.json").write_text(json.dumps(result | changes))
    (tmp_path / "rankings.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    monkeypatch.setattr(composed, "load", lambda config: [part])
    monkeypatch.setattr(composed, "looks", lambda config: None)
    pages = []
    monkeypatch.setattr(composed_page, "run", lambda workdir, page: pages.append(page))
    readings.run(config or default.get_config(), str(tmp_path))
    return pages[0]

  return part, lines, make


def test_half_of_a_kind_are_failures_and_each_query_stands_once(evaluated):
  part, lines, make = evaluated
  page = make()
  shown = {query.id: query for query in page.shown}
  assert len(shown) == len(page.shown)
  # 'negation' is rarer than 'one', 'addition' as rare as 'one' and before it.
  assert shown["1"].kinds[0] == "negation" and shown["0"].kinds[0] == "addition"
  of_two = [query for query in page.shown if query.kinds[0] == "two"]
  assert [query.rank for query in of_two].count(1) == 2 and len(of_two) == 4
  # First, and last of each; ranks are those of the first right answer.
  assert [query.id for query in of_two] == ["3", "27", "4", "29"]
  assert (shown["0"].rank, shown["1"].rank, shown["2"].rank, shown["4"].rank) == (3, 1, 4, 8)
  assert page.share["addition"] == (0, 2) and page.share["two"] == (9, 28)


def test_answers_are_marked_and_terms_add_up(evaluated):
  part, lines, make = evaluated
  (first,) = [query for query in make().shown if query.id == "0"]
  # a is the reference, b of the subset.
  assert [x.kind for x in first.answers] == ["reference", "near", "right", "right", *["wrong"] * 2]
  assert [x.image for x in first.answers] == list("abcdef")
  assert [x.place for x in first.answers] == [1, 2, 3, 4, 5, 6]
  for answer in first.answers[:4]:
    assert sum(answer.terms) == pytest.approx(answer.score)
  # Shares are stored of the first places alone.
  assert first.answers[4].terms == ()


def test_figures_weights_and_notes_are_those_of_the_evaluation(evaluated):
  page = evaluated[2](
    missing={"birds": 3}, partial=True, num_without_edit=2, exact_edits={"edits": 0.25}
  )
  (_, first), (title, kinds) = page.tables
  assert first[0] == ["%", "R@1", "mAP@5"] and first[-1] == ["chance", "1.2", "4.5"]
  assert first[1] == ["CVSI", "43.2", "56.8"] and first[2] == ["image + text", "20.0", "30.0"]
  assert title == "By kind of sentence" and kinds[1][:3] == ["negation", "1", "11.0"]
  assert [(term.letter, term.weight) for term in page.terms] == [("m", 0.6), ("f", 0.4)]
  said = "; ".join(page.notes)
  for note in ("left out of its ranking", "tiny_clip at 48 px", "captions have weight 0.2",
               "3 listed images missing", "2 without edits", "what the truth does: 25.0 %",
               "(partial copy)"):  # fmt: skip
    assert note in said


def test_the_best_right_answer_stands_behind_the_first(evaluated):
  part, lines, make = evaluated
  lines[2]["ranked"], lines[2]["scores"] = ["b"], [0.5]
  shown = {query.id: query for query in make().shown}
  # At place 8, and beyond all places.
  assert [x.image for x in shown["4"].answers] == [*"abcdef", "h"]
  assert shown["4"].answers[-1][:4] == (8, "h", "right", pytest.approx(0.2))
  assert shown["2"].rank == 0 and shown["2"].answers[-1] == (0, "a", "right", None, (), "")


def test_near_misses_are_told_by_looks():
  names = ("crown", "tail")
  looks = composed.Looks(names, {"t": ("red", "long"), "r": ("blue", "long"), "u": ("blue", "long"),
                                 "v": ("red", "fan"), "w": ("green", "fan")})  # fmt: skip
  query = Query("0", "r", "red", ("t",))
  kinds = {image: readings.kind_of(query, image, looks) for image in looks.of}
  assert kinds == {
    "t": ("right", ""),
    "r": ("reference", ""),
    "u": ("near", "unchanged"),
    "v": ("near", "another tail"),
    "w": ("wrong", ""),
  }
  # Two changes of which one is made, and what looks as a query of two changes did.
  both = Query("0", "w", "red and long", ("t",))
  assert readings.kind_of(both, "v", looks) == ("near", "another tail")


def test_the_looks_of_finches_tell_what_is_right():
  config = finches.get_config()
  config.composed.update(split="val", num_queries=20)
  (part,), looks = composed.load(config), composed.looks(config)
  assert set(looks.of) == set(part.ids)
  for query in part.queries:
    wanted = looks.of[query.targets[0]]
    same = {image for image in part.ids if looks.of[image] == wanted}
    assert same == set(query.targets)
    assert looks.of[query.reference] != wanted


def test_secret_answers_are_not_known(evaluated):
  part, lines, make = evaluated
  secret = part._replace(queries=tuple(x._replace(targets=(), members=()) for x in part.queries))
  page = make(secret, by_method={}, by_kind={}, chance={})
  assert page.share == {} and {query.rank for query in page.shown} == {None}
  assert {answer.kind for query in page.shown for answer in query.answers} == {"unknown"}
  assert "secret" in page.tables[0][1][0][0]


def test_the_whole_page_is_written(evaluated, tmp_path, monkeypatch):
  real = composed_page.run
  page = evaluated[2]()
  real(str(tmp_path), page)
  text = (tmp_path / "report.html").read_text()
  assert text.count("data:image/jpeg") == sum(1 + len(query.answers) for query in page.shown)
  assert "with a &lt;b&gt;bar" in text and "<b>bar" not in text
  assert len(re.findall(r"<svg class=.bar", text)) == sum(
    bool(answer.terms) for query in page.shown for answer in query.answers
  )


@pytest.mark.parametrize(
  ("change", "says"),
  [
    ({"method": "sum"}, r"another evaluation \(method: sum -> cvsi\): run --stage=evaluate"),
    ({"split": "test"}, "split: test -> val"),
    ({"lines": []}, r"of other queries \(query 0 of birds\)"),
    ({"lines": [line_of(query) | {"text": "x"} for query in QUERIES]}, "of other queries"),
    ({"lines": [line_of(query) | {"ranked": ["z"]} for query in QUERIES]}, "of other queries"),
    ({"lines": [{"part": "birds"}]}, "rankings.jsonl is damaged"),
    ({"lines": [3]}, "rankings.jsonl is damaged"),
  ],
)
def test_what_does_not_belong_together_is_one_line(evaluated, change, says):
  with pytest.raises(UserError, match=says) as caught:
    evaluated[2](**change)
  assert "\n" not in str(caught.value)


def test_without_an_evaluation_it_says_what_to_run(tmp_path):
  with pytest.raises(UserError, match="run --stage=evaluate first"):
    readings.run(default.get_config(), str(tmp_path))


def test_pictures_that_are_not_there_are_one_warning(evaluated, tmp_path, caplog):
  part, _, make = evaluated
  page = make(part=part._replace(images=np.array([str(tmp_path / f"{x}.jpg") for x in IDS])))
  unread = page.picture.args[1]
  assert (page.picture("birds", "a") == 128).all() and page.picture("birds", "b").shape[2] == 3
  assert list(unread) == ["a", "b"] and str(tmp_path / "a.jpg") in unread["a"]
  assert "np.str_" not in unread["a"] and not caplog.records
