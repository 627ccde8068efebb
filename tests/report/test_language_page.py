"""What the page holds, against loops over the arrays; hostile texts; what inspecting may write."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import cars, manifest, sop, synthetic
from lafg_jax import tasks
from lafg_jax.data import datasets
from lafg_jax.report import language_page
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError


def embedded(text):
  return json.loads(re.search(r'<script [^>]*id="data">(.*?)</script>', text, re.DOTALL)[1])


def cosines_by_loops(prototypes):
  """Cosine of every pair of classes after the mean is taken off, in Python floats."""
  rows, width = prototypes.astype(float).tolist(), prototypes.shape[1]
  mean = [math.fsum(row[d] for row in rows) / len(rows) for d in range(width)]
  centred = [[row[d] - mean[d] for d in range(width)] for row in rows]
  dot = lambda a, b: math.fsum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
  return [[dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for b in centred] for a in centred]


def check_against_arrays(page, arrays):
  """Every class of `page` has the weights, the neighbours and what is shared of prototypes.npz."""
  names = arrays["class_names"].tolist()
  assert [c["name"] for c in page["classes"]] == names
  cosine = cosines_by_loops(arrays["prototypes"])
  attends = [set(row) for row in arrays["topk_indices"].tolist()]
  for i, shown in enumerate(page["classes"]):
    found, weights = zip(*shown["attributes"], strict=True)
    assert list(found) == arrays["topk_indices"][i].tolist()
    np.testing.assert_allclose(weights, arrays["topk_weights"][i], atol=5.1e-5)
    others = sorted((k for k in range(len(names)) if k != i), key=lambda k: -cosine[i][k])
    others = others[: language_page.NUM_NEAREST]
    assert [k for k, _, _ in shown["nearest"]] == others
    for k, value, shared in shown["nearest"]:
      assert value == pytest.approx(cosine[i][k], abs=1e-4)
      assert set(shared) == attends[i] & attends[k] and len(shared) == len(set(shared))
      both = [min(dict(page["classes"][c]["attributes"])[n] for c in (i, k)) for n in shared]
      assert both == sorted(both, reverse=True)
  for n, shown in enumerate(page["attributes"]):
    assert shown["sentences"] == [text for text in arrays["nearest_sentences"][n].tolist() if text]


@pytest.fixture
def config():
  """That of the fixture `inspected`."""
  config = synthetic.get_config("prototypes")
  config.data.num_val_classes, config.language.cache = 8, ""
  return config


def test_the_page_holds_what_the_arrays_hold(inspected, config):
  workdir = inspected
  page = embedded((workdir / "language.html").read_text())
  with np.load(workdir / "prototypes.npz", allow_pickle=False) as npz:
    arrays = dict(npz)
  check_against_arrays(page, arrays)
  said = {}
  for line in (workdir / "descriptions.jsonl").read_text().splitlines():
    record = json.loads(line)
    said.setdefault(record["class"], []).append(record["description"])
  assert {c["name"]: page["words"][c["words"]]["descriptions"] for c in page["classes"]} == said
  assert set(said) == set(datasets.class_splits(config.data)["train"]) and len(said) == 32
  assert page["stats"] == json.loads((workdir / "prototypes_stats.json").read_text())
  assert page["covers_all"] is False and page["encoder"] == "tiny_clip"
  # The attribute that a sentence belongs to is the centre of most cosine.
  with np.load(workdir / "text_features.npz", allow_pickle=False) as npz:
    pairs = zip(npz["described"][npz["sentence_described"]], npz["sentences"], strict=True)
    best = (npz["sentence_features"] @ arrays["vocabulary"].T).argmax(axis=1)
    row_of = {pair: row for row, pair in enumerate(pairs)}
  for words in page["words"]:
    for text, n in zip(words["descriptions"], words["own"], strict=True):
      assert n == best[row_of[words["name"], text]]
  assert [a["size"] for a in page["attributes"]] == [list(best).count(n) for n in range(64)]


def test_inspecting_everything_writes_the_page_alone_and_tells_who_is_not_trained_on(
  inspected, config, tmp_path
):
  workdir = Path(shutil.copytree(inspected, tmp_path / "copy"))
  before = {p.name: files.file_hash(p) for p in workdir.iterdir()}
  page_before = (workdir / "language.html").read_text()
  config.language.inspect_all = True
  tasks.run(config, str(workdir), ["inspect"])
  text = (workdir / "language.html").read_text()
  after = {p.name: files.file_hash(p) for p in workdir.iterdir()}
  assert after.pop("language.html") != before.pop("language.html")
  # Which has the start of each command.
  assert after.pop("run.json") != before.pop("run.json") and after == before
  page = embedded(text)
  split_of = {c["name"]: c["split"] for c in page["classes"]}
  for split, names in datasets.class_splits(config.data).items():
    assert {name for name, found in split_of.items() if found == split} == set(names)
  assert len(split_of) == 100 and page["covers_all"] is True
  # The page of the training classes comes back, though its inputs did not change.
  config.language.inspect_all = False
  tasks.run(config, str(workdir), ["inspect"])
  assert (workdir / "language.html").read_text() == page_before


HOSTILE = (
  '</script><script>document.title="broken"</script>',
  "<!--<script>",
  '"><img src=x onerror="document.title=1">',
  "{{DATA}} {{SCRIPT}} \\u003c & &lt; \u2028 line",
  "__proto__",
  "half \ud800 a \0 character",
)


class Elements(HTMLParser):
  def __init__(self):
    super().__init__()
    self.found = []

  def handle_starttag(self, tag, attributes):
    self.found.append((tag, dict(attributes)))


def hostile_file(folder):
  path = folder / "descriptions.json"
  said = {name: [f"Wing {i} of {name}.", f"{i} {name}"] for i, name in enumerate(HOSTILE)}
  path.write_text(json.dumps(said | {"": ["Of nothing."], "empty": ["  "]}))
  return path


def inspect_file(path, workdir, **language):
  """Any description file, without a data set; the tiny encoder."""
  return inspect(cars.get_config(), path, workdir, **language)


def inspect(config, path, workdir, **language):
  config.language.update(descriptions=str(path), encoder="tiny_clip", inspect_all=True, cache="")
  config.language.update(num_attributes=4, top_k=2, kmeans_restarts=1, **language)
  default.validate(config, ["inspect"])
  tasks.run(config, str(workdir), ["inspect"])
  return (workdir / "language.html").read_text()


def test_a_file_of_hostile_texts_is_shown_as_it_is_without_a_data_set(tmp_path):
  text = inspect_file(hostile_file(tmp_path), tmp_path)
  page = embedded(text)
  assert [c["name"] for c in page["classes"]] == [re.sub("[\ud800\0]", "", n) for n in HOSTILE]
  assert {c["split"] for c in page["classes"]} == {""}
  parser = Elements()
  parser.feed(text)
  tags = [tag for tag, _ in parser.found]
  assert tags.count("script") == 2 and "img" not in tags and "link" not in tags
  assert not any({"src", "onerror"} & attributes.keys() for _, attributes in parser.found)
  assert "http://" not in text and "https://" not in text and "default-src 'none'" in text
  written = sorted(p.name for p in tmp_path.iterdir())
  assert written == ["descriptions.json", "language.html", "run.json"]


def test_images_are_not_asked_for_and_the_page_says_so(tmp_path):
  path = tmp_path / "words.json"
  path.write_text(
    json.dumps({name: [f"It is a {name}.", f"{name} wood"] for name in ("ash", "fir")})
  )
  named = embedded(inspect(sop.get_config(), path, tmp_path, query="name"))
  config = sop.get_config()
  page = embedded(inspect(config, path, tmp_path))
  assert config.language.query == "image" and "not language.query=image" in page.pop("note")
  assert named.pop("note") == "" and page == named


@pytest.mark.parametrize(
  ("data", "splits"),
  [
    ({"manifest": "list.csv"}, {"ash": "train", "fir": "test", "yew": ""}),
    ({"root": "."}, {"ash": "", "fir": "", "yew": ""}),
    ({"manifest": "list.csv", "root": "."}, {"ash": "train", "fir": "test", "yew": ""}),
  ],
)
def test_what_says_where_the_images_are_decides_whether_splits_are_shown(tmp_path, data, splits):
  (tmp_path / "list.csv").write_text("path,class\na.jpg,ash\nf.jpg,fir\n")
  for name in ("a.jpg", "f.jpg"):
    (tmp_path / name).touch()
  (tmp_path / "words.json").write_text(json.dumps({name: [f"a {name}", "wood"] for name in splits}))
  config = manifest.get_config()
  config.data.update({key: str(tmp_path / value) for key, value in data.items()})
  page = embedded(inspect(config, tmp_path / "words.json", tmp_path))
  assert {c["name"]: c["split"] for c in page["classes"]} == splits


def test_a_title_is_text(tmp_path):
  page = embedded(inspect_file(hostile_file(tmp_path), tmp_path)) | {"name": "<b>&"}
  assert "<title>Language base: &lt;b&gt;&amp;</title>" in language_page.document(page)


def test_descriptions_of_nothing_are_one_line(tmp_path):
  path = tmp_path / "none.json"
  path.write_text('{"a": [" "], "": ["words"]}')
  with pytest.raises(UserError, match="language.descriptions describes no class"):
    inspect_file(path, tmp_path)


def test_shipped_descriptions_are_those_of_the_data_set():
  from lafg_jax.language.describers import describe

  config = cars.get_config()
  names = {record["class"] for record in describe.everything(config.language, "cars")}
  assert len(names) == 196 and "Acura RL Sedan 2012" in names


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 5), st.integers(0, 999))
def test_the_plane_is_that_of_scikit_learn(classes, entries, width, seed):
  from sklearn.decomposition import PCA

  rng = np.random.default_rng(seed)
  vectors, vocabulary = rng.normal(size=(classes, width)), rng.normal(size=(entries, width))
  at, attribute_at, shares = language_page.plane(vectors, vocabulary)
  assert at.shape == (classes, 2) and attribute_at.shape == (entries, 2)
  axes = min(2, classes - 1, width)
  if axes:
    pca = PCA(axes).fit(vectors)
    np.testing.assert_allclose(np.abs(at[:, :axes]), np.abs(pca.transform(vectors)), atol=1e-6)
    np.testing.assert_allclose(
      shares["prototypes"][:axes], pca.explained_variance_ratio_, atol=1e-4
    )
    expected = (vocabulary - vocabulary.mean(axis=0)) @ pca.components_.T
    np.testing.assert_allclose(np.abs(attribute_at[:, :axes]), np.abs(expected), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 999))
def test_nearest_rows_are_those_of_loops(classes, width, seed):
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(classes, width)).astype(np.float32)
  indices, cosines = language_page.nearest(vectors, 5)
  assert indices.shape == cosines.shape == (classes, min(5, classes - 1))
  expected = np.array(cosines_by_loops(vectors)) if classes > 1 else np.zeros((1, 1))
  for i, (row, values) in enumerate(zip(indices, cosines, strict=True)):
    others = sorted((k for k in range(classes) if k != i), key=lambda k: -expected[i][k])
    np.testing.assert_allclose(values, expected[i][others[: len(row)]], atol=1e-5)
    np.testing.assert_allclose(expected[i][row], values, atol=1e-5)
    assert i not in row and len(set(row.tolist())) == len(row)


def test_equal_prototypes_have_neighbours_and_a_place():
  indices, cosines = language_page.nearest(np.ones((3, 4), np.float32), 2)
  assert indices.tolist() == [[1, 2], [0, 2], [0, 1]] and not cosines.any()
  at, _, shares = language_page.plane(np.ones((3, 4)), np.ones((2, 4)))
  assert not at.any() and shares["prototypes"] == [0, 0]


def test_what_has_no_list_of_classes_cannot_show_them_all():
  config = cars.get_config()
  config.language.inspect_all, config.language.describer = True, "openai"
  with pytest.raises(UserError, match="inspect_all=True.*descriptions=FILE"):
    default.validate(config, ["inspect"])
  config.language.descriptions = "some.json"
  default.validate(config, ["inspect"])
  config.language.inspect_all = False
  with pytest.raises(UserError, match="data.root=FOLDER"):
    default.validate(config, ["inspect"])
