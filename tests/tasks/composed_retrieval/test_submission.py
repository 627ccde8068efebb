"""Submissions: those of CIRCO's authors and our own are accepted, broken ones refused in a line."""

import json
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.data import composed
from lafg_jax.tasks.composed_retrieval import default, protocol, submission
from lafg_jax.utils.errors import UserError

SHARED = Path(__file__).parents[3] / "../shared/data/composed"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/composed")


def real(source, **changes):
  config = default.get_config()
  config.composed.update(source=source, root=str(SHARED / source), missing="annotations", **changes)
  if source == "circo":
    config.composed.gallery_file = str(SHARED / "ldre/circo_gallery_ids.npy")
  return composed.load(config)[0]


@pytest.fixture(scope="module")
def circo_test():
  return real("circo", split="test")


@needs_shared
def test_circos_examples_are_accepted_as_they_are(circo_test, tmp_path):
  path = SHARED / "circo/submission_examples/submission_test.json"
  ranked = submission.read(circo_test, path)
  content = json.loads(path.read_text())
  assert ranked.shape == (800, 50) and circo_test.ids[ranked[7, 3]] == str(content["7"][3])
  # Written again it is the same; ids as texts, which other groups send, are read as numbers.
  [ours] = submission.write(circo_test, ranked, None, tmp_path)
  assert json.loads(ours.read_text()) == content
  as_texts = tmp_path / "texts.json"
  as_texts.write_text(json.dumps({key: [str(x) for x in ids] for key, ids in content.items()}))
  assert np.array_equal(submission.read(circo_test, as_texts), ranked)
  val = real("circo")
  submission.check_file(val, path.with_name("submission_val.json"))
  with pytest.raises(UserError, match="query 220 is missing|'220' is no query") as error:
    submission.check_file(val, path)
  assert str(path) in str(error.value)


@needs_shared
def test_a_submission_of_all_pairs_of_cirr_is_written_and_accepted(tmp_path):
  part = real("cirr", split="test")
  rng = np.random.default_rng(0)
  rows = {name: k for k, name in enumerate(part.ids)}
  ranked = np.stack([
    (order := rng.permutation(len(part.ids))[:51])[order != rows[query.reference]][:50]
    for query in part.queries
  ])  # fmt: skip
  subset = protocol.members(part)
  paths = submission.write(part, ranked, subset[:, ::-1], tmp_path)
  assert [path.name for path in paths] == [
    "submission_recall.json",
    "submission_recall_subset.json",
  ]
  recall, few = (json.loads(path.read_text()) for path in paths)
  assert (recall.pop("version"), recall.pop("metric")) == ("rc2", "recall")
  assert (few.pop("version"), few.pop("metric")) == ("rc2", "recall_subset")
  assert len(recall) == len(few) == 4148 and set(recall) == {query.id for query in part.queries}
  assert {len(x) for x in recall.values()} == {50} and {len(x) for x in few.values()} == {3}
  assert few["12063"] == [part.ids[k] for k in subset[0, :1:-1]]
  assert 3_900_000 < paths[0].stat().st_size < 5_000_000
  assert np.array_equal(submission.read(part, paths[0], "recall"), ranked)
  # With indents the file is too large for the server.
  paths[0].write_text(json.dumps(json.loads(paths[0].read_text()), indent=4))
  with pytest.raises(UserError, match="5,000,000: write it without indents"):
    submission.check_file(part, paths[0], "recall")


@pytest.fixture
def cirr(part_of, query):
  """Two pairs and 60 images; the reference of the first is '0', of the second '1'."""
  queries = [query(7, 0, (2,), range(6)), query(8, 1, (2,), range(6))]
  return part_of(queries, 60, "cirr", name="cirr")


@pytest.fixture
def circo(part_of, query):
  return part_of([query(0, 0), query(1, 3)], 60, "circo", drop=False, name="circo")


def of_cirr(**changes):
  lists = {"7": [str(k) for k in range(1, 51)], "8": [str(k) for k in range(2, 52)]}
  return {"version": "rc2", "metric": "recall"} | lists | changes


def names(first=1, count=50, extra=()):
  return [str(k) for k in range(first, first + count - len(extra))] + [str(x) for x in extra]


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"8": None}, "query 8 has a NoneType"),
    ({"7": names(0)}, "query 7 has its reference '0'"),
    ({"7": names(1, 49)}, "query 7 has 49 images, not 50"),
    ({"7": names(1, 50, (5,))}, "query 7 has '5' twice"),
    ({"7": names(1, 50, ("3.png",))}, r"'3.png', which is not in the gallery: names have no .png"),
    ({"7": list(range(1, 51))}, "query 7 has 1, which is no name"),
    ({"9": names()}, "'9' is no query"),
    ({"version": "rc1"}, '"version" is \'rc1\', not "rc2"'),
    ({"metric": "recall_subset"}, '"metric" is .recall_subset., not "recall"'),
  ],
)
def test_broken_submissions_to_cirr_are_refused(cirr, tmp_path, changes, said):
  submission.check(cirr, of_cirr(), "recall")
  path = tmp_path / "recall.json"
  path.write_text(json.dumps(of_cirr(**changes)))
  with pytest.raises(UserError, match=said) as error:
    submission.check_file(cirr, path, "recall")
  assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_missing_pair_a_key_of_another_type_and_a_key_twice_are_refused(cirr, tmp_path):
  whole = of_cirr()
  del whole["8"]
  with pytest.raises(UserError, match=r"query 8 is missing \(1 query in all\)"):
    submission.check(cirr, whole, "recall")
  with pytest.raises(UserError, match='key 8 is a int: keys are texts, such as "8"'):
    submission.check(cirr, whole | {8: names(2)}, "recall")
  path = tmp_path / "twice.json"
  path.write_text(json.dumps(of_cirr())[:-1] + ', "8": []}')
  with pytest.raises(UserError, match="query 8 stands there twice"):
    submission.check_file(cirr, path, "recall")
  path.write_text("[1]")
  with pytest.raises(UserError, match="holds no object of queries"):
    submission.check_file(cirr, path, "recall")


def test_a_subset_has_three_names_of_its_members(cirr):
  good = {"version": "rc2", "metric": "recall_subset", "7": ["1", "2", "3"], "8": ["0", "2", "3"]}
  submission.check(cirr, good, "recall_subset")
  for broken, said in (
    (["1", "2"], "query 7 has 2 images, not 3"),
    (["1", "2", "9"], "'9', which is not in its subset"),
    (["1", "2", "0"], "has its reference"),
  ):
    with pytest.raises(UserError, match=said):
      submission.check(cirr, good | {"7": broken}, "recall_subset")


@pytest.mark.parametrize(
  ("broken", "said"),
  [
    (list(range(49)), "query 1 has 49 images, not 50"),
    ([*range(49), 5], "query 1 has '5' twice"),
    ([*range(49), "5"], "query 1 has '5' twice"),
    ([*range(49), 60], "'60', which is not in the gallery"),
    ([*range(49), 5.5], "5.5, which is no whole number"),
    ([*range(2, 51), True], "True, which is no whole number"),
  ],
)
def test_broken_submissions_to_circo_are_refused(circo, broken, said):
  # The reference stays in: CIRCO's server takes it.
  submission.check(circo, {"0": list(range(50)), "1": list(range(50))})
  with pytest.raises(UserError, match=said):
    submission.check(circo, {"0": list(range(50)), "1": broken})


def test_other_benchmarks_take_none_and_a_short_ranking_is_none(
  cirr, circo, part_of, query, tmp_path
):
  part = part_of([query(0, 0)], 60, "fashioniq", drop=False)
  ranked = np.arange(50, dtype=np.int32)[None]
  with pytest.raises(UserError, match="no server that takes submissions"):
    submission.write(part, ranked, None, tmp_path)
  with pytest.raises(ValueError, match="too few"):
    submission.write(circo, np.tile(ranked[:, :49], (2, 1)), None, tmp_path)
  with pytest.raises(UserError, match="'' is no metric of cirr: recall or recall_subset"):
    submission.check(cirr, of_cirr())
  assert not list(tmp_path.iterdir())
